"""ConvMixer with a learned permutation of its patches: PrivConv's network in the paper's table 2.

Patches are embedded by a strided convolution, as large as the blocks of the cipher
(``operators.block_ciphers``), so that any fixed order of the values in a block is as good as
another. A matrix over the patches, free to become the inverse of the blocks' permutation, mixes
them before the depthwise and pointwise convolutions, which need to know which ones are neighbours.

Inferred: neither the code nor the place and the initial value of the matrix were found. It follows
the embedding and starts as a linear layer does; the count of parameters is the paper's.

Sources: Trockman and Kolter, "Patches Are All You Need?", TMLR 2023; Qi, MaungMaung and Kiya,
"Privacy-preserving image classification using ConvMixer with adaptative permutation matrix and
block-wise scrambled image encryption", J. Imaging 2023, 9(4):85.
"""

from torch import Tensor, nn


class _Mixer(nn.Module):
    """Mix positions by a depthwise convolution, with a shortcut; then channels, without."""

    def __init__(self, width: int, kernel_size: int) -> None:
        super().__init__()
        self.positions = nn.Sequential(
            nn.Conv2d(width, width, kernel_size, padding=kernel_size // 2, groups=width),
            nn.GELU(),
            nn.BatchNorm2d(width),
        )
        self.channels = nn.Sequential(nn.Conv2d(width, width, 1), nn.GELU(), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.channels(self.positions(x) + x)


class ConvMixer(nn.Module):
    """A ConvMixer; 5,345,306 parameters by default, 38,416 of them in the matrix.

    Shape: input ``(N, 3, image_size, image_size)``, output logits ``(N, num_classes)``.

    Args:
        num_classes: length of the logits.
        image_size: side of the images in pixels, a multiple of ``patch``.
        width: channels.
        depth: mixers.
        kernel_size: of the depthwise convolutions, odd.
        patch: side of a patch in pixels.

    Raises:
        ValueError: the patch does not divide the image size.
    """

    def __init__(
        self,
        num_classes: int = 10,
        image_size: int = 224,
        width: int = 512,
        depth: int = 16,
        kernel_size: int = 9,
        patch: int = 16,
    ) -> None:
        super().__init__()
        if image_size % patch:
            raise ValueError(f"patch must divide image_size {image_size}, got {patch}")
        self.embedding = nn.Conv2d(3, width, patch, patch)
        self.matrix = nn.Linear((image_size // patch) ** 2, (image_size // patch) ** 2, bias=False)
        self.start = nn.Sequential(nn.GELU(), nn.BatchNorm2d(width))
        self.mixers = nn.Sequential(*(_Mixer(width, kernel_size) for _ in range(depth)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x)  # (N, width, H / patch, W / patch)
        x = self.matrix(x.flatten(2)).unflatten(2, x.shape[2:])
        x = self.mixers(self.start(x))
        return self.fc(self.pool(x).flatten(1))
