"""Permutations of a map's positions: checked, inverted, and drawn one after the other.

A permutation ``k`` is an int64 tensor ``(n,)`` that holds each of ``0..n-1`` once; position ``p``
of what it permutes takes what was at ``k[p]``.
"""

import hashlib
import math
import secrets

import numpy as np
import torch
from torch import Tensor

from operators.blocks import SYMMETRIES
from operators.key import SecretKey

SEED_LIMIT = 2**32


def invert(permutation: Tensor) -> Tensor:
    """The inverse permutation, int64: ``invert(k)[k[p]] = p``. Shape ``(n,)``, or ``(..., n)``."""
    positions = torch.arange(permutation.shape[-1], device=permutation.device)
    return torch.empty_like(permutation).scatter_(-1, permutation, positions.expand_as(permutation))


def check_permutation(permutation: Tensor, size: tuple[int, int], name: str = "key") -> Tensor:
    """A copy of ``permutation``, int64 on the CPU, if it is a permutation of the plane's positions.

    Args:
        permutation: anything ``torch.as_tensor`` takes, of shape ``(H*W,)``, whole numbers.
        size: ``(H, W)`` of the plane.
        name: what the message calls it.

    Raises:
        ValueError: it is none.
    """
    k = torch.as_tensor(permutation)
    n = size[0] * size[1]
    whole = not (k.is_floating_point() or k.is_complex() or k.dtype == torch.bool)
    if not whole or k.shape != (n,):
        raise ValueError(
            f"{name} must hold {n} whole numbers for a map of {size[0]}x{size[1]}, "
            f"got shape {tuple(k.shape)} of {k.dtype}"
        )
    k = k.detach().to("cpu", torch.int64, copy=True)
    outside = k[(k < 0) | (k >= n)]
    if outside.numel():
        raise ValueError(f"{name} must hold 0..{n - 1}, got {outside[0].item()}")
    counts = torch.bincount(k, minlength=n)
    if (counts != 1).any():
        raise ValueError(
            f"{name} must be a permutation of 0..{n - 1}, got {counts.argmax().item()} twice"
        )
    return k


class KeyStream:
    """The permutations that a seed or a secret stands for, one after the other.

    Convention: from a seed, each permutation is ``argsort(rand(n))`` of
    ``numpy.random.RandomState(seed)``, in the order of the calls. This repeats the published ones;
    it is a reproducible generator, not a cryptographic one, and a 32-bit seed can be searched. From
    a secret, call number ``i`` (from 0) gives ``secret.permutation(n, index=i)``.

    Args:
        seed: ``0..2**32 - 1``, or None for 128 bits of the operating system's entropy.
        secret: 256 bits in place of a seed.

    Raises:
        ValueError: the seed is not a whole number in that range, or both are given.

    Example:
        >>> KeyStream(seed=0).draw(1024)[:4]
        tensor([821, 757, 540, 742])
    """

    def __init__(self, seed: int | None = None, secret: SecretKey | None = None) -> None:
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
        """The next permutation of ``0..n-1``, int64, shape ``(n,)``."""
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


def digest(name: str, *tables: Tensor) -> bytes:
    """SHA-256 of a name and of tables of whole numbers, little-endian in their own width."""
    sha = hashlib.sha256(name.encode())
    for table in tables:
        numbers = table.cpu().numpy()
        sha.update(numbers.astype(numbers.dtype.newbyteorder("<")).tobytes())
    return sha.digest()


def log2_factorial(n: int) -> float:
    """How many bits tell one of ``n!`` permutations."""
    return math.lgamma(n + 1) / math.log(2)
