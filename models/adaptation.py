"""Adaptation networks: what stands before a classifier of block-scrambled images and learns to undo
the cipher (the rows ELE and EtC of the paper's table 2).

Every 4x4 block goes through a sub-network of its own, a linear map whose largest singular value is
held at 1, normalisation and a leaky rectifier; a matrix over the blocks, free to become a
permutation, mixes them; the 256 numbers of a block become 4x4 pixels of 16 channels. The published
code runs 64 small convolutions one after the other; here one product computes them all.

For LE, whose blocks stay in place under one key, one sub-network serves all blocks, without matrix.

Sources: Madono et al., "Block-wise scrambled image recognition using adaptation network", AAAI
workshops 2020; for LE, Tanaka, "Learnable image encryption", ICCE-TW 2018.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import register_parametrization

CHANNELS = 16  # of the adapted image
L_U_WEIGHT, L_S_WEIGHT = 0.001, 0.1


class SpectralNorms(nn.Module):
    """A stack of matrices, each divided by its largest singular value, as a parametrization.

    ``torch.nn.utils.parametrizations.spectral_norm`` for many matrices at once: one step of the
    power method a training step, on vectors that are kept between steps.

    Shape: ``(B, m, n)`` -> the same.
    """

    def __init__(self, weight: Tensor, start: int = 15) -> None:
        super().__init__()
        count, rows, columns = weight.shape
        self.register_buffer("u", F.normalize(weight.new_empty(count, rows).normal_(), dim=1))
        self.register_buffer("v", F.normalize(weight.new_empty(count, columns).normal_(), dim=1))
        self._power_method(weight, start)

    @torch.no_grad()
    def _power_method(self, weight: Tensor, steps: int) -> None:
        for _ in range(steps):
            self.u = F.normalize(torch.einsum("bmn,bn->bm", weight, self.v), dim=1)
            self.v = F.normalize(torch.einsum("bmn,bm->bn", weight, self.u), dim=1)

    def forward(self, weight: Tensor) -> Tensor:
        if self.training:
            self._power_method(weight, 1)
        largest = torch.einsum("bm,bmn,bn->b", self.u, weight, self.v)
        return weight / largest[:, None, None]


class BlockAdaptation(nn.Module):
    """A sub-network for each block and a matrix over the blocks; 823,296 parameters by default.

    Shape: ``(N, 3, image_size, image_size)`` -> ``(N, 16, image_size, image_size)``.

    Args:
        image_size: side of the images in pixels, a multiple of ``block``.
        block: side of a block in pixels.
    """

    def __init__(self, image_size: int = 32, block: int = 4) -> None:
        super().__init__()
        self.image_size, self.block, self.side = image_size, block, image_size // block
        blocks, values, width = self.side**2, 3 * block**2, CHANNELS * block**2
        self.weight = nn.Parameter(torch.empty(blocks, width, values))
        nn.init.normal_(self.weight, 0, (2 / (width * block**2)) ** 0.5)
        register_parametrization(self, "weight", SpectralNorms(self.weight.detach()))
        self.bn = nn.BatchNorm1d(blocks * width)
        self.matrix = nn.Linear(blocks, blocks, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        side, block = self.side, self.block
        blocks = x.reshape(-1, 3, side, block, side, block).permute(0, 2, 4, 1, 3, 5)
        blocks = blocks.reshape(-1, side * side, 3 * block * block)  # (N, B, 3*n*n)
        x = torch.einsum("nbi,boi->nbo", blocks, self.weight)  # (N, B, 16*n*n)
        x = F.leaky_relu(self.bn(x.flatten(1)), 0.2).unflatten(1, (side * side, -1))
        x = self.matrix(x.transpose(1, 2))  # (N, 16*n*n, B)
        return F.pixel_shuffle(x.unflatten(2, (side, side)), block)

    def penalty(self, adapted: Tensor) -> Tensor:
        """What the loss adds: 0.001 for a matrix unlike a permutation, 0.1 for a rough picture.

        The first sums, over rows and columns of the matrix, the 1-norm less the 2-norm, divided by
        the number of entries. The second is that of the published code: squared differences of
        neighbours in the first three of the channels, over all but the last row and column, divided
        by ``(H - 1) * W * 16`` and by the number of images.
        """
        matrix = self.matrix.weight
        norms = [matrix.norm(1, axis) - matrix.norm(2, axis) for axis in (0, 1)]
        unlike = (norms[0].sum() + norms[1].sum()) / matrix.numel()
        pixels = adapted[:, :3]
        corner = pixels[..., :-1, :-1]
        rough = (corner - pixels[..., 1:, :-1]).square() + (corner - pixels[..., :-1, 1:]).square()
        images, channels, height, width = adapted.shape
        rough = rough.sum() / ((height - 1) * width * channels) / images
        return L_U_WEIGHT * unlike + L_S_WEIGHT * rough


class SharedAdaptation(nn.Module):
    """LE's: one sub-network for all blocks, which stay in place; 12,800 parameters by default.

    Normalises over the batch and all blocks, where the published code, in training, normalises each
    block over the batch alone.

    Shape: ``(N, 3, H, W)`` -> ``(N, 16, H, W)``.
    """

    def __init__(self, block: int = 4) -> None:
        super().__init__()
        width = CHANNELS * block**2
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, block, block, bias=False),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(0.1),
            nn.PixelShuffle(block),
        )
        nn.init.kaiming_normal_(self.layers[0].weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def penalty(self, adapted: Tensor) -> Tensor:
        """Nothing."""
        return adapted.new_zeros(())


class AdaptedNetwork(nn.Module):
    """A classifier behind an adaptation network.

    Shape: as the adaptation's input -> logits.

    Args:
        adaptation: makes the network that makes 16 channels of three.
        classifier: makes the one that takes them, from ``num_classes`` and ``in_channels``.
        num_classes: length of the logits.
    """

    def __init__(
        self,
        adaptation: Callable[[], nn.Module],
        classifier: Callable[..., nn.Module],
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        self.adaptation = adaptation()
        self.classifier = classifier(num_classes=num_classes, in_channels=CHANNELS)
        self._penalty: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        adapted = self.adaptation(x)
        if self.training:
            self._penalty = self.adaptation.penalty(adapted)
        return self.classifier(adapted)

    def take_penalty(self) -> Tensor:
        """What the last pass in training adds to the mean loss, a scalar; it is given once."""
        penalty, self._penalty = self._penalty, None
        return penalty
