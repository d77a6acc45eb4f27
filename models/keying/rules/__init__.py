"""The rules, by kind of operation; importing this package registers them all."""

from models.keying.rules import (
    attention,
    indexing,
    joining,
    layers,
    reduction,
    resampling,
    views,
)

__all__ = ["attention", "indexing", "joining", "layers", "reduction", "resampling", "views"]
