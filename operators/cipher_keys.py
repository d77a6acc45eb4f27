"""What each block cipher draws from a seed or a secret, and how many keys it has."""

import math
import random
import re
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from operators.blocks import SYMMETRIES, count_blocks, symmetry_table
from operators.key import SecretKey
from operators.offset import Size, pair
from operators.permutation import log2_factorial
from operators.value_map import CHANNELS

CIPHERS = ("pixels", "blocks:N", "etc:N", "etc_published", "le", "ele", "privconv")
# Output channels by the code of EtC, and what the published code's assignments in place give.
CHANNEL_ORDERS = ((0, 1, 2), (1, 0, 2), (2, 1, 0), (0, 2, 1), (2, 0, 1), (1, 2, 0))
CHANNELS_IN_PLACE = ((0, 1, 2), (1, 1, 2), (2, 1, 2), (0, 2, 2), (2, 2, 2), (1, 2, 1))


def parse_cipher(cipher: str) -> tuple[str, int | None]:
    """The name of a cipher and the side of its blocks, None where the name says it.

    Raises:
        ValueError: it is none of ``CIPHERS``.
    """
    name, colon, side = cipher.partition(":")
    if f"{name}:N" in CIPHERS and re.fullmatch("[1-9][0-9]{0,4}", side):
        return name, int(side)
    if cipher in CIPHERS and not colon:
        return name, None
    raise ValueError(
        f"cipher must be one of {', '.join(CIPHERS)} with N the side of a block in pixels, "
        f"got {cipher!r}"
    )


def key_bits(cipher: str, image_size: Size) -> float:
    """Logarithm to base 2 of the number of keys that a cipher has on images of a size.

    Raises:
        ValueError: an unknown cipher, or a block that does not divide the size.
    """
    image_size = pair(image_size, "image_size", minimum=1)
    name, block = parse_cipher(cipher)
    if name == "pixels":
        return log2_factorial(math.prod(image_size))
    block = side_of(name, block, image_size)
    return _KEY_BITS[name](count_blocks(image_size, block), block)


def side_of(name: str, block: int | None, image_size: tuple[int, int]) -> int:
    """The side of a cipher's blocks in pixels; ``block`` where its name says it."""
    if block is not None:
        return block
    return 16 if name == "privconv" and min(image_size) >= 64 else 4


class Draws:
    """What the ciphers draw, from a seed as published or from a secret.

    From a secret: the cipher's key is derived under its label, ``etc``, ``le``, ``ele`` or
    ``privconv`` with ``:N``. Its permutation number 0 is the order of the blocks. Of EtC, the
    symmetries are its octal digits as in a block key, permutation 1 of the blocks tells which of
    1, 0, 1, 0, ... a block gets, 0 to be inverted, and permutation ``2 + b`` of 3 is the channel
    order of block ``b``. The key inside block ``b`` is permutation ``1 + b``; LE and PrivConv have
    one, number 1, for all blocks.
    """

    def __init__(
        self, blocks: int, block: int, seed: int | None, secret: SecretKey | None, name: str
    ) -> None:
        self.blocks, self.block = blocks, block
        self.values = CHANNELS * block * block
        family = name.removesuffix("_published")
        self.secret = None if secret is None else secret.derive(f"{family}:{block}")
        self.random = random.Random(seed) if secret is None else None
        self.state = np.random.RandomState(seed) if secret is None else None

    def shuffled(self, items: list[int], index: int) -> Tensor:
        """A list in an order of Python's generator, or of a permutation of the secret's."""
        if self.secret is None:
            items = list(items)
            self.random.shuffle(items)
            return torch.tensor(items)
        return torch.tensor(items)[self.secret.permutation(len(items), index)]

    def permutation(self, n: int, index: int) -> Tensor:
        """The next permutation of numpy's generator, or one of the secret's."""
        if self.secret is None:
            return torch.from_numpy(self.state.permutation(n))
        return self.secret.permutation(n, index)

    def turns(self) -> tuple[Tensor, Tensor]:
        """EtC's symmetries and codes of channel orders, int64, each ``(B,)``."""
        if self.secret is not None:
            orders = [self.secret.permutation(3, 2 + b).tolist() for b in range(self.blocks)]
            codes = [CHANNEL_ORDERS.index(tuple(order)) for order in orders]
            return self.secret.octal_digits(self.blocks, b""), torch.tensor(codes)
        symmetries, codes = [], []
        for _ in range(self.blocks):
            rotation, mirror, code = (self.random.randint(0, last) for last in (3, 2, 5))
            # Upside down is half a turn, then left to right.
            quarter_turns = (rotation + 1) + (2 if mirror == 0 else 0)
            symmetries.append(quarter_turns % 4 + (4 if mirror < 2 else 0))
            codes.append(code)
        return torch.tensor(symmetries), torch.tensor(codes)


