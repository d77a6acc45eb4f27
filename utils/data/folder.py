"""A tree of class folders, ``<class>/<image>``, decoded once and then read from a cache.

The cache lies in the user's cache folder (``$XDG_CACHE_HOME/privdl``). An entry is keyed by the
content of the files and begins with the SHA-256 of its pixels, so that it can be neither stale nor
damaged unnoticed: such an entry is decoded anew. Entries are written atomically, so that runs that
start together can share them.

Not ``torchvision.datasets.ImageFolder``, which takes hidden folders for classes, knows no expected
classes, and decodes one image at a time and anew in every epoch.
"""

import contextlib
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from utils.io.atomic import write_atomically
from utils.io.pictures import SUFFIXES, decode_image, fit, to_tensor
from utils.runtime.errors import UserError


@dataclass(frozen=True)
class Tree:
    """The files of a tree, in the order of class name and file name.

    Attributes:
        paths: every image, N of them.
        labels: int64 ``(N,)``.
        classes: class names in label order.
    """

    paths: tuple[Path, ...]
    labels: torch.Tensor
    classes: tuple[str, ...]


def list_tree(root: Path, classes: tuple[str, ...] | int | None = None) -> Tree:
    """Find the images below ``root``; files and folders whose name starts with a dot are skipped.

    Args:
        root: the folder of class folders.
        classes: the class names that must be there, in label order, or how many there must be;
            None takes what is there.

    Raises:
        UserError: naming the class that is missing, unknown or empty.
    """
    try:
        names = tuple(sorted(p.name for p in root.iterdir() if p.is_dir() and _is_shown(p)))
        _check_classes(root, names, classes)
        files = [sorted(p for p in (root / n).iterdir() if is_image(p)) for n in names]
    except OSError as error:
        raise UserError(f"{error.filename or root}: cannot be read ({error.strerror})") from error
    for name, members in zip(names, files, strict=True):
        if not members:
            raise UserError(f"{root / name}: class folder without an image ({', '.join(SUFFIXES)})")
    return Tree(
        paths=tuple(path for members in files for path in members),
        labels=torch.tensor([i for i, members in enumerate(files) for _ in members]),
        classes=names,
    )


def load_tree(tree: Tree, image_size: tuple[int, int], resize: bool = False) -> torch.Tensor:
    """Read every image of a tree.

    Args:
        tree: what ``list_tree`` found.
        image_size: ``(H, W)``.
        resize: crop and resize images of another size, which are refused otherwise.

    Returns:
        uint8 ``(N, 3, H, W)``.

    Raises:
        UserError: naming the image that cannot be used.
    """

    def decode(path: Path) -> np.ndarray:
        return decode_file(path, image_size, resize).numpy()

    digest = hashlib.sha256(f"{image_size} {resize}".encode())
    with ThreadPoolExecutor() as pool:
        for path, content in zip(tree.paths, pool.map(_digest, tree.paths), strict=True):
            digest.update(f"{path.parent.name}/{path.name}\0".encode() + content)
        entry = _cache_folder() / f"{digest.hexdigest()[:32]}.pixels"
        shape = (len(tree.paths), 3, *image_size)
        images = _read_entry(entry, shape)
        if images is None:
            images = np.empty(shape, np.uint8)
            for i, pixels in enumerate(pool.map(decode, tree.paths)):
                images[i] = pixels
            _write_entry(entry, images)
    return torch.from_numpy(images)


def decode_file(path: Path, image_size: tuple[int, int], resize: bool) -> torch.Tensor:
    """One image as uint8 ``(3, H, W)``; arguments and errors as for ``load_tree``."""
    image = decode_image(path)
    if resize:
        return fit(image, image_size)
    height, width = image_size
    if image.size != (width, height):
        raise UserError(f"{path}: {image.width}x{image.height} pixels; expected {width}x{height}")
    return to_tensor(image)


def _is_shown(path: Path) -> bool:
    return not path.name.startswith(".")


def is_image(path: Path) -> bool:
    """Whether a file's name is that of an image, and not hidden."""
    return path.suffix.lower() in SUFFIXES and _is_shown(path)


def _check_classes(
    root: Path, found: tuple[str, ...], wanted: tuple[str, ...] | int | None
) -> None:
    if wanted is None:
        if len(found) < 2:
            raise UserError(f"{root}: {len(found)} class folders; expected at least 2")
        return
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


def _digest(path: Path) -> bytes:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "privdl"


def _read_entry(entry: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The pixels of an entry, or None if there is none or it is damaged."""
    try:
        content = np.fromfile(entry, np.uint8)
    except OSError:
        return None
    digest, pixels = content[:32], content[32:]
    if pixels.size != np.prod(shape) or hashlib.sha256(pixels).digest() != digest.tobytes():
        return None
    return pixels.reshape(shape)


def _write_entry(entry: Path, images: np.ndarray) -> None:
    """Best effort: without room for a cache the next start decodes again."""

    def write(file) -> None:
        file.write(hashlib.sha256(images).digest())
        file.write(images)

    with contextlib.suppress(OSError, UserError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(entry, write)
