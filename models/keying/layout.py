"""Which positions of a tensor are scrambled, and under which key.

A key permutes the positions of a map. Inside a network they are not always the last two axes:
ConvNeXt keeps them at axes 1 and 2, a transformer at the axis of its tokens, attention beside the
batch. What stays is the row-major order of a tensor's elements. So a layout is a list of runs: a
tensor of ``outer * positions * inner`` elements is scrambled along its middle axis. A reshaping
leaves all runs as they are, whatever it does to the axes.

Keys are variables until the whole network has been planned, because maps that meet in a sum must
have the same one. Where windows are cut from a map, a key becomes the product of two: one moves
the windows, the other the positions in each.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import prod

import torch
from torch import Tensor

Shape = tuple[int, ...]


class MapKey:
    """The key of a map, drawn only after the whole network is known.

    Args:
        order: when its map is computed; where maps meet, the key of the first one serves all.
        positions: number of positions of the map.
        value: the permutation, if it is known already.
        divisible: whether it may become a product of keys.
    """

    def __init__(
        self, order: int, positions: int, value: Tensor | None = None, divisible: bool = False
    ) -> None:
        self.order, self.positions, self.divisible = order, positions, divisible
        self._value, self._shares = value, None
        self._parts: tuple[MapKey, ...] = ()

    @classmethod
    def natural(cls, positions: int) -> MapKey:
        """The key of what is not scrambled."""
        return cls(0, positions, torch.arange(positions))

    @classmethod
    def product(cls, *keys: MapKey) -> MapKey:
        """The key of a map whose slowest positions are under the first, and so on."""
        key = cls(keys[0].order, prod(part.positions for part in keys))
        key._parts = keys
        return key

    @property
    def root(self) -> MapKey:
        """The variable that stands for all keys that must be equal to this one."""
        return self if self._shares is None else self._shares.root

    @property
    def parts(self) -> tuple[MapKey, ...]:
        """The factors of a product of keys, the slowest first; none of a whole key."""
        return self.root._parts

    @property
    def value(self) -> Tensor | None:
        """The permutation, int64 ``(positions,)``, or None before it is drawn.

        With an axis ``N`` in front where each image of a batch has its own.
        """
        if not self.parts:
            return self.root._value
        value = torch.zeros(1, dtype=torch.int64)
        for part in self.parts:
            if part.value is None:
                return None
            value = value[..., :, None] * part.positions + part.value[..., None, :]
            value = value.flatten(-2)
        return value

    def give(self, key: Tensor) -> None:
        """Fix the permutation of a key that is no product."""
        self.root._value = key

    def meet(self, other: MapKey) -> bool:
        """Make this key and ``other`` one, and say whether that was possible."""
        first, second = sorted((self.root, other.root), key=lambda key: key.order)
        if first is second:
            return True
        if first.parts or second.parts:
            sizes = [[part.positions for part in key.parts] for key in (first, second)]
            return sizes[0] == sizes[1] and all(
                [a.meet(b) for a, b in zip(first.parts, second.parts, strict=True)]
            )
        if second._value is not None:
            if first._value is not None:
                return torch.equal(first._value, second._value)
            first, second = second, first
        second._shares = first
        first.divisible = first.divisible and second.divisible
        return True

    def divide(self, sizes: list[int]) -> bool:
        """Make this key a product of keys of ``sizes``, and say whether that was possible."""
        root = self.root
        if root._parts or root._value is not None or not root.divisible:
            return False
        root._parts = tuple(MapKey(root.order, size, divisible=True) for size in sizes)
        return True


class Moved(MapKey):
    """The key of an operand that makes an operation, which moves positions, return scrambled maps.

    Args:
        key: that of the operand so far, in whose order the positions stay that no result takes.
        results: key of a result, and ``(positions,)`` int64: which position each position of the
            result is taken from, none twice.
    """

    def __init__(self, key: MapKey, results: list[tuple[MapKey, Tensor]]) -> None:
        super().__init__(key.order, key.positions)
        self.key, self.results = key, results

    @property
    def value(self) -> Tensor:
        value = self.key.value
        taken = torch.cat([source for _, source in self.results])
        free = ~torch.isin(torch.arange(self.positions), taken)
        moved = value.clone()
        moved[..., free] = value[~torch.isin(value, taken)].view(*value.shape[:-1], -1)
        for key, source in self.results:
            moved[..., source] = source[key.value]
        return moved


@dataclass(frozen=True)
class Run:
    """One key's positions in a tensor: the middle axis of ``(outer, positions, inner)``."""

    key: MapKey
    outer: int

    @property
    def end(self) -> int:
        return self.outer * self.key.positions

    def whole(self) -> list[Run]:
        """The runs of its key's factors."""
        outer, runs = self.outer, []
        for part in self.key.parts:
            runs.extend(Run(part, outer).whole())
            outer *= part.positions
        return runs or [self]


Layout = tuple[Run, ...]
NATURAL: Layout = ()

# A run by the labels of the axes that it covers: (label, from, to) for each, where the positions of
# an axis of length n are 1..n in the multiplicative sense: (label, 1, n) is the axis whole.
Atoms = tuple[tuple[object, int, int], ...]


def atoms(run: Run, shape: Shape, labels: list) -> Atoms | None:
    """The axes that a run covers, or None if it begins or ends in the middle of a factor."""
    found, start = [], 1
    for size, label in zip(shape, labels, strict=True):
        low, high = max(run.outer, start), min(run.end, start * size)
        if low < high:
            if low % start or high % low or (start * size) % high:
                return None
            found.append((label, low // start, high // start))
        start *= size
    return tuple(found)


def place(covered: Atoms, shape: Shape, labels: list) -> int | None:
    """Where a run with these atoms begins in another tensor, or None if it is torn apart there."""
    starts = {}
    start = 1
    for size, label in zip(shape, labels, strict=True):
        starts.setdefault(label, (start, size))
        start *= size
    spans = []
    for label, low, high in covered:
        if label not in starts or starts[label][1] % high:
            return None
        spans.append((starts[label][0] * low, starts[label][0] * high))
    whole = all(a[1] == b[0] for a, b in pairwise(spans))
    return spans[0][0] if whole and spans else None


def overlap(a: Atoms, b: Atoms) -> bool:
    """Whether two runs share positions."""
    return any(x[0] == y[0] and x[1] < y[2] and y[1] < x[2] for x in a for y in b)


def span(shape: Shape, first: int, last: int) -> tuple[int, int]:
    """``outer`` and ``positions`` of the axes ``first..last``."""
    return prod(shape[:first]), prod(shape[first : last + 1])
