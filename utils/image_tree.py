"""A tree of class folders, ``<class>/<image>``, decoded once and then read from a cache.

The cache lies in the user's cache folder (``$XDG_CACHE_HOME/privdl``) and is keyed by the content
of the files, so that it can never be stale; a damaged or half-written entry is decoded anew.
"""

import contextlib
import hashlib
import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from utils.cli import UserError
from utils.files import write_atomically

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def load_tree(
    root: Path, image_size: tuple[int, int], classes: tuple[str, ...] | int
) -> tuple[torch.Tensor, torch.Tensor, tuple[str, ...]]:
    """Read every image below ``root``, in the order of class name and file name.

    Args:
        root: the folder of class folders.
        image_size: the ``(H, W)`` that every image must have.
        classes: the class names that must be there, in label order, or how many there must be.

    Returns:
        images, uint8 ``(N, 3, H, W)``; labels, int64 ``(N,)``; class names in label order.

    Raises:
        UserError: naming the class that is missing or empty, or the image that cannot be used.
    """
    try:
        names = tuple(sorted(p.name for p in root.iterdir() if p.is_dir()))
        _check_classes(root, names, classes)
        files = [sorted(p for p in (root / n).iterdir() if _is_image(p)) for n in names]
        for name, members in zip(names, files, strict=True):
            if not members:
                raise UserError(f"{root / name}: class folder without an image")
        paths = [path for members in files for path in members]
        labels = torch.tensor([i for i, members in enumerate(files) for _ in members])
        with ThreadPoolExecutor() as pool:
            contents = list(pool.map(Path.read_bytes, paths))
    except OSError as error:
        raise UserError(f"{error.filename or root}: cannot be read ({error.strerror})") from error

    digest = hashlib.sha256()
    for path, content in zip(paths, contents, strict=True):
        digest.update(f"{path.parent.name}/{path.name}\0{len(content)}\0".encode())
        digest.update(content)
    entry = _cache_folder() / f"{digest.hexdigest()[:32]}.npy"
    shape = (len(paths), 3, *image_size)
    images = _read_entry(entry, shape)
    if images is None:
        images = np.stack([_decode(p, c, image_size) for p, c in zip(paths, contents, strict=True)])
        _write_entry(entry, images)
    return torch.from_numpy(images), labels, names


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _check_classes(root: Path, found: tuple[str, ...], wanted: tuple[str, ...] | int) -> None:
    if isinstance(wanted, int):
        if len(found) != wanted:
            raise UserError(f"{root}: {len(found)} class folders; expected {wanted}")
        return
    for name in wanted:
        if name not in found:
            raise UserError(f"{root}: no class folder {name!r}; expected {', '.join(wanted)}")
    for name in found:
        if name not in wanted:
            raise UserError(f"{root}: unknown class folder {name!r}; expected {', '.join(wanted)}")


def _decode(path: Path, content: bytes, image_size: tuple[int, int]) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: not a readable image ({error})") from error
    height, width = image_size
    if pixels.shape[:2] != image_size:
        raise UserError(
            f"{path}: {pixels.shape[1]}x{pixels.shape[0]} pixels; expected {width}x{height}"
        )
    return pixels.transpose(2, 0, 1)  # (H, W, 3) -> (3, H, W)


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "privdl"


def _read_entry(entry: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    try:
        images = np.load(entry, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return images if images.shape == shape and images.dtype == np.uint8 else None


def _write_entry(entry: Path, images: np.ndarray) -> None:
    """Best effort: without room for a cache the next start decodes again."""
    with contextlib.suppress(OSError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(entry, lambda file: np.save(file, images))
