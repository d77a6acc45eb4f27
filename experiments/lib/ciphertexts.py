"""The schemes on which the attacks and tests of the literature are tried, as functions of a key.

A key is 32 bytes; the seed of the published scheme is its first four, little-endian. A scheme with
a key of each image derives it from these bytes and the image's nonce, which is the image's number.
"""

from collections.abc import Callable

import torch

from experiments.lib.schemes import nonces
from operators import BlockCipher, ImageScrambler, PerImageScrambler, SecretKey, make_scrambler
from operators.offset import Size

# uint8 images (N, 3, H, W), and the number of the first one, to what the server receives of them
Scramble = Callable[[torch.Tensor, int], torch.Tensor]
Scheme = Callable[[Size, bytes], Scramble]

KEY = bytes(range(32))  # under attack, and given to no attack


def _published(size: Size, key: bytes) -> Scramble:
    scrambler = ImageScrambler(size, seed=int.from_bytes(key[:4], "little"))
    return lambda images, first: scrambler(images)


def _fixed(cipher: str) -> Scheme:
    def keyed(size: Size, key: bytes) -> Scramble:
        scrambler = make_scrambler(cipher, size, secret=SecretKey(key))
        return lambda images, first: scrambler(images)

    return keyed


def _per_image(values: bool = False, block: int | None = None) -> Scheme:
    def keyed(size: Size, key: bytes) -> Scramble:
        scrambler = PerImageScrambler(size, SecretKey(key), values, block)
        return lambda images, first: scrambler.scramble(images, nonces(len(images), first))

    return keyed


def _cipher_per_image(cipher: str) -> Scheme:
    """A block cipher under the key that is derived under each image's nonce."""

    def keyed(size: Size, key: bytes) -> Scramble:
        secret = SecretKey(key)

        def scramble(images: torch.Tensor, first: int) -> torch.Tensor:
            keys = [secret.derive(nonce.hex()) for nonce in nonces(len(images), first)]
            ciphers = [BlockCipher(cipher, size, secret=key) for key in keys]
            return torch.stack([c(image) for c, image in zip(ciphers, images, strict=True)])

        return scramble

    return keyed


SCHEMES: dict[str, Scheme] = {
    "published": _published,
    "256-bit fixed": _fixed("pixels"),
    "per-image": _per_image(),
    "per-image values": _per_image(values=True),
    "le": _fixed("le"),
    "ele": _fixed("ele"),
    "blocks:4": _fixed("blocks:4"),
    "etc:4": _fixed("etc:4"),
    "blocks:8": _fixed("blocks:8"),
    "blocks:8 per image": _per_image(block=8),
    "blocks:16": _fixed("blocks:16"),
    "etc:8": _fixed("etc:8"),
    "etc:8 per image": _cipher_per_image("etc:8"),
}
