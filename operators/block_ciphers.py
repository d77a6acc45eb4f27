"""The block ciphers that the paper compares itself with (its table 2), as one transform.

EtC, block scrambling, PrivConv's cipher, LE and ELE cut an image into square blocks of uint8 values
and move, turn, mirror, invert and reorder what is in them. All of it is one lookup and one
exclusive or: ``s[p] = x[source[p]] ^ mask[p]``, since ``255 - v`` is ``v ^ 255``. LE and ELE do the
same to the two halves of each byte (nibbles, 4 bits).

- ``etc:N``: each block is turned by a multiple of 90 degrees, inverted (every other one), mirrored
  and its channels are reordered; then the blocks change places. (Chuman, Sirichotedumrong and Kiya,
  "Encryption-then-compression systems using grayscale-based image encryption for JPEG images", IEEE
  TIFS 2019; Madono et al., "Block-wise scrambled image recognition using adaptation network", AAAI
  workshops 2020.) ``etc_published`` is Madono's code, blocks of 4: it reorders channels in place,
  so that five of the six orders show one channel twice and lose another for good.
- ``le``: in each 4x4 block, the 48 low nibbles and the 48 high ones change places under one key,
  and some are inverted (Tanaka, "Learnable image encryption", ICCE-TW 2018). ``ele`` (Madono): each
  block under its own key, and the blocks change places.
- ``privconv``: blocks change places, and the values in a block do, in all blocks alike (Qi,
  MaungMaung and Kiya, J. Imaging 2023, 9(4):85). Its side is 16, as there on 224x224 pixels; below
  64 pixels it is 4, on the patches of ``models.convmixer``.

Blocks that change places and turn while their values stay (``blocks:N``) are a permutation of
pixels, a key of ``ImageScrambler(size, block=N)``. EtC is one too, followed by what can be undone
pixel by pixel: ``BlockCipher.pixel_scrambler`` and ``undo_values`` take it apart, so that a keyed
network takes EtC's pictures as it takes its own.
"""

import math
import random
import re
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from operators.blocks import SYMMETRIES, block_source, block_values, count_blocks, symmetry_table
from operators.key import SecretKey
from operators.offset import Size, pair
from operators.permutation import KeyStream, digest, log2_factorial
from operators.scrambler import ImageScrambler

CHANNELS = 3
CIPHERS = ("pixels", "blocks:N", "etc:N", "etc_published", "le", "ele", "privconv")
# Output channels by the code of EtC, and what the published code's assignments in place give.
CHANNEL_ORDERS = ((0, 1, 2), (1, 0, 2), (2, 1, 0), (0, 2, 1), (2, 0, 1), (1, 2, 0))
CHANNELS_IN_PLACE = ((0, 1, 2), (1, 1, 2), (2, 1, 2), (0, 2, 2), (2, 2, 2), (1, 2, 1))


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


class BlockCipher(ValueMap):
    """One of the ciphers above on uint8 pictures of one size, under one key.

    Args:
        cipher: ``etc:N``, ``etc_published``, ``le``, ``ele`` or ``privconv``.
        image_size: ``H`` of a square image, or ``(H, W)``, in pixels.
        seed: ``0..2**32 - 1``. EtC and the order of ELE's blocks are drawn from it as in Madono's
            code (where it is 30). The keys of LE and ELE were published as files, PrivConv's not at
            all: here ``RandomState(seed)`` draws ``permutation(96)`` for one block after the other
            (LE has the first), or ``permutation(B)``, then ``permutation(3*N*N)``.
        secret: a 256-bit key in place of a seed; ``_Draws`` says how it is used. With neither, a
            fresh one is drawn.

    Raises:
        ValueError: an unknown cipher, a block that does not divide the size, a seed out of range,
            or both a seed and a secret.

    Example:
        >>> cipher = BlockCipher("etc:4", 32, seed=30)
        >>> image = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8)
        >>> torch.equal(cipher.unscramble(cipher(image)), image)
        True
    """

    def __init__(
        self,
        cipher: str,
        image_size: Size,
        seed: int | None = None,
        secret: SecretKey | None = None,
    ) -> None:
        image_size = pair(image_size, "image_size", minimum=1)
        name, block = parse_cipher(cipher)
        if name not in _DRAWN:
            raise ValueError(f"{cipher} is a key of ImageScrambler, which makes it")
        block = _side(name, block, image_size)
        blocks = count_blocks(image_size, block)
        if seed is None and secret is None:
            secret = SecretKey.generate()
        KeyStream(seed, secret)  # for its checks
        order, inside, mask = _DRAWN[name](_Draws(blocks, block, seed, secret, name))
        super().__init__(image_size, *_whole_image(image_size, block, order, inside, mask))
        self.cipher, self.block, self._pixels = cipher, block, math.prod(image_size)
        self._seed, self._secret = seed, secret

    @property
    def fingerprint(self) -> str:
        """16 hex digits that identify cipher and key without telling the key; safe to print."""
        if self._secret is not None:
            return self._secret.derive(self.cipher).fingerprint
        height, width = self.image_size
        name = f"PrivDL {self.cipher} {height}x{width}:"
        return digest(name, self.source, self.mask).hex()[:16]

    @property
    def lossless(self) -> bool:
        """Whether ``unscramble`` can restore what was scrambled."""
        return self.inverse is not None

    def pixel_scrambler(self) -> ImageScrambler:
        """The permutation of pixels in this cipher, as the key of a keyed network.

        The layers' keys are those of the same seed or secret without a cipher.

        Raises:
            ValueError: the cipher is no such permutation; says why.
        """
        check_pixels(self.cipher)
        key = self.source.view(CHANNELS, -1)[0] % self._pixels
        return ImageScrambler(self.image_size, self._seed, key.cpu(), self._secret)

    def undo_values(self) -> ValueMap:
        """What makes of a scrambled picture that of ``pixel_scrambler``, pixel by pixel.

        Raises:
            ValueError: as ``pixel_scrambler``.
        """
        check_pixels(self.cipher)
        colours = self.source.view(CHANNELS, -1) // self._pixels  # which channel each value shows
        channel = colours.argsort(0)
        source = channel * self._pixels + torch.arange(self._pixels, device=channel.device)
        mask = self.mask.view(CHANNELS, -1).gather(0, channel)
        return ValueMap(self.image_size, source.flatten(), mask.flatten())

    def extra_repr(self) -> str:
        return f"cipher={self.cipher}, image_size={self.image_size}, fingerprint={self.fingerprint}"


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
    block = _side(name, block, image_size)
    return _KEY_BITS[name](count_blocks(image_size, block), block)


