"""A lookup and an exclusive or over the values of pictures, which every block cipher amounts to."""

import torch
from torch import Tensor, nn

from operators.blocks import block_source, block_values

CHANNELS = 3


class ValueMap(nn.Module):
    """``s[p] = x[source[p]] ^ mask[p]`` over the ``C*H*W`` values of each image.

    With twice as many entries as values it works on nibbles: the low ones of all values, then
    the high ones.

    Shape: uint8 ``(..., C, H, W)`` -> the same.

    Args:
        source: int64 ``(C*H*W,)`` or ``(2*C*H*W,)``.
        mask: uint8 of the same length.
    """

    def __init__(self, image_size: tuple[int, int], source: Tensor, mask: Tensor) -> None:
        super().__init__()
        self.image_size = image_size
        self.nibbles = len(source) == 2 * CHANNELS * image_size[0] * image_size[1]
        self.register_buffer("source", source, persistent=False)
        self.register_buffer("mask", mask, persistent=False)
        inverse = torch.argsort(source)
        lossless = torch.equal(source[inverse], torch.arange(len(source)))
        self.register_buffer("inverse", inverse if lossless else None, persistent=False)

    def scramble(self, x: Tensor) -> Tensor:
        """Every value from its source, masked."""
        return self._mapped(x, self.source, self.mask)

    def unscramble(self, s: Tensor) -> Tensor:
        """The inverse of ``scramble``.

        Raises:
            ValueError: the map repeats some values and loses others.
        """
        if self.inverse is None:
            raise ValueError("this cipher loses values, so nothing can restore what it scrambled")
        return self._mapped(s, self.inverse, self.mask[self.inverse])

    forward, backward = scramble, unscramble  # as ImageScrambler has them

    def _mapped(self, x: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        height, width = self.image_size
        if x.dtype != torch.uint8 or tuple(x.shape[-3:]) != (CHANNELS, height, width):
            raise ValueError(
                f"images must be uint8 of shape (..., {CHANNELS}, {height}, {width}) for this "
                f"cipher, got {x.dtype} {tuple(x.shape)}"
            )
        values = x.reshape(-1, CHANNELS * height * width)
        if self.nibbles:
            values = torch.cat([values & 15, values >> 4], 1)
        # not values[:, source], which is five times slower on the CPU
        values = values.gather(1, source.to(x.device).expand(values.shape)) ^ mask.to(x.device)
        if self.nibbles:
            low, high = values.chunk(2, 1)
            values = low | high << 4
        return values.view(x.shape)


def whole_image(
    image_size: tuple[int, int], block: int, order: Tensor, inside: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """``source`` and ``mask`` of a ``ValueMap`` from those of its blocks."""
    values = CHANNELS * block * block
    image = CHANNELS * image_size[0] * image_size[1]
    sources = [
        block_source(image_size, block, order, part % values, CHANNELS)
        + image * block_values(image_size, block, part // values, CHANNELS)  # low or high nibbles
        for part in inside.split(values, 1)
    ]
    masks = [block_values(image_size, block, part, CHANNELS) for part in mask.split(values, 1)]
    return torch.cat(sources), torch.cat(masks)
