"""The rules, by kind of operation; importing this package registers them all."""

from models.keying.rules import contraction, layers, moving, pointwise, reduction, views

__all__ = ["contraction", "layers", "moving", "pointwise", "reduction", "views"]
