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

import torch
from torch import nn

from operators.blocks import count_blocks
from operators.cipher_keys import DRAWN, Draws, parse_cipher, side_of
from operators.key import SecretKey
from operators.offset import Size, pair
from operators.permutation import KeyStream, digest
from operators.scrambler import ImageScrambler
from operators.value_map import CHANNELS, ValueMap, whole_image

_IN_BLOCK = " among the pixels and channels of a block, not whole pixels"
_NO_PIXELS = {
    "etc_published": "it shows a channel twice and loses another in most blocks, which is no "
    "permutation of pixels; etc:4 is the cipher as it was described",
    **dict.fromkeys(("le", "ele"), "it moves halves of bytes" + _IN_BLOCK),
    "privconv": "it moves values" + _IN_BLOCK,
}


class BlockCipher(ValueMap):
    """One of the ciphers above on uint8 pictures of one size, under one key.

    Args:
        cipher: ``etc:N``, ``etc_published``, ``le``, ``ele`` or ``privconv``.
        image_size: ``H`` of a square image, or ``(H, W)``, in pixels.
        seed: ``0..2**32 - 1``. EtC and the order of ELE's blocks are drawn from it as in Madono's
            code (where it is 30). The keys of LE and ELE were published as files, PrivConv's not at
            all: here ``RandomState(seed)`` draws ``permutation(96)`` for one block after the other
            (LE has the first), or ``permutation(B)``, then ``permutation(3*N*N)``.
        secret: a 256-bit key in place of a seed; ``Draws`` says how it is used. With neither, a
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
        if name not in DRAWN:
            raise ValueError(f"{cipher} is a key of ImageScrambler, which makes it")
        block = side_of(name, block, image_size)
        blocks = count_blocks(image_size, block)
        if seed is None and secret is None:
            secret = SecretKey.generate()
        KeyStream(seed, secret)  # for its checks
        order, inside, mask = DRAWN[name](Draws(blocks, block, seed, secret, name))
        super().__init__(image_size, *whole_image(image_size, block, order, inside, mask))
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
    if name in DRAWN:
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
