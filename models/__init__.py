"""The networks, by name. ``create_model`` builds any of them; the command line's choices are these.

Every plain network ``NAME`` has a keyed twin ``NAME_permuted`` with the same parameters.
"""

from torch import nn

from models.vgg import VGG16
from operators import ImageScrambler

KEYED_SUFFIX = "_permuted"
_PLAIN = {"vgg16": VGG16}


def names() -> tuple[str, ...]:
    """The names that ``create_model`` knows."""
    return tuple(_PLAIN)


def is_keyed(name: str) -> bool:
    """Whether ``name`` is the keyed twin of a network."""
    return name.endswith(KEYED_SUFFIX)


def create_model(
    name: str, num_classes: int = 10, scrambler: ImageScrambler | None = None, backend: str = "auto"
) -> nn.Module:
    """Build a network by name."""
    return _PLAIN[name](num_classes)
