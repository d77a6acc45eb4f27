"""Logits and accuracy of a network over a whole data set, every image counted exactly once."""

import torch
from torch import nn

from utils.data.datasets import ImageSet
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
) -> torch.Tensor:
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
    training, parts = net.training, []
    net.eval()
    try:
        with (
            torch.inference_mode(),
            autocast(device, amp),
            ProgressBar("test", len(data), quiet=quiet) as bar,
        ):
            for images in data.batches(torch.arange(len(data)).split(batch_size)):
                parts.append(net(preprocess(images.to(device))).float().cpu())
                bar.update(len(images))
    finally:
        net.train(training)
    return torch.cat(parts)


def count_correct(logits: torch.Tensor, labels: torch.Tensor) -> int:
    """How many rows of ``logits`` ``(N, num_classes)`` have their maximum at the label ``(N,)``."""
    return int((logits.argmax(1) == labels).sum())
