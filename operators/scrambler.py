"""Keys and image scrambling: the client's half of the scheme (paper, section 3).

A key of an ``(H, W)`` plane is a permutation ``k`` of its ``H*W`` row-major positions. Scrambling
is ``s[p] = x[k[p]]``, the same for every channel; restoring is its inverse. One stream of keys
serves a whole network: the image key is drawn first, then one key per layer output in network
order, exactly as the published implementation draws them, so its seeds mean the same here.

Differs from the published code: planes need not be square, keys come from a private generator
(the global random state of numpy and torch is neither read nor written), without a seed they come
from the operating system's entropy, and a 256-bit secret can take the seed's place.
"""

import copy
import hashlib
import math
import secrets

import numpy as np
import torch
from torch import Tensor, nn

from operators.blocks import SYMMETRIES, block_permutation, count_blocks
from operators.gather import reorder
from operators.key import Key
from operators.offset import Size, check_key, invert, pair

SEED_LIMIT = 2**32


class KeyStream:
    """A deterministic source of permutations.

    Convention: from a seed, each key is ``argsort(rand(n))`` of ``numpy.random.RandomState(seed)``,
    in the order of the calls. This repeats the published keys; it is a reproducible generator,
    not a cryptographic one, and a 32-bit seed can be searched. From a secret, call number ``i``
    (from 0) gives ``secret.permutation(n, index=i)``.

    Args:
        seed: ``0..2**32 - 1``, or None for 128 bits of the operating system's entropy.
        secret: a 256-bit key in place of a seed.

    Raises:
        ValueError: the seed is not a whole number in that range, or both are given.

    Example:
        >>> KeyStream(seed=0).draw(1024)[:4]
        tensor([821, 757, 540, 742])
    """

    def __init__(self, seed: int | None = None, secret: Key | None = None) -> None:
        if secret is not None:
            if seed is not None:
                raise ValueError(f"give a seed or a secret, got both (seed {seed!r})")
        elif seed is None:
            seed = np.frombuffer(secrets.token_bytes(16), dtype=np.uint32)
        else:
            whole = isinstance(seed, (int, np.integer)) and not isinstance(seed, bool)
            if not whole or not 0 <= seed < SEED_LIMIT:
                raise ValueError(
                    f"seed must be a whole number in 0..{SEED_LIMIT - 1}, got {seed!r}"
                )
        self._secret = secret
        self._generator = None if secret is not None else np.random.RandomState(seed)
        self._drawn = 0

    def draw(self, n: int) -> Tensor:
        """The next key: a random permutation of ``0..n-1``, int64, shape ``(n,)``."""
        self._drawn += 1
        if self._secret is not None:
            return self._secret.permutation(n, index=self._drawn - 1)
        return torch.from_numpy(np.argsort(self._generator.rand(n)))

    def draw_blocks(self, count: int, side: int) -> tuple[Tensor, Tensor]:
        """Order and symmetries of ``count`` blocks of ``side`` pixels, int64, each ``(count,)``.

        From a seed, ``argsort(rand(count))`` and ``floor(8 * rand(count))``; from a secret,
        ``secret.blocks``, whatever was drawn before.
        """
        if self._secret is not None:
            order, symmetry = self._secret.blocks(count, side, [b""])
            return order[0], symmetry[0]
        order = torch.from_numpy(np.argsort(self._generator.rand(count)))
        symmetry = np.floor(SYMMETRIES * self._generator.rand(count)).astype(np.int64)
        return order, torch.from_numpy(symmetry)


def log2_factorial(n: int) -> float:
    """How many bits tell one of ``n!`` permutations."""
    return math.lgamma(n + 1) / math.log(2)