# Each gives the order of the blocks, and for every block at its new place where its values come
# from and what they are masked with, numbered by row, column, channel; nibbles the low ones first.
_Drawn = tuple[Tensor, Tensor, Tensor]


def _etc(draws: Draws, channel_orders: tuple = CHANNEL_ORDERS) -> _Drawn:
    symmetry, code = draws.turns()
    order = draws.shuffled(range(draws.blocks), 0)
    kept = draws.shuffled(([1, 0] * draws.blocks)[: draws.blocks], 1)
    pixels = symmetry_table(draws.block)[symmetry]  # (B, N*N)
    channels = torch.tensor(channel_orders)[code]  # (B, 3)
    inside = (pixels[:, :, None] * CHANNELS + channels[:, None, :]).flatten(1)
    mask = (255 * (1 - kept)).to(torch.uint8)[:, None].expand(-1, draws.values)
    return order, inside[order], mask[order]


def _nibbles(key: Tensor) -> tuple[Tensor, Tensor]:
    """Tanaka's step: invert some nibbles, reorder all, invert the same places again."""
    inverted = key > key.shape[-1] // 2
    mask = (inverted ^ inverted.gather(-1, key)) * 15
    return key, mask.to(torch.uint8)


def _le(draws: Draws) -> _Drawn:
    inside, mask = _nibbles(draws.permutation(2 * draws.values, 1).expand(draws.blocks, -1))
    return torch.arange(draws.blocks), inside, mask


def _ele(draws: Draws) -> _Drawn:
    keys = [draws.permutation(2 * draws.values, 1 + b) for b in range(draws.blocks)]
    inside, mask = _nibbles(torch.stack(keys))
    order = draws.shuffled(range(draws.blocks), 0)
    return order, inside[order], mask[order]


def _privconv(draws: Draws) -> _Drawn:
    order = draws.permutation(draws.blocks, 0)
    inside = draws.permutation(draws.values, 1).expand(draws.blocks, -1)
    return order, inside, torch.zeros(inside.shape, dtype=torch.uint8)


DRAWN: dict[str, Callable[[Draws], _Drawn]] = {
    "etc": _etc,
    "etc_published": partial(_etc, channel_orders=CHANNELS_IN_PLACE),
    "le": _le,
    "ele": _ele,
    "privconv": _privconv,
}


def _blocks_bits(blocks: int, block: int) -> float:
    return log2_factorial(blocks) + (blocks * math.log2(SYMMETRIES) if block > 1 else 0)


def _etc_bits(blocks: int, block: int) -> float:
    choices = math.log2(math.comb(blocks, blocks // 2))  # of blocks to invert
    return _blocks_bits(blocks, block) + choices + blocks * math.log2(len(CHANNEL_ORDERS))


_KEY_BITS: dict[str, Callable[[int, int], float]] = {
    "blocks": _blocks_bits,
    "etc": _etc_bits,
    "etc_published": _etc_bits,
    "le": lambda blocks, block: log2_factorial(6 * block * block),
    "ele": lambda blocks, block: blocks * log2_factorial(6 * block**2) + log2_factorial(blocks),
    "privconv": lambda blocks, block: log2_factorial(blocks) + log2_factorial(3 * block**2),
}
