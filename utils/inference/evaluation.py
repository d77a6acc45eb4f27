"""What a network says about a whole data set, every image counted exactly once."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from utils.data.datasets import ImageSet
from utils.data.masks import MaskSet
from utils.data.stream import ImageFiles
from utils.runtime.device import autocast
from utils.runtime.progress import ProgressBar


def all_logits(
    net: nn.Module,
    preprocess: nn.Module,
    data: ImageSet | ImageFiles,
    batch_size: int,
    device: torch.device,
    amp: bool = False,
    quiet: bool = False,
) -> Tensor:
    """The float32 logits of a whole data set, ``(N, num_classes)``, on the CPU.

    The network is put into evaluation mode and back into the mode it was in.

    Args:
        net: maps ``(n, 3, H, W)`` to logits.
        preprocess: maps uint8 images on ``device`` to the network's input.
        data: the images, N of them; the last batch may be smaller.
        batch_size: images a batch.
        device: where the network is.
        amp: run under bfloat16 autocast.
        quiet: show no progress.
    """

    def logits(images: Tensor) -> Tensor:
        return net(preprocess(images)).float()

    return _over(net, logits, data, batch_size, device, amp, quiet)


def all_labels(
    net: nn.Module,
    preprocess: nn.Module,
    data: MaskSet,
    batch_size: int,
    device: torch.device,
    amp: bool = False,
    quiet: bool = False,
    restore: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """The label maps of a whole data set, uint8 ``(N, H, W)``, on the CPU.

    Args:
        net: maps ``(n, 3, H, W)`` to logits ``(n, num_classes, H, W)``.
        preprocess, data, batch_size, device, amp, quiet: as for ``all_logits``.
        restore: puts label maps in order that a network returns scrambled: a function of the maps
            ``(n, H, W)`` and of the uint8 images ``(n, 3, H, W)`` they belong to.
    """

    def labels(images: Tensor) -> Tensor:
        maps = net(preprocess(images)).argmax(1).to(torch.uint8)
        return maps if restore is None else restore(maps, images)

    return _over(net, labels, data, batch_size, device, amp, quiet)


def _over(
    net: nn.Module,
    answer: Callable[[Tensor], Tensor],
    data: ImageSet | ImageFiles | MaskSet,
    batch_size: int,
    device: torch.device,
    amp: bool,
    quiet: bool,
) -> Tensor:
    """What ``answer`` makes of the images of a data set, batch by batch, on the CPU."""
    training, parts = net.training, []
    net.eval()
    try:
        with (
            torch.inference_mode(),
            autocast(device, amp),
            ProgressBar("test", len(data), quiet=quiet) as bar,
        ):
            for images in data.batches(torch.arange(len(data)).split(batch_size)):
                parts.append(answer(images.to(device)).cpu())
                bar.update(len(images))
    finally:
        net.train(training)
    return torch.cat(parts)


def count_correct(logits: Tensor, labels: Tensor) -> int:
    """How many rows of ``logits`` ``(N, num_classes)`` have their maximum at the label ``(N,)``."""
    return int((logits.argmax(1) == labels).sum())
