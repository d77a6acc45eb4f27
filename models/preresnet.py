"""Pre-activation ResNets for 32x32 images, PreResNet-110 among them (paper, section 4).

The network of the well-known CIFAR implementations, whose depth is ``6n + 2``: a 3x3 stem of 16
channels, three stages of ``n`` blocks with 16, 32 and 64 channels, batch normalisation, the mean
over the 8x8 map, a linear layer. Each block normalises and activates before it convolves; where its
shape changes, the shortcut is a 1x1 convolution without normalisation. No convolution has a bias.

The depth counts two layers a block, as basic blocks have them. With bottleneck blocks (three
layers, four times the channels) the network that is known as PreResNet-110, and whose 1.70 million
parameters the paper reports, really has 164 layers. ``basic`` gives the one with 110.

Architecture: He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016.
"""

import torch
from torch import Tensor, nn

from models.stochastic_depth import ResidualBlock

DEPTHS = (20, 32, 44, 56, 110)


class Block(ResidualBlock):
    """``x + f(x)`` with ``f`` a chain of normalise, activate, convolve.

    Shape: ``(N, C, H, W)`` -> ``(N, channels, H / stride, W / stride)``.

    Args:
        in_channels: ``C``.
        convolutions: ``(channels, kernel size, stride)`` of each.
    """

    def __init__(self, in_channels: int, convolutions: list[tuple[int, int, int]]) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.length = len(convolutions)
        channels = in_channels
        for i, (width, kernel, stride) in enumerate(convolutions, start=1):
            conv = nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False)
            self.add_module(f"bn{i}", nn.BatchNorm2d(channels))
            self.add_module(f"conv{i}", conv)
            channels = width
        stride = max(stride for _, _, stride in convolutions)
        same = stride == 1 and channels == in_channels
        self.shortcut = None if same else nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def branch(self, x: Tensor) -> Tensor:
        for i in range(1, self.length + 1):
            x = self.relu(getattr(self, f"bn{i}")(x))
            x = getattr(self, f"conv{i}")(x)
        return x


class PreResNet(nn.Module):
    """A pre-activation ResNet; 1,703,258 parameters at depth 110, 1,730,522 with basic blocks.

    Shape: input ``(N, 3, H, W)``, 32x32 as published, output logits ``(N, num_classes)``.

    Args:
        depth: ``6n + 2``, for ``n`` blocks in each stage.
        num_classes: length of the logits.
        basic: two 3x3 convolutions in a block, in place of a bottleneck.
        in_channels: of the input.

    Raises:
        ValueError: the depth is not ``6n + 2``.

    Example:
        >>> PreResNet(20)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, depth: int, num_classes: int = 10, basic: bool = False, in_channels: int = 3
    ) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth must be 6n + 2, 8 at least, got {depth}")
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        channels = 16
        for stage, width in enumerate((16, 32, 64), start=1):
            blocks = []
            for i in range(depth // 6):
                stride = 2 if stage > 1 and i == 0 else 1
                bottleneck = [(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)]
                chain = [(width, 3, stride), (width, 3, 1)] if basic else bottleneck
                blocks.append(Block(channels, chain))
                channels = chain[-1][0]
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.bn = nn.BatchNorm2d(channels)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        x = self.pool(torch.relu(self.bn(x)))  # (N, C, H/4, W/4) -> (N, C, 1, 1)
        return self.fc(torch.flatten(x, 1))
