"""Per-image keys: every image under its own permutation, named by a public nonce. Not in the paper.

One permutation for all images leaks through their statistics: neighbouring pixels are correlated in
every picture, so that enough scrambled pictures betray which positions are neighbours. Here image
``n`` is scrambled under the permutation derived from the secret and its nonce, and no two images
share one.

The machine that runs the network rekeys a batch: one gather takes every image from its own key
to the secret's fixed image key, that of ``ImageScrambler(image_size, secret=secret)``. A network
keyed for that scrambler, layers' keys included, then runs unchanged and gives the same logits bit
for bit, since a gather rounds nothing.

With ``values=True`` not pixels but single values (of ``C*H*W``) change places, and a random half of
them is inverted (``255 - v``), which also takes the colours apart that scrambled pixels keep.
"""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from operators.blocks import block_permutation, count_blocks
from operators.key import SecretKey, require_distinct
from operators.offset import Size, pair
from operators.scrambler import ImageScrambler


class PerImageScrambler:
    """Scrambles each image of a batch under its own key.

    Convention: ``s[n, :, p] = x[n, :, k_n[p]]`` on flat row-major positions with
    ``k_n = secret.permutation(H*W, index=0, nonce=nonces[n])``. With ``values``, the image is one
    row of ``C*H*W`` values and ``s[n, p] = x[n, k_n[p]]``, then inverted where bit ``p`` of
    ``secret.bits(C*H*W, nonces[n])`` is set. With ``block``, ``k_n`` is the block key that the
    secret gives under the nonce (``operators.key``).

    Shape: images ``(N, C, H, W)`` and ``N`` nonces -> ``(N, C, H, W)``; uint8 with ``values``.

    Args:
        image_size: ``H`` of a square image, or ``(H, W)``, in pixels.
        secret: the 256-bit key.
        values: scramble and invert single values instead of moving whole pixels.
        block: side in pixels of blocks that move as a whole, turned and mirrored; None for pixels.

    Raises:
        ValueError: images of another size, a number of nonces that is not ``N``, a nonce that
            repeats when scrambling, with ``values`` another dtype than uint8, a block that does not
            divide the size, or both ``values`` and a block.

    Example:
        >>> scrambler = PerImageScrambler(32, SecretKey(bytes(32)))
        >>> images, nonces = torch.rand(2, 3, 32, 32), [b"a", b"b"]
        >>> torch.equal(scrambler.unscramble(scrambler.scramble(images, nonces), nonces), images)
        True
    """

    def __init__(
        self, image_size: Size, secret: SecretKey, values: bool = False, block: int | None = None
    ) -> None:
        if values and block is not None:
            raise ValueError(f"give values or a block, got both (block {block!r})")
        self.image_size = pair(image_size, "image_size", minimum=1)
        self.secret = secret
        self.values = values
        self.block = block
        self.fixed = ImageScrambler(self.image_size, secret=secret, block=block)

    def scramble(self, images: Tensor, nonces: Sequence[bytes]) -> Tensor:
        """Scramble each image under the key of its nonce; no two may share one."""
        require_distinct(nonces)
        return self._invert(self._gather(images, self._keys(images, nonces)), nonces)

    def nonces_for(self, images: Tensor) -> list[bytes]:
        """Nonces for ``scramble`` that are the same when the same batch comes again.

        They are a keyed hash of the whole batch, which makes a run repeatable without ever giving
        two different batches a nonce in common. A client takes ``new_nonces`` instead: it has no
        need to repeat anything.
        """
        return self.secret.nonces(len(images), images.cpu().numpy().tobytes())

    def unscramble(self, scrambled: Tensor, nonces: Sequence[bytes]) -> Tensor:
        """Restore each image: the inverse of ``scramble``. Warns of a nonce that repeats."""
        inverse = self.keys_of(scrambled, nonces).argsort(1)
        return self._gather(self._invert(scrambled, nonces), inverse)

    forward, backward = scramble, unscramble  # as ImageScrambler has them

    def rekey(self, scrambled: Tensor, nonces: Sequence[bytes]) -> Tensor:
        """Take each image from its own key to the fixed one, which a keyed network expects.

        Warns of a nonce that repeats.
        """
        inverse, fixed = self.keys_of(scrambled, nonces).argsort(1), self.fixed.key
        if self.values:
            planes = torch.arange(scrambled.shape[1])[:, None] * len(fixed)
            fixed = (planes + fixed).flatten()  # (C*H*W,)
        return self._gather(self._invert(scrambled, nonces), inverse[:, fixed])

    def keys_of(self, scrambled: Tensor, nonces: Sequence[bytes]) -> Tensor:
        """The keys of scrambled images, ``(N, H*W)``, or ``(N, C*H*W)`` with ``values``.

        Images that share a nonce can be restored, with a warning.
        """
        try:
            require_distinct(nonces)
        except ValueError as error:
            warnings.warn(str(error), stacklevel=3)
        return self._keys(scrambled, nonces)

    def _keys(self, images: Tensor, nonces: Sequence[bytes]) -> Tensor:
        """A permutation for each image: ``(N, H*W)``, or ``(N, C*H*W)`` with ``values``."""
        if images.dim() != 4 or tuple(images.shape[2:]) != self.image_size:
            height, width = self.image_size
            raise ValueError(
                f"images must have shape (N, C, {height}, {width}), got {tuple(images.shape)}"
            )
        if len(nonces) != len(images):
            raise ValueError(f"{len(images)} images need as many nonces, got {len(nonces)}")
        if self.values and images.dtype != torch.uint8:
            raise ValueError(f"scrambling single values needs uint8 images, got {images.dtype}")
        if self.block is not None:
            count = count_blocks(self.image_size, self.block)
            order, symmetry = self.secret.blocks(count, self.block, nonces)
            return block_permutation(self.image_size, self.block, order, symmetry)
        shape = images.shape[1:] if self.values else images.shape[2:]
        return self.secret.permutations(shape.numel(), nonces)

    def _gather(self, images: Tensor, index: Tensor) -> Tensor:
        rows = images.flatten(1) if self.values else images.flatten(2)  # (N, CHW) or (N, C, HW)
        index = index.to(images.device)
        if not self.values:
            index = index[:, None].expand_as(rows)
        return rows.gather(-1, index).reshape(images.shape)

    def _invert(self, images: Tensor, nonces: Sequence[bytes]) -> Tensor:
        """With ``values``, ``255 - v`` where the image's bit is set; its own inverse."""
        if not self.values:
            return images
        bits = torch.empty(len(nonces), images.shape[1:].numel(), dtype=torch.bool)
        for row, nonce in zip(bits, nonces, strict=True):
            row[:] = self.secret.bits(bits.shape[1], nonce)
        return torch.where(bits.reshape(images.shape).to(images.device), 255 - images, images)
