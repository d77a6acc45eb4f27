"""A set of images that stays in its files and is decoded while the network trains.

For folders that do not fit into memory. It takes the place of ``datasets.ImageSet``.
"""

import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch.utils.data import DataLoader, Dataset

from utils.data.folder import Tree, decode_file
from utils.runtime import distributed
from utils.runtime.errors import UserError


@dataclass(frozen=True)
class ImageFiles(Dataset):
    """One split, streamed.

    Attributes:
        tree: the files and their labels.
        image_size: ``(H, W)`` to which they are cropped and resized.
        workers: processes that decode.
    """

    tree: Tree
    image_size: tuple[int, int]
    workers: int

    @property
    def labels(self) -> torch.Tensor:
        """int64 ``(N,)``."""
        return self.tree.labels

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return self.tree.classes

    def __len__(self) -> int:
        return len(self.tree.paths)

    def __getitem__(self, index: int) -> torch.Tensor | str:
        try:
            return decode_file(self.tree.paths[index], self.image_size, resize=True)
        except UserError as error:
            return str(error)  # raised by ``batches``: an error in a worker would lose its type

    def batches(self, parts: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Decode ahead, and yield the images uint8 ``(n, 3, H, W)`` of each set of indices.

        Raises:
            UserError: naming the image that cannot be used.
        """
        loader = DataLoader(
            self,
            batch_sampler=[part.tolist() for part in parts],
            num_workers=self.workers,
            collate_fn=list,
            worker_init_fn=_leave_signals_to_the_parent,
        )
        for images in loader:
            for image in images:
                if isinstance(image, str):
                    raise UserError(image)
            yield torch.stack(images)

    def subset(self, index: torch.Tensor) -> "ImageFiles":
        """The images at ``index``: a mask ``(N,)`` or places ``(M,)``."""
        places = torch.arange(len(self))[index].tolist()
        paths = tuple(self.tree.paths[i] for i in places)
        return replace(self, tree=replace(self.tree, paths=paths, labels=self.labels[index]))

    def to(self, device: torch.device) -> "ImageFiles":
        """Itself: files stay where they are."""
        return self


def default_workers() -> int:
    """One process for each core that the ranks of this machine may use, divided among them."""
    allowed = getattr(os, "sched_getaffinity", None)
    cores = len(allowed(0)) if allowed else os.cpu_count() or 1
    return max(1, cores // distributed.local_world_size())


def fits_in_memory(count: int, image_size: tuple[int, int]) -> bool:
    """Whether ``count`` images, in each rank of this machine, take less than half of its memory."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    needed = distributed.local_world_size() * 3 * count * image_size[0] * image_size[1]
    return needed < memory // 2


def _leave_signals_to_the_parent(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
