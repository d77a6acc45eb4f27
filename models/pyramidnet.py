"""PyramidNet with ShakeDrop for 32x32 images: the classifier of ELE and EtC (paper, table 2).

Basic blocks of normalise, convolve, normalise, rectify, convolve, normalise. Each is ``alpha / L``
channels wider than the one before it; its shortcut is the identity with channels of zeros, after
average pooling where the map shrinks. ShakeDrop disturbs the branches, the later the more often.

As in the code of Madono et al. (``models.adaptation``), the first convolution has a bias, and batch
normalisation without a rectifier follows it; no other convolution has one.

Sources: Han et al., "Deep Pyramidal Residual Networks", CVPR 2017; Yamada et al., "ShakeDrop
Regularization for Deep Residual Learning", IEEE Access 2019.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ShakeDrop(nn.Module):
    """Scale a residual branch at random in training, and by what is expected in evaluation.

    In training one gate a batch is shut with probability ``p``. Open, the branch passes. Shut, each
    sample is scaled by its own number, uniform in (-1, 1) forward and another, uniform in (0, 1),
    backward. In evaluation everything is scaled by ``1 - p``.

    Shape: ``(N, C, H, W)`` -> the same.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x * (1 - self.p)
        options = {"dtype": x.dtype, "device": x.device}
        shut = torch.rand((), **options) < self.p
        sample = (x.shape[0], 1, 1, 1)
        forth = torch.where(shut, 2 * torch.rand(sample, **options) - 1, 1.0)
        back = torch.where(shut, torch.rand(sample, **options), 1.0)
        return (
            x * back + (x * (forth - back)).detach()
        )  # the value of one, the gradient of the other

    def extra_repr(self) -> str:
        return f"p={self.p:g}"


class PyramidBlock(nn.Module):
    """``shortcut(x)``, padded with channels of zeros, plus the branch.

    Shape: ``(N, C, H, W)`` -> ``(N, channels, H / stride, W / stride)``.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, drop: float) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
            ShakeDrop(drop),
        )
        self.shortcut = nn.Identity() if stride == 1 else nn.AvgPool2d(stride)
        self.new_channels = channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + F.pad(self.shortcut(x), (0, 0, 0, 0, 0, self.new_channels))


class PyramidNet(nn.Module):
    """A PyramidNet; 28,485,493 parameters by default, 28,487,365 on 16 channels.

    Shape: input ``(N, in_channels, 32, 32)``, output logits ``(N, num_classes)``.

    Args:
        num_classes: length of the logits.
        in_channels: of the input.
        depth: ``6n + 2``, for ``n`` blocks in each of three stages.
        alpha: channels that are added over all blocks to the first 16.
        drop: probability that ShakeDrop disturbs the last block; it rises linearly to that.

    Raises:
        ValueError: the depth is not ``6n + 2``.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        depth: int = 110,
        alpha: int = 270,
        drop: float = 0.5,
    ) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth must be 6n + 2, 8 at least, got {depth}")
        in_stage = depth // 6
        count = 3 * in_stage
        widths = [16 + math.ceil(alpha * i / count) for i in range(count + 1)]
        self.stem = nn.Conv2d(in_channels, 16, 3, padding=1)
        self.stem_bn = nn.BatchNorm2d(16)
        blocks = []
        for i in range(count):
            stride = 2 if i in (in_stage, 2 * in_stage) else 1
            blocks.append(PyramidBlock(widths[i], widths[i + 1], stride, drop * (i + 1) / count))
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(widths[-1])
        self.pool = nn.AvgPool2d(8)
        self.fc = nn.Linear(widths[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem_bn(self.stem(x)))
        x = self.pool(torch.relu(self.bn(x)))  # (N, C, 8, 8) -> (N, C, 1, 1)
        return self.fc(torch.flatten(x, 1))