def _side(name: str, block: int | None, image_size: tuple[int, int]) -> int:
    if block is not None:
        return block
    return 16 if name == "privconv" and min(image_size) >= 64 else 4


def check_pixels(cipher: str) -> None:
    """Raise ValueError, which says why, if a keyed network cannot take a cipher's pictures."""
    name, _ = parse_cipher(cipher)
    if name in _NO_PIXELS:
        raise ValueError(f"a keyed network cannot take {cipher} pictures: {_NO_PIXELS[name]}")


def make_scrambler(
    cipher: str, image_size: Size, seed: int | None = None, secret: SecretKey | None = None
) -> ImageScrambler | BlockCipher:
    """What scrambles images as the name of a cipher says, ``ImageScrambler`` where it can.

    Raises:
        ValueError: as the two classes.
    """
    name, block = parse_cipher(cipher)
    if name in _DRAWN:
        return BlockCipher(cipher, image_size, seed, secret)
    return ImageScrambler(image_size, seed, secret=secret, block=block)


def keyed_parts(scrambler: ImageScrambler | BlockCipher) -> tuple[ImageScrambler, nn.Module]:
    """What a keyed network needs to take the pictures of ``scrambler``, exactly.

    Returns:
        The key that it is built with, and what undoes at its input, on uint8 pictures, what the
        cipher did to their values: ``net(undo(scrambler(images)))``.

    Raises:
        ValueError: the cipher is no permutation of pixels; says why.

    Example:
        >>> scrambler = make_scrambler("etc:4", 32, seed=30)
        >>> key, undo = keyed_parts(scrambler)
        >>> images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
        >>> torch.equal(undo(scrambler(images)), key(images))
        True
    """
    if isinstance(scrambler, ImageScrambler):
        return scrambler, nn.Identity()
    return scrambler.pixel_scrambler(), scrambler.undo_values()


class _Draws:
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


def _etc(draws: _Draws, channel_orders: tuple = CHANNEL_ORDERS) -> _Drawn:
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


def _le(draws: _Draws) -> _Drawn:
    inside, mask = _nibbles(draws.permutation(2 * draws.values, 1).expand(draws.blocks, -1))
    return torch.arange(draws.blocks), inside, mask


def _ele(draws: _Draws) -> _Drawn:
    keys = [draws.permutation(2 * draws.values, 1 + b) for b in range(draws.blocks)]
    inside, mask = _nibbles(torch.stack(keys))
    order = draws.shuffled(range(draws.blocks), 0)
    return order, inside[order], mask[order]


def _privconv(draws: _Draws) -> _Drawn:
    order = draws.permutation(draws.blocks, 0)
    inside = draws.permutation(draws.values, 1).expand(draws.blocks, -1)
    return order, inside, torch.zeros(inside.shape, dtype=torch.uint8)


_DRAWN: dict[str, Callable[[_Draws], _Drawn]] = {
    "etc": _etc,
    "etc_published": partial(_etc, channel_orders=CHANNELS_IN_PLACE),
    "le": _le,
    "ele": _ele,
    "privconv": _privconv,
}
_IN_BLOCK = " among the pixels and channels of a block, not whole pixels"
_NO_PIXELS = {
    "etc_published": "it shows a channel twice and loses another in most blocks, which is no "
    "permutation of pixels; etc:4 is the cipher as it was described",
    **dict.fromkeys(("le", "ele"), "it moves halves of bytes" + _IN_BLOCK),
    "privconv": "it moves values" + _IN_BLOCK,
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


def _whole_image(
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
