"""Augmentation of pictures together with their masks, a batch at a time.

Scale, crop, flip and rotation are one sampling at the same points of both, bilinear in the picture
and the nearest pixel in the mask. What lies outside of a picture gets the picture's mean colour;
its labels are ignored. The random numbers are those of the epoch's plan (``utils.data.augment``).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.data.augment import EpochPlan
from utils.data.masks import IGNORED

GREY = (0.299, 0.587, 0.114)  # luma of R, G, B (ITU-R BT.601)


@dataclass(frozen=True)
class PairAugmentation:
    """What is varied about a picture and its mask, beside what the plan settles: flip and rotation.

    Attributes:
        scale: the least and the largest factor of the size, even by its logarithm.
        crop_size: ``(h, w)`` of the crop, or None for the size of the pictures, which a keyed
            network needs: then a smaller picture is padded and a larger one cropped to it.
        jitter: largest departure of the factors of brightness, contrast and saturation from 1.
    """

    scale: tuple[float, float] = (0.5, 2.0)
    crop_size: tuple[int, int] | None = None
    jitter: float = 0.0


def augment_pair(
    images: Tensor, labels: Tensor, plan: EpochPlan, how: PairAugmentation
) -> tuple[Tensor, Tensor]:
    """Vary each picture, and its mask with it, by its own parameters.

    Args:
        images: uint8 ``(N, 3, H, W)``.
        labels: uint8 ``(N, H, W)``, on the same device.
        plan: the plan of these N pictures, on their device or on the CPU.
        how: the rest: a ``PairAugmentation``, or a recipe with its attributes.

    Returns:
        uint8 ``(N, 3, h, w)`` and uint8 ``(N, h, w)``.
    """
    grid = _sampling_grid(tuple(images.shape[2:]), plan, how, images.device)
    pictures = images.float()
    middle = pictures.mean((2, 3), keepdim=True)  # sampling gives 0 outside
    pictures = F.grid_sample(pictures - middle, grid, mode="bilinear", align_corners=False) + middle
    if how.jitter:
        pictures = jitter(pictures, 1 + how.jitter * (2 * plan.colour.to(images.device) - 1))
    labelled = (labels.float() - IGNORED)[:, None]
    masks = F.grid_sample(labelled, grid, mode="nearest", align_corners=False)[:, 0] + IGNORED
    return pictures.round().clamp(0, 255).to(torch.uint8), masks.to(torch.uint8)


def _sampling_grid(
    size: tuple[int, int], plan: EpochPlan, how: PairAugmentation, device: torch.device
) -> Tensor:
    """Where each pixel of the result comes from, (x, y) in [-1, 1]: ``(N, h, w, 2)``.

    From the middle of the result, in pixels: mirror, rotate, shrink by the scale, and go to where
    the crop's middle is in the picture.
    """
    low, high = how.scale
    scale = (low * (high / low) ** plan.zoom).to(device)[:, None, None]  # (N, 1, 1)
    angle = torch.deg2rad(plan.angle).to(device)[:, None, None]
    out, middles = how.crop_size or size, []
    for own, length, place in zip(size, out, (plan.place_y, plan.place_x), strict=True):
        start = (place.to(device)[:, None, None] * (scale * own - length)).round()
        middles.append((start + length / 2) / scale - own / 2)
    y, x = ((torch.arange(length, device=device) - (length - 1) / 2) for length in out)
    x = torch.where(plan.flip.to(device)[:, None], -x, x)[:, None, :]  # (N, 1, w)
    y = y[:, None]  # (h, 1)
    from_y = (x * angle.sin() + y * angle.cos()) / scale + middles[0]  # (N, h, w)
    from_x = (x * angle.cos() - y * angle.sin()) / scale + middles[1]
    return torch.stack([from_x * (2 / size[1]), from_y * (2 / size[0])], -1)


def jitter(pictures: Tensor, factors: Tensor) -> Tensor:
    """Brightness, contrast and saturation of float pictures ``(N, 3, H, W)`` times ``(N, 3)``."""
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)  # (N, 1, 1, 1)
    weights = torch.tensor(GREY, device=pictures.device)[:, None, None]
    pictures = pictures * brightness
    middle = (pictures * weights).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    pictures = torch.lerp(middle, pictures, contrast)
    return torch.lerp((pictures * weights).sum(1, keepdim=True), pictures, saturation)
