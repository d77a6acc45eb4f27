"""Data sets as tensors: every image of a split in one uint8 tensor, with labels and class names.

``cifar10`` and ``cifar100`` come from torchvision's files, from a tree of class folders
(``train/<class>/*``, ``test/<class>/*``) or from a download; ``shapes10`` is drawn, not read.
The normalisation constants of the CIFAR sets are those of the published code.
"""

import contextlib
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torchvision.datasets import CIFAR10, CIFAR100, VisionDataset

from utils.data.folder import list_tree, load_tree
from utils.data.shapes import IMAGE_SIZE, SHAPES10_CLASSES, shapes10
from utils.data.stream import ImageFiles, default_workers, fits_in_memory
from utils.runtime.errors import UserError, in_words
from utils.runtime.streams import generator

DEFAULT_DATA_DIR = Path(__file__).resolve().parents[2] / "data"
DOWNLOAD_TIMEOUT = 20  # seconds without an answer


@dataclass(frozen=True)
class DatasetSpec:
    """What is known of a data set before it is loaded.

    ``mean`` and ``std`` are per channel, of pixel values in [0, 1]. ``classes`` are the expected
    class names in label order, or None where the files name them.
    """

    num_classes: int
    image_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    classes: tuple[str, ...] | None = None

    @property
    def mean_pixel(self) -> tuple[int, ...]:
        """The mean of each channel as a value of a picture, 0..255."""
        return tuple(round(255 * value) for value in self.mean)


DATASETS = {
    "cifar10": DatasetSpec(
        num_classes=10,
        image_size=(32, 32),
        mean=(0.49139968, 0.48215827, 0.44653124),
        std=(0.24703233, 0.24348505, 0.26158768),
        classes=(
            *("airplane", "automobile", "bird", "cat", "deer"),
            *("dog", "frog", "horse", "ship", "truck"),
        ),
    ),
    "cifar100": DatasetSpec(
        num_classes=100,
        image_size=(32, 32),
        mean=(0.50707516, 0.48654887, 0.44091784),
        std=(0.26733429, 0.25643846, 0.27615047),
    ),
    "shapes10": DatasetSpec(
        num_classes=10,
        image_size=(IMAGE_SIZE, IMAGE_SIZE),
        mean=(0.5, 0.5, 0.5),
        std=(0.29, 0.29, 0.29),
        classes=SHAPES10_CLASSES,
    ),
}

FOLDER = "folder"  # any tree of class folders; its classes and statistics are read from it
NAMES = (*DATASETS, FOLDER)
STATISTICS_SAMPLE = 10_000  # images

_TORCHVISION = {"cifar10": CIFAR10, "cifar100": CIFAR100}


@dataclass(frozen=True)
class ImageSet:
    """One split in memory.

    Attributes:
        images: uint8, ``(N, 3, H, W)``.
        labels: int64, ``(N,)``.
        classes: class names in label order.
    """

    images: torch.Tensor
    labels: torch.Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, parts: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Yield the images uint8 ``(n, 3, H, W)`` of each set of indices, where they lie."""
        for part in parts:
            yield self.images[part.to(self.images.device)]

    def subset(self, index: torch.Tensor) -> "ImageSet":
        """The images at ``index``: a mask ``(N,)`` or places ``(M,)``."""
        return replace(self, images=self.images[index], labels=self.labels[index])

    def to(self, device: torch.device) -> "ImageSet":
        """The same with the images on ``device``, where they take less than half of its memory."""
        room = torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else torch.inf
        return replace(self, images=self.images.to(device)) if self.images.nbytes <= room else self


def load_train(
    name: str,
    data_dir: Path | None = None,
    image_size: tuple[int, int] | None = None,
    workers: int | None = None,
) -> tuple[ImageSet | ImageFiles, DatasetSpec]:
    """Load the training split of a data set, and what is known of the data set.

    Args:
        name: one of ``NAMES``.
        data_dir: as for ``load_split``.
        image_size: of ``folder`` only: the ``(H, W)`` to crop and resize its images to.
        workers: of ``folder`` only: stream the images with so many processes; None streams only
            what does not fit into memory.

    Raises:
        UserError: as ``load_split``.
    """
    if name != FOLDER:
        return load_split(name, "train", data_dir), DATASETS[name]
    data = _from_folder("train", data_dir, image_size, None, workers)
    mean, std = statistics(data)
    return data, DatasetSpec(len(data.classes), image_size, mean, std, data.classes)


def load_split(
    name: str,
    split: str,
    data_dir: Path | None = None,
    spec: DatasetSpec | None = None,
    workers: int | None = None,
) -> ImageSet | ImageFiles:
    """Load one split of a data set.

    Args:
        name: one of ``NAMES``.
        split: ``train`` or ``test``; a folder without ``test/`` is tested on its ``val/``.
        data_dir: the folder that holds the data set: torchvision's files, a tree of class folders,
            or a folder of the data set's name with either. None means ``data/`` in the repository,
            into which a missing CIFAR set is downloaded.
        spec: of ``folder`` only: what its training split said of it.
        workers: as for ``load_train``.

    Raises:
        UserError: if there is no such data set in ``data_dir``, or it cannot be read or downloaded.
    """
    if name == FOLDER:
        return _from_folder(split, data_dir, spec.image_size, spec.classes, workers)
    spec = DATASETS[name]
    if name == "shapes10":
        if data_dir is not None:
            raise UserError(f"-data_dir {data_dir}: shapes10 is built in; leave -data_dir out")
        return ImageSet(*shapes10(split), SHAPES10_CLASSES)
    for folder in places(name, data_dir):
        if (folder / _TORCHVISION[name].base_folder).is_dir():
            return _from_torchvision(name, split, folder, download=False)
        if (folder / split).is_dir():
            tree = list_tree(folder / split, spec.classes or spec.num_classes)
            return ImageSet(load_tree(tree, spec.image_size), tree.labels, tree.classes)
    if data_dir is not None:
        raise UserError(
            f"-data_dir {data_dir}: no {name} there; expected {_TORCHVISION[name].base_folder}/ "
            f"or {split}/<class>/<image>"
        )
    return _from_torchvision(name, split, DEFAULT_DATA_DIR, download=True)


def _from_folder(
    split: str,
    data_dir: Path | None,
    image_size: tuple[int, int],
    classes: tuple[str, ...] | None,
    workers: int | None,
) -> ImageSet | ImageFiles:
    if data_dir is None:
        raise UserError(
            "-dataset folder needs -data_dir DIR with train/<class>/ and test/<class>/ or "
            "val/<class>/"
        )
    if split == "test" and not (data_dir / "test").is_dir():
        split = "val" if (data_dir / "val").is_dir() else "test"  # as ImageNet calls it
    if not (data_dir / split).is_dir():
        raise UserError(
            f"-data_dir {data_dir}: no folder {split}/; expected {split}/<class>/<image>"
        )
    tree = list_tree(data_dir / split, classes)
    if workers is not None or not fits_in_memory(len(tree.paths), image_size):
        return ImageFiles(tree, image_size, default_workers() if workers is None else workers)
    return ImageSet(load_tree(tree, image_size, resize=True), tree.labels, tree.classes)


def statistics(data: ImageSet | ImageFiles) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of pixel values in [0, 1].

    Of all images, or of ``STATISTICS_SAMPLE`` evenly spaced ones where there are more.
    """
    count = min(len(data), STATISTICS_SAMPLE)
    chosen = torch.arange(count) * len(data) // count
    return channel_statistics(data.batches(chosen.split(100)))


