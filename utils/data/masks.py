"""Pictures with a label for every pixel, and how pictures of any size are brought to one size.

The rule of sizes: a picture keeps its aspect. Where it does not fit into ``(H, W)`` it is shrunk
until it does, bilinear with antialiasing, its mask by the nearest pixel; it is never enlarged. It
lies in the upper left corner; what is left at the right and at the bottom is filled with the mean
pixel of the data set, and its labels are ignored. A prediction goes the same way back: the filling
is cut off, and the rest is resized by the nearest pixel.

Convention: sizes are (height, width); labels are class numbers, ``IGNORED`` counts nowhere.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from utils.data.datasets import ImageSet
from utils.io.pictures import to_tensor

IGNORED = 255


@dataclass(frozen=True)
class Fit:
    """How one picture was brought to the network's size.

    Attributes:
        size: ``(h, w)`` of the picture itself.
        inner: its size within ``(H, W)``, from the upper left corner on.
    """

    size: tuple[int, int]
    inner: tuple[int, int]

    @classmethod
    def into(cls, size: tuple[int, int], image_size: tuple[int, int]) -> "Fit":
        """The fit of a picture of ``size`` ``(h, w)`` into ``image_size`` ``(H, W)``."""
        shrink = min(1.0, *(out / own for out, own in zip(image_size, size, strict=True)))
        return cls(size, tuple(max(1, round(own * shrink)) for own in size))

    def picture(self, image: Image.Image, image_size: tuple[int, int], fill: tuple) -> torch.Tensor:
        """An RGB image of ``size`` as uint8 ``(3, H, W)``, filled with the pixel ``fill``."""
        canvas = Image.new("RGB", image_size[::-1], fill)
        canvas.paste(image.resize(self.inner[::-1], Image.Resampling.BILINEAR))
        return to_tensor(canvas)

    def mask(self, labels: np.ndarray, image_size: tuple[int, int]) -> torch.Tensor:
        """Labels uint8 ``(h, w)`` at the network's size: uint8 ``(H, W)``."""
        canvas = Image.new("L", image_size[::-1], IGNORED)
        canvas.paste(Image.fromarray(labels).resize(self.inner[::-1], Image.Resampling.NEAREST))
        return torch.from_numpy(np.array(canvas))

    def restore(self, labels: torch.Tensor) -> torch.Tensor:
        """A label map ``(H, W)``, of any integer type, at the picture's own size: ``(h, w)``."""
        inner = labels[: self.inner[0], : self.inner[1]]
        if self.inner == self.size:
            return inner
        resized = F.interpolate(inner[None, None].to(torch.uint8), self.size, mode="nearest-exact")
        return resized[0, 0].to(labels.dtype)


@dataclass(frozen=True)
class MaskSet(ImageSet):
    """One split in memory, with a label for every pixel.

    Attributes:
        labels: uint8, ``(N, H, W)``; ``IGNORED`` where there is none.
        truth: each picture's labels at its own size, uint8 ``(h, w)``.
        fits: how each picture was brought to ``(H, W)``; ``fits[i].restore`` brings a prediction
            ``(H, W)`` to the size of ``truth[i]``.
    """

    truth: tuple[torch.Tensor, ...]
    fits: tuple[Fit, ...]

    def subset(self, index: torch.Tensor) -> "MaskSet":
        places = torch.arange(len(self))[index].tolist()
        truth, fits = (tuple(values[i] for i in places) for values in (self.truth, self.fits))
        return replace(super().subset(index), truth=truth, fits=fits)
