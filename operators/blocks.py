"""Images as grids of square blocks: where each value comes from when blocks change places.

Convention: an ``(H, W)`` plane has ``B = H*W / N^2`` blocks of ``N x N`` pixels, numbered
row-major. A block may be turned and mirrored. Its eight symmetries are numbered ``s``: ``s % 4``
quarter turns counter-clockwise, then, from 4 on, mirrored left to right. Output block ``i`` is
block ``order[i]``, turned as ``symmetry[order[i]]`` says.
"""

import torch
from torch import Tensor

SYMMETRIES = 8


def count_blocks(image_size: tuple[int, int], block: int) -> int:
    """How many blocks an image has.

    Raises:
        ValueError: ``block``, a side in pixels, does not divide both sides of the image.
    """
    height, width = image_size
    whole = isinstance(block, int) and not isinstance(block, bool) and block >= 1
    if not whole or height % block or width % block:
        raise ValueError(
            f"block must be a side in pixels that divides the image's {height}x{width}, "
            f"got {block!r}"
        )
    return height // block * (width // block)


def symmetry_table(block: int) -> Tensor:
    """``(8, N*N)``: for each symmetry, the pixel of a block that comes to each place."""
    square = torch.arange(block * block).view(block, block)
    turned = [torch.rot90(square, turns) for turns in range(4)]
    return torch.stack([*turned, *(t.flip(1) for t in turned)]).flatten(1)


def block_permutation(
    image_size: tuple[int, int], block: int, order: Tensor, symmetry: Tensor
) -> Tensor:
    """The key ``k`` with ``s[p] = x[k[p]]`` that moves and turns blocks.

    Shape: ``order`` and ``symmetry`` int64 ``(..., B)``, result ``(..., H*W)``.
    """
    inside = symmetry_table(block)[symmetry.gather(-1, order)]  # (..., B, N*N)
    return block_source(image_size, block, order, inside, channels=1)


def block_source(
    image_size: tuple[int, int], block: int, order: Tensor, inside: Tensor, channels: int
) -> Tensor:
    """Where each value of an image comes from, as an index into its ``C*H*W`` values.

    Args:
        order: int64 ``(..., B)``, the block that comes to each place.
        inside: int64 ``(..., B, N*N*C)``: for each output block and each value in it, which value
            of the block it comes from; both numbered by row, column, channel.
        channels: ``C``.

    Returns:
        int64 ``(..., C*H*W)``.
    """
    height, width = image_size
    pixel, channel = inside // channels, inside % channels
    row = (order // (width // block) * block)[..., None] + pixel // block
    column = (order % (width // block) * block)[..., None] + pixel % block
    source = (channel * height + row) * width + column
    return block_values(image_size, block, source, channels)


def block_values(image_size: tuple[int, int], block: int, values: Tensor, channels: int) -> Tensor:
    """Put together an image from blocks: ``(..., B, N*N*C)`` -> ``(..., C*H*W)``."""
    height, width = image_size
    shape = (height // block, width // block, block, block, channels)
    grid = values.unflatten(-1, shape[2:]).unflatten(-4, shape[:2])  # (..., rows, columns, N, N, C)
    return grid.movedim(-1, -5).transpose(-3, -2).flatten(-5)