def channel_statistics(
    batches: Iterable[torch.Tensor],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, of 1, of images uint8 ``(n, 3, H, W)``."""
    sums, squares, pixels = torch.zeros(3).double(), torch.zeros(3).double(), 0
    for images in batches:
        values = images.double() / 255
        sums += values.sum((0, 2, 3))
        squares += values.square().sum((0, 2, 3))
        pixels += values[:, 0].numel()
    mean = sums / pixels
    std = (squares / pixels - mean.square()).clamp(min=1e-6).sqrt()  # a blank set divides by 1e-3
    return tuple(mean.tolist()), tuple(std.tolist())


def places(name: str, data_dir: Path | None) -> tuple[Path, ...]:
    """Where a data set may lie: ``data_dir``, or ``data/``, or a folder of its name in it.

    Raises:
        UserError: if there is no folder ``data_dir``.
    """
    root = DEFAULT_DATA_DIR if data_dir is None else data_dir
    if data_dir is not None and not root.is_dir():
        what = "is not a folder" if root.exists() else "no such folder"
        raise UserError(f"-data_dir {root}: {what}")
    return (root, root / name)


def _from_torchvision(name: str, split: str, root: Path, download: bool) -> ImageSet:
    make = partial(_TORCHVISION[name], root, train=split == "train", download=download)
    files = open_files(name, make, root, download, "shapes10")
    images = torch.from_numpy(np.ascontiguousarray(files.data.transpose(0, 3, 1, 2)))
    return ImageSet(images, torch.tensor(files.targets), tuple(files.classes))


def open_files(
    name: str, make: Callable[[], VisionDataset], root: Path, download: bool, built_in: str
) -> VisionDataset:
    """What ``make`` returns, torchvision's data set ``name`` in the folder ``root``.

    Args:
        download: whether ``make`` downloads.
        built_in: the data set to recommend where that fails.

    Raises:
        UserError: if it cannot be read or downloaded.
    """
    made = download and not root.exists()
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        return make()
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        if made:
            with contextlib.suppress(OSError):  # torchvision makes it before it downloads anything
                root.rmdir()
        reason = "cannot be downloaded" if download else f"cannot be read from {root}"
        raise UserError(
            f"{name} {reason} ({in_words(error)}); give a folder that holds it with -data_dir, "
            f"or use the built-in -dataset {built_in}"
        ) from error
    finally:
        socket.setdefaulttimeout(patience)


def split_train_validation(
    data: ImageSet | ImageFiles, fraction: float, seed: int
) -> tuple[ImageSet | ImageFiles, ImageSet | ImageFiles]:
    """Split a training set into a training and a validation part, stratified by class.

    Args:
        data: the training set, ``N`` images.
        fraction: of each class, for validation, in (0, 1); at least one image per class.
        seed: of the split.

    Returns:
        The training split and the validation split.

    Raises:
        UserError: naming a class with a single image.
    """
    shuffle = generator("hold out", seed)
    chosen = torch.zeros(len(data), dtype=torch.bool)
    for label in range(len(data.classes)):
        members = (data.labels == label).nonzero().flatten()
        if len(members) < 2:
            raise UserError(
                f"class {data.classes[label]!r} has {len(members)} image; "
                "at least 2 are needed for a validation split"
            )
        taken = torch.randperm(len(members), generator=shuffle)
        chosen[members[taken[: min(len(members) - 1, max(1, round(fraction * len(members))))]]] = (
            True
        )
    return data.subset(~chosen), data.subset(chosen)
