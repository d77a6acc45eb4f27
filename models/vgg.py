"""VGG16 with batch normalisation for 32x32 images: the paper's classifier (section 3).

Thirteen 3x3 convolutions in five blocks, each block closed by 2x2 max pooling, then a
512-4096-4096-num_classes head with dropout. Parameter names (``conv1``..``conv13``, ``bcn1``..
``bcn13``, ``classifier.0/3/6``) are those of the published implementation: its weights load here.
The keyed twin, ``models.vgg_deformable``, is this very network with other layers.

Architecture: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", ICLR 2015, configuration D.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
CONVOLUTION = partial(nn.Conv2d, kernel_size=3, padding=1)
POOLING = partial(nn.MaxPool2d, kernel_size=2)


class VGG16(nn.Module):
    """VGG16-BN for images of 32x32 pixels; 33,646,666 parameters for ten classes.

    Shape: input ``(N, 3, 32, 32)``, output logits ``(N, num_classes)``.

    Args:
        num_classes: length of the logits.
        convolution: makes a 3x3 convolution, of the numbers of channels that it is given.
        pooling: makes a 2x2 max pooling.

    Example:
        >>> VGG16(num_classes=10)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        num_classes: int = 10,
        convolution: Callable[[int, int], nn.Conv2d] = CONVOLUTION,
        pooling: Callable[[], nn.Module] = POOLING,
    ) -> None:
        super().__init__()
        channels, layer = 3, 0
        for block, widths in enumerate(BLOCKS, start=1):
            for width in widths:
                layer += 1
                self.add_module(f"conv{layer}", convolution(channels, width))
                self.add_module(f"bcn{layer}", nn.BatchNorm2d(width))
                channels = width
            self.add_module(f"pool{block}", pooling())
        self.classifier = nn.Sequential(
            nn.Linear(channels, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, num_classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layer = 0
        for block, widths in enumerate(BLOCKS, start=1):
            for _ in widths:
                layer += 1
                x = getattr(self, f"conv{layer}")(x)
                x = torch.relu(getattr(self, f"bcn{layer}")(x))
            x = getattr(self, f"pool{block}")(x)  # (N, C, H, W) -> (N, C, H/2, W/2)
        return self.classifier(torch.flatten(x, 1))  # (N, 512, 1, 1) -> (N, num_classes)
