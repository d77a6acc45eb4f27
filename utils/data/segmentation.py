"""Data sets for segmentation: every picture of a split in memory, with a class for each pixel.

``voc2012`` comes from torchvision's files or a download, ``camvid`` and ``folder`` from
``<split>/images/<name>`` with ``<split>/masks/<name>.png``, one byte or a palette's place a pixel;
``shapes_seg`` is drawn, not read. A ``folder`` names its classes in ``classes.txt``, one a line.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.datasets import VOCSegmentation
from torchvision.transforms.functional import to_pil_image

from utils.data.datasets import (
    DEFAULT_DATA_DIR,
    FOLDER,
    STATISTICS_SAMPLE,
    DatasetSpec,
    channel_statistics,
    open_files,
    places,
)
from utils.data.folder import is_image
from utils.data.masks import IGNORED, Fit, MaskSet
from utils.data.shapes import SEG_SIZE, SHAPES_SEG_CLASSES, shapes_seg
from utils.io.pictures import SUFFIXES, decode_image, decode_indices, to_tensor
from utils.runtime.errors import UserError

MASK_DATASETS = {
    "voc2012": DatasetSpec(
        num_classes=21,
        image_size=(512, 512),  # no picture of it is larger than 500x500
        mean=(0.485, 0.456, 0.406),  # of ImageNet, as usual
        std=(0.229, 0.224, 0.225),
        classes=(
            *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus"),
            *("car", "cat", "chair", "cow", "diningtable", "dog", "horse", "motorbike"),
            *("person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
        ),
    ),
    "camvid": DatasetSpec(
        num_classes=11,
        image_size=(180, 240),
        mean=(0.41364483, 0.42683679, 0.43437042),  # of the 367 training pictures at 240x180
        std=(0.30190297, 0.30625509, 0.30210418),
        classes=(
            *("sky", "building", "pole", "road", "pavement", "tree"),
            *("sign", "fence", "car", "pedestrian", "bicyclist"),
        ),
    ),
    "shapes_seg": DatasetSpec(
        num_classes=11,
        image_size=SEG_SIZE,
        mean=(0.5, 0.5, 0.5),
        std=(0.29, 0.29, 0.29),
        classes=SHAPES_SEG_CLASSES,
    ),
}
MASK_NAMES = (*MASK_DATASETS, FOLDER)
_UNLABELLED = {"camvid": 11}  # what the files call ignored, beside IGNORED
_VOC_FOLDER = Path("VOCdevkit", "VOC2012")

Pair = tuple[Path, Path]  # the files of a picture and its mask
Decoded = tuple[Image.Image, np.ndarray]  # a picture and its labels, uint8 (h, w)


def mask_spec(
    name: str, data_dir: Path | None = None, image_size: tuple[int, int] | None = None
) -> DatasetSpec:
    """What is known of a data set; a ``folder``'s classes and statistics are read from it.

    Args:
        name: one of ``MASK_NAMES``.
        data_dir: as for ``load_masks``.
        image_size: ``(H, W)`` to bring the pictures to; None for the data set's own, which a
            ``folder`` has not.

    Raises:
        UserError: as ``load_masks``.
    """
    if name != FOLDER:
        spec = MASK_DATASETS[name]
        return spec if image_size is None else replace(spec, image_size=image_size)
    pairs = _list_pairs(name, "train", data_dir)
    classes = _read_classes(data_dir / "classes.txt")
    mean, std = _statistics(pairs)
    return DatasetSpec(len(classes), image_size, mean, std, classes)


def load_masks(
    name: str,
    split: str,
    data_dir: Path | None = None,
    image_size: tuple[int, int] | None = None,
    spec: DatasetSpec | None = None,
) -> MaskSet:
    """Load one split of a data set, every picture brought to one size as ``utils.data.masks`` says.

    Args:
        name: one of ``MASK_NAMES``.
        split: ``train``, ``val`` or ``test``; of ``voc2012``, ``trainval`` too, and its ``test``
            is its ``val``; a folder without ``test/`` is tested on its ``val/``.
        data_dir: the folder that holds the data set, or a folder of the data set's name with it.
            None means ``data/`` in the repository, into which a missing ``voc2012`` is downloaded.
        image_size: as for ``mask_spec``.
        spec: what ``mask_spec`` said; None asks it.

    Raises:
        UserError: if there is no such data set in ``data_dir``, if it cannot be downloaded, or
            naming the file that cannot be used: a missing mask, one of another size than its
            picture, a label that is no class; or if no pixel of the split has a label.
    """
    spec = mask_spec(name, data_dir, image_size) if spec is None else spec
    if name == "shapes_seg":
        if data_dir is not None:
            raise UserError(f"-data_dir {data_dir}: shapes_seg is built in; leave -data_dir out")
        images, labels = shapes_seg(split)
        drawn = zip(map(to_pil_image, images), labels.numpy(), strict=True)
        return _fitted(drawn, len(labels), spec)
    pairs = _list_pairs(name, split, data_dir)
    decode = partial(_decode, num_classes=spec.num_classes, unlabelled=_UNLABELLED.get(name))
    with ThreadPoolExecutor() as pool:
        data = _fitted(pool.map(decode, pairs), len(pairs), spec)
    if all((mask == IGNORED).all() for mask in data.truth):
        raise UserError(f"{pairs[0][1].parent}: no pixel has a label in the {split} masks there")
    return data


def _fitted(decoded: Iterable[Decoded], count: int, spec: DatasetSpec) -> MaskSet:
    """``count`` pictures, brought to one size."""
    height, width = spec.image_size
    images = torch.empty(count, 3, height, width, dtype=torch.uint8)
    labels = torch.empty(count, height, width, dtype=torch.uint8)
    truth, fits = [], []
    for i, (image, mask) in enumerate(decoded):
        fit = Fit.into(mask.shape, spec.image_size)
        images[i] = fit.picture(image, spec.image_size, spec.mean_pixel)
        labels[i] = fit.mask(mask, spec.image_size)
        truth.append(torch.from_numpy(mask))
        fits.append(fit)
    return MaskSet(images, labels, spec.classes, tuple(truth), tuple(fits))


def has_validation(name: str, data_dir: Path | None = None) -> bool:
    """Whether a data set has images to choose by that are neither trained nor tested on."""
    if name == FOLDER:
        return all((data_dir / split / "images").is_dir() for split in ("val", "test"))
    return name != "voc2012"  # whose val is tested on


def _decode(pair: Pair, num_classes: int, unlabelled: int | None) -> Decoded:
    image, labels = decode_image(pair[0]), decode_indices(pair[1])
    if labels.shape != (image.height, image.width):
        raise UserError(
            f"{pair[1]}: {labels.shape[1]}x{labels.shape[0]} pixels; its picture has "
            f"{image.width}x{image.height}"
        )
    if unlabelled is not None:
        labels[labels == unlabelled] = IGNORED
    unknown = labels[(labels >= num_classes) & (labels != IGNORED)]
    if unknown.size:
        raise UserError(
            f"{pair[1]}: label {unknown[0]}; expected 0 to {num_classes - 1}, or {IGNORED} where "
            "there is none"
        )
    return image, labels


def _list_pairs(name: str, split: str, data_dir: Path | None) -> list[Pair]:
    """The pictures of a split with their masks, in the order of their names."""
    if name == "voc2012":
        return _voc_pairs("val" if split == "test" else split, data_dir)
    if name == FOLDER and data_dir is None:
        raise UserError(
            "-dataset folder needs -data_dir DIR with classes.txt, train/images/, train/masks/ "
            "and the same in test/ or val/"
        )
    for folder in places(name, data_dir):
        if name == FOLDER and split == "test" and not (folder / "test").is_dir():
            split = "val" if (folder / "val").is_dir() else "test"
        if (folder / split / "images").is_dir():
            return _tree_pairs(folder / split)
    if data_dir is None:
        raise UserError(
            f"{name}: no {split}/images/ in {DEFAULT_DATA_DIR}; give the folder that holds it with "
            "-data_dir"
        )
    raise UserError(
        f"-data_dir {data_dir}: no folder {split}/images/; expected {split}/images/<name> and "
        f"{split}/masks/<name>.png"
    )


def _tree_pairs(root: Path) -> list[Pair]:
    try:
        images = sorted(p for p in (root / "images").iterdir() if is_image(p))
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error
    if not images:
        raise UserError(f"{root / 'images'}: no image there ({', '.join(SUFFIXES)})")
    return [(path, root / "masks" / f"{path.stem}.png") for path in images]


def _voc_pairs(image_set: str, data_dir: Path | None) -> list[Pair]:
    folders = places("voc2012", data_dir)
    found = [folder for folder in folders if (folder / _VOC_FOLDER).is_dir()]
    if data_dir is not None and not found:
        raise UserError(f"-data_dir {data_dir}: no voc2012 there; expected {_VOC_FOLDER}/")
    root = found[0] if found else folders[0]
    make = partial(VOCSegmentation, root, image_set=image_set, download=not found)
    files = open_files("voc2012", make, root, not found, "shapes_seg")
    return [tuple(map(Path, pair)) for pair in zip(files.images, files.masks, strict=True)]


def _read_classes(path: Path) -> tuple[str, ...]:
    try:
        names = tuple(line.strip() for line in path.read_text().splitlines() if line.strip())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text; expected the name of a class a line") from error
    if not 2 <= len(names) <= IGNORED:
        raise UserError(f"{path}: {len(names)} classes; expected 2 to {IGNORED}, one a line")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{path}: class {twice!r} twice; expected names that differ")
    return names


def _statistics(pairs: list[Pair]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, of all pictures or evenly spaced ones of them."""
    count = min(len(pairs), STATISTICS_SAMPLE)
    with ThreadPoolExecutor() as pool:
        paths = [pairs[len(pairs) * i // count][0] for i in range(count)]
        return channel_statistics(to_tensor(image)[None] for image in pool.map(decode_image, paths))