class ImageScrambler(nn.Module):
    """Scrambles and restores images with one key, and supplies the keys of a network's layers.

    Convention: ``forward`` computes ``s[..., p] = x[..., key[p]]`` on flat row-major positions,
    ``backward`` the inverse. The key is a non-persistent buffer: it moves with ``.to(device)`` and
    never enters a ``state_dict``.

    Args:
        image_size: ``H`` of a square image, or ``(H, W)``, in pixels.
        seed: seed of the key stream, ``0..2**32 - 1``; None draws it from the system's entropy.
        secret: a 256-bit key that the stream is derived from, in place of a seed.
        key: the image key itself, a permutation of ``0..H*W-1``; it takes the place of the stream's
            first key, and the layer keys still come from the stream.
        block: side in pixels of square blocks that move as a whole, turned and mirrored, in place
            of single pixels; None for pixels. The layer keys are the same as without it. From a
            seed, the block key is what ``KeyStream(seed).draw_blocks`` gives first.

    Raises:
        ValueError: a size below 1, a seed out of range, a key that is no permutation, a block that
            does not divide the size, or a key and a block.

    Example:
        >>> scrambler = ImageScrambler(32, seed=1312)
        >>> image = torch.rand(8, 3, 32, 32)
        >>> torch.equal(scrambler.backward(scrambler(image)), image)
        True
    """

    key: Tensor
    inverse: Tensor

    def __init__(
        self,
        image_size: Size,
        seed: int | None = None,
        key: Tensor | None = None,
        secret: Key | None = None,
        block: int | None = None,
    ) -> None:
        super().__init__()
        self.image_size = pair(image_size, "image_size", minimum=1)
        self.block = block
        self._layer_stream = KeyStream(seed, secret)
        self._secret = secret if key is None else None
        if block is not None:
            if key is not None:
                raise ValueError(f"give a key or a block, got both (block {block!r})")
            count = count_blocks(self.image_size, block)
            order, symmetry = copy.deepcopy(self._layer_stream).draw_blocks(count, block)
            key = block_permutation(self.image_size, block, order, symmetry)
        drawn = self._layer_stream.draw(self.image_size[0] * self.image_size[1])
        key = drawn if key is None else check_key(key, self.image_size)
        self.register_buffer("key", key, persistent=False)
        self.register_buffer("inverse", invert(key), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Scramble ``x`` of shape ``(..., H, W)``, any device and dtype, into a new tensor."""
        return self._reorder(x, self.key, self.inverse)

    def backward(self, s: Tensor) -> Tensor:
        """Restore a scrambled ``s`` of shape ``(..., H, W)``: the inverse of ``forward``."""
        return self._reorder(s, self.inverse, self.key)

    def _reorder(self, x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        if tuple(x.shape[-2:]) != self.image_size:
            height, width = self.image_size
            raise ValueError(
                f"images must have shape (..., {height}, {width}) for this key, "
                f"got {tuple(x.shape)}"
            )
        return reorder(x, index.to(x.device), inverse.to(x.device))

    def layer_keys(self) -> KeyStream:
        """The stream just after the image key; each call starts there again, so that two networks
        built from one scrambler have the same layer keys."""
        return copy.deepcopy(self._layer_stream)

    @property
    def cipher(self) -> str:
        """``pixels``, or ``blocks:N``."""
        return "pixels" if self.block is None else f"blocks:{self.block}"

    @property
    def key_bits(self) -> float:
        """Logarithm to base 2 of the number of keys there are, whatever this one came from."""
        pixels = self.image_size[0] * self.image_size[1]
        if self.block is None:
            return log2_factorial(pixels)
        count = pixels // self.block**2
        turns = math.log2(SYMMETRIES) if self.block > 1 else 0.0
        return log2_factorial(count) + turns * count

    @property
    def fingerprint(self) -> str:
        """16 hex digits that identify the key without telling it; safe to print.

        That of a secret is its own at every size, with blocks that of the key derived for them.

        Whoever guesses the key can check the guess by it, which takes no picture, and a seed can be
        guessed: all 2^32 are soon tried.
        """
        if self._secret is not None:
            named = self._secret if self.block is None else self._secret.derive(self.cipher)
            return named.fingerprint
        height, width = self.image_size
        digest = hashlib.sha256(f"PrivDL image key {height}x{width}:".encode())
        digest.update(self.key.cpu().numpy().astype("<i8").tobytes())
        return digest.hexdigest()[:16]

    def extra_repr(self) -> str:
        return f"image_size={self.image_size}, fingerprint={self.fingerprint}"
