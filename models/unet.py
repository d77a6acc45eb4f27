"""A U-Net for segmentation, small enough to train on a CPU.

Five resolutions, each half of the one above: two 3x3 convolutions with batch normalisation at each,
max pooling on the way down; on the way up the deeper map is resized, bilinear, to the size of the
map that it is joined with, so that any size of image will do (180 -> 90 -> 45 -> 23 -> 12).

Architecture: Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation",
MICCAI 2015. Here convolutions are padded, so that the output has the image's size, and half as
large maps are resized and joined with no convolution in between.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (32, 64, 96, 128, 192)  # channels at each resolution


def double_conv(in_channels: int, channels: int) -> nn.Sequential:
    """``(N, in_channels, H, W)`` -> ``(N, channels, H, W)``."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """1,976,779 parameters for 11 classes.

    Shape: input ``(N, 3, H, W)`` of any size of 16x16 or more, output logits
    ``(N, num_classes, H, W)``.

    Args:
        num_classes: channels of the output.

    Example:
        >>> UNet(11)(torch.zeros(2, 3, 45, 60)).shape
        torch.Size([2, 11, 45, 60])
    """

    def __init__(self, num_classes: int = 11) -> None:
        super().__init__()
        self.down = nn.ModuleList(double_conv(a, b) for a, b in pairwise((3, *WIDTHS)))
        self.up = nn.ModuleList(double_conv(a + b, a) for a, b in pairwise(WIDTHS))
        self.classifier = nn.Conv2d(WIDTHS[0], num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for i, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2, ceil_mode=True) if i else x)
            skips.append(x)
        skips.pop()
        for block in reversed(self.up):
            skip = skips.pop()
            x = F.interpolate(x, skip.shape[-2:], mode="bilinear")
            x = block(torch.cat([skip, x], 1))
        return self.classifier(x)
