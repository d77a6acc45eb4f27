"""A network's output, whatever it is made of, as a list of its leaves."""

from dataclasses import fields, is_dataclass
from itertools import islice

from torch.utils import _pytree as pytree


def flatten(output: object) -> tuple[list, object]:
    """The leaves of a network's output, and how ``unflatten`` puts them together again."""
    tops, spec = pytree.tree_flatten(output)  # to which a dataclass is a leaf
    leaves, kinds = [], []
    for top in tops:
        if is_dataclass(top) and not isinstance(top, type):
            found, inner = flatten({field.name: getattr(top, field.name) for field in fields(top)})
            kinds.append((type(top), inner, len(found)))
        else:
            found = [top]
            kinds.append(None)
        leaves += found
    return leaves, (spec, kinds)


def unflatten(leaves: list, spec: object) -> object:
    """The output whose leaves and spec ``flatten`` returned."""
    (spec, kinds), rest, tops = spec, iter(leaves), []
    for kind in kinds:
        if kind is None:
            tops.append(next(rest))
        else:
            make, inner, count = kind
            tops.append(make(**unflatten(list(islice(rest, count)), inner)))
    return pytree.tree_unflatten(tops, spec)
