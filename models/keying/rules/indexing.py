"""Operations that tell positions apart: slicing, padding, rolling, cutting.

They are exact all the same: restored, computed in natural order, scrambled under a fresh key.
"""

import operator
from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from models.keying.layout import NATURAL, Group, Layout
from models.keying.plan import VALUE, Plan
from models.keying.registry import rule


@rule(functions=[operator.getitem])
def getitem(plan: Plan, node: fx.Node, x: fx.Node, index: object) -> Layout:
    if not isinstance(x.meta[VALUE], Tensor):
        return plan.layout(x)[index]  # one of the results of a split, or of attention
    index = [number(i) for i in (index if isinstance(index, tuple) else (index,))]
    if not all(i is None or i is ... or isinstance(i, (int, slice)) for i in index):
        plan.fail(node, "takes positions that only another tensor tells")
    named = sum(i is not None and i is not ... for i in index)
    at = next((k for k, i in enumerate(index) if i is ...), len(index))
    index[at : at + 1] = [slice(None)] * (len(plan.shape(x)) - named)

    places: dict[int, int] = {}  # axis of x -> axis of the result, for axes that stay
    touched: set[int] = set()
    axis = place = 0
    for entry in index:  # one per axis of x, and None for each new axis
        if entry is not None:
            if entry != slice(None):
                touched.add(axis)
            if not isinstance(entry, int):
                places[axis] = place
            axis += 1
        place += not isinstance(entry, int)
    return remaining(plan, node, x, plan.layout(x), touched, places)


def number(value: object) -> object:
    """The value of a traced number; anything else as it is."""
    return value.meta[VALUE] if isinstance(value, fx.Node) else value


def remaining(
    plan: Plan,
    node: fx.Node,
    x: fx.Node,
    groups: Layout,
    touched: set[int],
    places: dict[int, int],
) -> Layout:
    """Layout where ``node`` tells positions apart along some axes of ``x``.

    Args:
        groups: the groups of ``x`` of which something remains.
        touched: those axes; groups with one are restored, and what remains is scrambled afresh.
        places: axis of the result for each axis of ``x`` that remains.
    """
    layout: list[Group] = []
    for group in groups:
        axes = [places[a] for a in range(group.first, group.last + 1) if a in places]
        if not any(a in group for a in touched):
            layout.append(group.at(axes[0], axes[-1]))
            continue
        plan.restore(node, x, (group,))
        fresh = plan.fresh(node, axes[0], axes[-1]) if axes else NATURAL
        layout.extend(plan.scramble_result(node, fresh))
    return tuple(layout)


@rule(functions=[torch.select, torch.narrow], methods=["select", "narrow"])
def along_one(plan: Plan, node: fx.Node, x: fx.Node, dim: int, *_, **__) -> Layout:
    rank = len(plan.shape(x))
    dim %= rank
    kept = [a for a in range(rank) if a != dim or len(plan.shape(node)) == rank]
    return remaining(
        plan, node, x, plan.layout(x), {dim}, {a: place for place, a in enumerate(kept)}
    )


@rule(
    modules=[
        *(nn.ZeroPad2d, nn.ConstantPad2d, nn.CircularPad2d),
        *(nn.ReflectionPad2d, nn.ReplicationPad2d),
    ]
)
def pad_layer(plan: Plan, node: fx.Node, x: fx.Node) -> Layout:
    return pad(plan, node, x, plan.module(node).padding)


@rule(functions=[F.pad])
def pad(plan: Plan, node: fx.Node, x: fx.Node, widths: Sequence, *_, **__) -> Layout:
    rank = len(plan.shape(x))
    widths = [number(w) for w in widths]  # (before, after) of the last axis, then of the one before
    touched = {rank - 1 - i // 2 for i, width in enumerate(widths) if width != 0}
    return remaining(plan, node, x, plan.layout(x), touched, {a: a for a in range(rank)})


@rule(functions=[torch.roll, torch.flip], methods=["roll", "flip"])
def roll(plan: Plan, node: fx.Node, x: fx.Node, *args, dims=None) -> Layout:
    dims = args[-1] if dims is None else dims  # roll(x, shifts, dims), flip(x, dims)
    rank = len(plan.shape(x))
    return plan.keep(node, x, {d % rank for d in ([dims] if isinstance(dims, int) else dims)})


@rule(functions=[torch.cumsum, torch.cumprod], methods=["cumsum", "cumprod"])
def cumulate(plan: Plan, node: fx.Node, x: fx.Node, dim: int, **__) -> Layout:
    return plan.keep(node, x, {dim % len(plan.shape(x))})


@rule(functions=[torch.split, torch.chunk], methods=["split", "chunk"])
def split(plan: Plan, node: fx.Node, x: fx.Node, size: object, dim: int = 0) -> tuple[Layout, ...]:
    dim %= len(plan.shape(x))
    if any(dim in group for group in plan.layout(x)):
        plan.fail(node, "cuts a scrambled map into parts; slicing it can be keyed")
    return tuple(plan.layout(x) for _ in node.meta[VALUE])
