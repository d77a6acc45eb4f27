"""Named random streams: what a run draws for one purpose is independent of all its other draws."""

import hashlib

import torch


def derive_seed(stream: str, *numbers: int) -> int:
    """The 64-bit seed of a stream: SHA-256 over its name and every one of ``numbers``.

    Example:
        >>> derive_seed("order", 5) == derive_seed("order", 5, 0)
        False
    """
    text = ":".join([stream, *map(str, numbers)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def generator(stream: str, *numbers: int) -> torch.Generator:
    """A generator on the CPU at the start of a stream."""
    return torch.Generator().manual_seed(derive_seed(stream, *numbers))
