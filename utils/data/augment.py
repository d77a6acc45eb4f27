"""From uint8 images to the network's input, a batch at a time, on the device that holds them.

Everything random about an epoch (the order of the images and each one's crop, flip, rotation and
cutout) is drawn at its start, each from a stream of its own that depends on (seed, epoch) alone. A
run that is resumed in the middle of an epoch, or divided among processes, therefore sees the very
same batches.

The order of the steps is the paper's (section 2): the camera sees an augmented picture, scrambles
it, and the network normalises what it receives.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from utils.runtime.streams import generator

FLIPS = ("off", "random", "alternate")


@dataclass(frozen=True)
class Augmentation:
    """What is varied about an image from epoch to epoch.

    Attributes:
        crop: zero padding on each side before the crop, in pixels.
        flip: one of ``FLIPS``: mirror none, a random half, or each image in every other epoch.
        rotation: largest angle, in degrees.
        cutout: side of a blanked square, in pixels, which may reach over the border (DeVries and
            Taylor, "Improved regularization of convolutional neural networks with cutout", 2017).
    """

    crop: int = 4
    flip: str = "random"
    rotation: float = 0.0
    cutout: int = 0


@dataclass(frozen=True)
class EpochPlan:
    """What happens to the N images of one epoch; all fields are ``(N,)``, ``colour`` ``(N, 3)``.

    Attributes:
        order: index of the image that comes first, second, ...
        shift_y, shift_x: where the crop starts in the padded image, in pixels, 0..2*crop.
        flip: whether it is mirrored left to right.
        angle: rotation in degrees, counter-clockwise.
        cutout_y, cutout_x: centre of the blanked square, as a fraction of the image, 0..1.
        zoom: how far the scale is from the smallest to the largest, 0..1.
        place_y, place_x: where a crop is between the borders of its image, 0..1.
        colour: how far brightness, contrast and saturation are from the least to the most, 0..1.
    """

    order: torch.Tensor
    shift_y: torch.Tensor
    shift_x: torch.Tensor
    flip: torch.Tensor
    angle: torch.Tensor
    cutout_y: torch.Tensor
    cutout_x: torch.Tensor
    zoom: torch.Tensor
    place_y: torch.Tensor
    place_x: torch.Tensor
    colour: torch.Tensor

    def part(self, selection: slice) -> "EpochPlan":
        """The plan of the images at these places in the order."""
        return EpochPlan(**{name: field[selection] for name, field in vars(self).items()})


def plan_epoch(count: int, how: Augmentation, seed: int, epoch: int) -> EpochPlan:
    """Draw the plan of one epoch over ``count`` images from ``(seed, epoch)``.

    Under ``flip="alternate"`` which images are mirrored in epoch 0 depends on the seed alone, and
    each is mirrored in every other epoch, so that two epochs show both sides of every image.
    """
    order = torch.randperm(count, generator=generator("order", seed, epoch))
    shifts = torch.randint(2 * how.crop + 1, (2, count), generator=generator("crop", seed, epoch))
    if how.flip == "alternate":
        first = torch.rand(count, generator=generator("alternate flip", seed)) < 0.5
        flip = first[order] ^ (epoch % 2 == 1)
    else:
        chance = 0.0 if how.flip == "off" else 0.5
        flip = torch.rand(count, generator=generator("flip", seed, epoch)) < chance
    angle = torch.rand(count, generator=generator("rotation", seed, epoch))
    angle = (2 * angle - 1) * how.rotation
    centre = torch.rand(2, count, generator=generator("cutout", seed, epoch))
    zoom = torch.rand(count, generator=generator("zoom", seed, epoch))
    place = torch.rand(2, count, generator=generator("place", seed, epoch))
    colour = torch.rand(count, 3, generator=generator("colour", seed, epoch))
    return EpochPlan(order, *shifts, flip, angle, *centre, zoom, *place, colour)


def augment(images: torch.Tensor, plan: EpochPlan, how: Augmentation) -> torch.Tensor:
    """Crop with zero padding, flip, rotate and blank a square of each image, by its own parameters.

    Args:
        images: uint8 ``(N, C, H, W)``.
        plan: the plan of these N images, on the images' device or on the CPU.
        how: the crop's padding and the square's side; the rest was settled by the plan.

    Returns:
        uint8 ``(N, C, H, W)``. Rotation takes the nearest pixel and fills with 0, as
        ``torchvision.transforms.RandomRotation`` does by default.
    """
    n, _, height, width = images.shape
    device = images.device
    rows = torch.arange(height, device=device) + plan.shift_y.to(device)[:, None]  # (N, H)
    columns = torch.arange(width, device=device).expand(n, width)
    columns = torch.where(plan.flip.to(device)[:, None], columns.flip(1), columns)
    columns = columns + plan.shift_x.to(device)[:, None]  # (N, W)
    padded = F.pad(images, 4 * (how.crop,)).permute(0, 2, 3, 1)  # (N, H+2c, W+2c, C)
    index = torch.arange(n, device=device)[:, None, None]
    cropped = padded[index, rows[:, :, None], columns[:, None, :]]  # (N, H, W, C)
    cropped = cropped.permute(0, 3, 1, 2)
    if bool(plan.angle.any()):
        cropped = _rotate(cropped, plan.angle.to(device))
    return _cut_out(cropped, plan, how.cutout) if how.cutout else cropped


def _cut_out(images: torch.Tensor, plan: EpochPlan, side: int) -> torch.Tensor:
    def inside(centre: torch.Tensor, length: int) -> torch.Tensor:
        start = (centre.to(images.device) * length).long() - side // 2
        places = torch.arange(length, device=images.device) - start[:, None]
        return (places >= 0) & (places < side)  # (N, length)

    height, width = images.shape[-2:]
    hole = inside(plan.cutout_y, height)[:, :, None] & inside(plan.cutout_x, width)[:, None, :]
    return images.masked_fill(hole[:, None], 0)


def _rotate(images: torch.Tensor, degrees: torch.Tensor) -> torch.Tensor:
    height, width = images.shape[-2:]
    cos, sin = torch.cos(torch.deg2rad(degrees)), torch.sin(torch.deg2rad(degrees))
    zero = torch.zeros_like(cos)
    # rows of the 2x3 matrices from output (x, y) to input (x, y) in [-1, 1]; (N, 2, 3)
    theta = torch.stack(
        [
            torch.stack([cos, -sin * (height / width), zero], 1),
            torch.stack([sin * (width / height), cos, zero], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, mode="nearest", align_corners=False).to(images.dtype)


def shrink(inputs: torch.Tensor, side: int) -> torch.Tensor:
    """Average over areas: ``(N, C, H, W)`` -> ``(N, C, side, side)``."""
    return F.interpolate(inputs, (side, side), mode="area")


class Preprocess(nn.Module):
    """uint8 images to network input: scramble if asked, scale to [0, 1], normalise per channel.

    Shape: ``(N, 3, H, W)`` uint8 to ``(N, 3, H, W)`` float32.

    Args:
        mean, std: per-channel statistics of pixel values in [0, 1].
        scramble: maps uint8 ``(N, 3, H, W)`` to the same shape, or None for plain images.
        channels_last: memory format of the result.
    """

    def __init__(
        self,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        scramble: Callable[[torch.Tensor], torch.Tensor] | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.register_buffer("scale", 1 / (255 * torch.tensor(std).view(3, 1, 1)), persistent=False)
        self.register_buffer(
            "shift", -torch.tensor(mean).view(3, 1, 1) / torch.tensor(std).view(3, 1, 1), False
        )
        self.scramble = scramble
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.scramble is not None:
            images = self.scramble(images)
        pixels = images.float().contiguous(memory_format=self.memory_format)
        return torch.addcmul(self.shift, pixels, self.scale)
