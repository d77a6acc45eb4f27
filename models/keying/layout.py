"""Which axes of a tensor are scrambled, and under which key.

A key permutes the flattened positions of a map. Inside a network those positions are not always
the last two axes: ConvNeXt keeps them at axes 1 and 2, a transformer at the one axis of its tokens.
So a layout is a list of groups, each a run of neighbouring axes whose row-major index is permuted
by one key; the empty layout is a tensor in natural order. Keys are variables until the whole
network has been planned, because maps that meet in a sum must have the same one.

Convention: axes are counted from 0, ``last`` included. A group neither starts nor ends with an axis
of length 1, so that a map has one way to be written, and a group of one position has no key.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod

from torch import Tensor

Shape = tuple[int, ...]


class MapKey:
    """The key of a map, drawn only after the whole network is known.

    Args:
        order: when its map is computed; where maps meet, the key of the first one serves all.
        positions: number of positions of the map.
        value: the permutation, if it is known already.
    """

    def __init__(self, order: int, positions: int, value: Tensor | None = None) -> None:
        self.order, self.positions, self._value = order, positions, value
        self._shares: MapKey | None = None

    @property
    def root(self) -> MapKey:
        """The variable that stands for all keys that must be equal to this one."""
        return self if self._shares is None else self._shares.root

    @property
    def value(self) -> Tensor | None:
        """The permutation, int64 ``(positions,)``, or None before it is drawn."""
        return self.root._value

    @value.setter
    def value(self, key: Tensor) -> None:
        self.root._value = key

    def meet(self, other: MapKey) -> None:
        """Make this key and ``other`` one; both have the same number of positions."""
        first, second = sorted((self.root, other.root), key=lambda key: key.order)
        if first is not second:
            second._shares = first


@dataclass(frozen=True)
class Group:
    """The axes ``first..last`` of a tensor hold the positions of one map, under one key."""

    key: MapKey
    first: int
    last: int

    @property
    def span(self) -> tuple[int, int]:
        return self.first, self.last

    def __contains__(self, axis: int) -> bool:
        return self.first <= axis <= self.last

    def at(self, first: int, last: int) -> Group:
        return replace(self, first=first, last=last)

    def shifted(self, by: int) -> Group:
        return self.at(self.first + by, self.last + by)


Layout = tuple[Group, ...]
NATURAL: Layout = ()


def trimmed(shape: Shape, first: int, last: int) -> tuple[int, int] | None:
    """The span ``first..last`` without axes of length 1 at its ends; None if nothing is left."""
    long = [axis for axis in range(first, last + 1) if shape[axis] > 1]
    return (long[0], long[-1]) if long else None


def through_view(group: Group, before: Shape, after: Shape) -> Group | None:
    """Where a reshaping puts a group, or None if it mixes the group with other axes.

    A reshaping keeps the row-major order of elements, so the group survives if some run of axes of
    the result starts at the same stride and holds as many elements.
    """
    outer, size = prod(before[: group.first]), prod(before[group.first : group.last + 1])
    for first in range(len(after)):
        if prod(after[:first]) == outer and after[first] > 1:
            for last in range(first, len(after)):
                if prod(after[first : last + 1]) == size:
                    return group.at(first, last)
    return None


def overlapping(spans: Iterable[tuple[int, int]]) -> bool:
    """Whether two different spans share an axis."""
    ordered = sorted(spans)
    return any(a[1] >= b[0] for a, b in pairwise(ordered))


def merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The smallest disjoint spans that cover ``spans``."""
    result: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if result and first <= result[-1][1]:
            result[-1] = (result[-1][0], max(last, result[-1][1]))
        else:
            result.append((first, last))
    return result
