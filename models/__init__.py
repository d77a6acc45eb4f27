"""The networks, by name. ``create_model`` builds any of them; the command line's choices are these.

Every plain network ``NAME`` has a keyed twin ``NAME_permuted`` with the same parameters, made by
``key_network``; the paper's is ``vgg16_permuted``.
"""

from torch import nn

from models.key_network import KeyingError, key_network
from models.vgg import VGG16
from operators import ImageScrambler

__all__ = ["KEYED_SUFFIX", "KeyingError", "create_model", "is_keyed", "key_network", "names"]

KEYED_SUFFIX = "_permuted"
_PLAIN = {"vgg16": VGG16}


def names() -> tuple[str, ...]:
    """The names that ``create_model`` knows."""
    return tuple(name + suffix for name in _PLAIN for suffix in ("", KEYED_SUFFIX))


def is_keyed(name: str) -> bool:
    """Whether ``name`` is the keyed twin of a network."""
    return name.endswith(KEYED_SUFFIX)


def create_model(
    name: str,
    num_classes: int = 10,
    scrambler: ImageScrambler | None = None,
    backend: str = "auto",
) -> nn.Module:
    """Build a network by name, with random weights.

    Args:
        name: one of ``names()``.
        num_classes: length of the logits.
        scrambler: the key of the images; for keyed networks only, which need it.
        backend: ``auto``, ``deform`` (the paper's operator) or ``gather``, for keyed layers.

    Raises:
        ValueError: if the name is unknown, a keyed network gets no scrambler or a plain one does.

    Example:
        >>> keyed = create_model("vgg16_permuted", scrambler=ImageScrambler(32, seed=1312))
        >>> missing, unexpected = keyed.load_state_dict(create_model("vgg16").state_dict())
    """
    plain = name.removesuffix(KEYED_SUFFIX)
    if plain not in _PLAIN:
        raise ValueError(f"unknown network {name!r}; expected one of {', '.join(names())}")
    net = _PLAIN[plain](num_classes)
    if not is_keyed(name):
        if scrambler is not None:
            raise ValueError(f"{name} takes no scrambler; {name + KEYED_SUFFIX} does")
        return net
    if scrambler is None:
        raise ValueError(f"{name} needs the scrambler of its images")
    return key_network(net, scrambler, backend=backend)
