"""Operations that move axes: reshaping, flattening, permuting.

A scrambled map stays scrambled as long as its axes stay together. Where a reshaping merges them
with features, as flattening does before a linear layer, the last key is folded into it: positions
are restored on the way, so that the layer's weights need no change.
"""

import torch
from torch import fx, nn
from torchvision.ops import Permute

from models.keying.layout import Group, Layout, through_view
from models.keying.plan import Plan
from models.keying.registry import rule


@rule(
    modules=[nn.Flatten, nn.Unflatten],
    functions=[torch.flatten, torch.reshape, torch.unflatten, torch.squeeze, torch.unsqueeze],
    methods=["flatten", "reshape", "unflatten", "view", "squeeze", "unsqueeze"],
)
def reshape(plan: Plan, node: fx.Node, x: fx.Node, *_, **__) -> Layout:
    before, after = plan.shape(x), plan.shape(node)
    layout = []
    for group in plan.layout(x):
        moved = through_view(group, before, after)
        if moved is not None:
            layout.append(moved)
        elif before[0] != after[0] or 0 in group:
            plan.fail(node, f"mixes positions with the batch: {before} becomes {after}")
        else:
            plan.restore(node, x, (group,))
    return tuple(layout)


def permuted(plan: Plan, node: fx.Node, x: fx.Node, order: list[int]) -> Layout:
    """Layout of a result whose axis ``i`` is axis ``order[i]`` of ``x``."""
    layout: list[Group] = []
    for group in plan.layout(x):
        axes = range(group.first, group.last + 1)
        places = [order.index(axis) for axis in axes if plan.shape(x)[axis] > 1]
        first, last = min(places), max(places)
        between = set(range(first, last + 1)) - set(places)
        if any(plan.shape(node)[place] > 1 for place in between):
            plan.fail(node, f"separates the axes {group.first}..{group.last} of one map")
        if places == sorted(places):
            layout.append(group.at(first, last))
        else:
            plan.restore(node, x, (group,))
            layout.extend(plan.scramble_result(node, plan.fresh(node, first, last)))
    return tuple(layout)


@rule(modules=[Permute])
def permute_layer(plan: Plan, node: fx.Node, x: fx.Node) -> Layout:
    return permute(plan, node, x, plan.module(node).dims)


@rule(functions=[torch.permute], methods=["permute"])
def permute(plan: Plan, node: fx.Node, x: fx.Node, *dims) -> Layout:
    dims = dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims
    return permuted(plan, node, x, [d % len(plan.shape(x)) for d in dims])


@rule(
    functions=[torch.transpose, torch.swapaxes, torch.swapdims],
    methods=["transpose", "swapaxes", "swapdims"],
)
def transpose(plan: Plan, node: fx.Node, x: fx.Node, dim0: int, dim1: int) -> Layout:
    order = list(range(len(plan.shape(x))))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return permuted(plan, node, x, order)


@rule(functions=[torch.movedim, torch.moveaxis], methods=["movedim", "moveaxis"])
def movedim(plan: Plan, node: fx.Node, x: fx.Node, source, destination) -> Layout:
    # Let torch say it: an axis is found again by its length.
    order = torch.movedim(torch.empty(list(range(len(plan.shape(x))))), source, destination).shape
    return permuted(plan, node, x, list(order))


@rule(functions=[getattr])
def attribute(plan: Plan, node: fx.Node, x: fx.Node, name: str) -> Layout:
    rank = len(plan.shape(x))
    if name in ("T", "mT") and rank >= 2:
        order = list(range(rank))
        return permuted(plan, node, x, [*order[:-2], rank - 1, rank - 2])
    return plan.fail(node, f"{name} of a scrambled map has no rule")
