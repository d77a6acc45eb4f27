"""Sums, means and maxima, and layers that work along some axes.

A reduction over all positions does not see their order, so it needs no key, and its result has
none; softmax over all tokens keeps the key for the same reason.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from models.keying.layout import NATURAL, Layout
from models.keying.plan import VALUE, Plan
from models.keying.registry import rule
from models.keying.rules.indexing import remaining


def axes_of(plan: Plan, x: fx.Node, dim: int | Sequence[int] | None) -> set[int]:
    rank = len(plan.shape(x))
    if dim is None:
        return set(range(rank))
    return {d % rank for d in ([dim] if isinstance(dim, int) else dim)}


def seen_whole(plan: Plan, x: fx.Node, axes: set[int]) -> set[int]:
    """The axes of those groups that lie in ``axes`` whole, so that their order cannot matter."""
    spans = [set(range(group.first, group.last + 1)) for group in plan.layout(x)]
    return set().union(*(span for span in spans if span <= axes))


@rule(
    functions=[
        *(torch.mean, torch.sum, torch.amax, torch.amin, torch.var, torch.std),
        *(torch.logsumexp, torch.any, torch.all),
    ],
    methods=["mean", "sum", "amax", "amin", "var", "std", "logsumexp", "any", "all"],
)
def reduce(plan: Plan, node: fx.Node, x: fx.Node, *dims, dim=None, **__) -> Layout:
    # mean(x, (2, 3)) and x.mean(2, 3) say the same; a bool after them is keepdim
    named = [d for d in dims if not isinstance(d, bool)]
    dim = (named[0] if len(named) == 1 else named or None) if dim is None else dim
    return reduced(plan, node, x, axes_of(plan, x, dim))


def reduced(plan: Plan, node: fx.Node, x: fx.Node, axes: set[int]) -> Layout:
    rank, whole = len(plan.shape(x)), seen_whole(plan, x, axes)
    kept = [a for a in range(rank) if a not in axes or len(plan.shape(node)) == rank]
    places = {a: place for place, a in enumerate(kept)}
    groups = tuple(group for group in plan.layout(x) if group.first not in whole)
    return remaining(plan, node, x, groups, axes - whole, places)


@rule(functions=[torch.max, torch.min], methods=["max", "min"])
def extreme(plan: Plan, node: fx.Node, x: fx.Node, dim=None, keepdim=False, **__) -> object:
    if isinstance(dim, fx.Node):
        plan.fail(node, "of two tensors has no rule; torch.maximum and torch.minimum do")
    if isinstance(node.meta[VALUE], Tensor):
        return NATURAL  # over everything
    axes = axes_of(plan, x, dim)
    if any(a in group for group in plan.layout(x) for a in axes):
        plan.fail(node, "returns positions, which a key changes; amax and amin do not")
    return tuple(reduced_indices(plan, x, axes, keepdim) for _ in range(2))


@rule(functions=[torch.argmax, torch.argmin], methods=["argmax", "argmin"])
def arg_extreme(plan: Plan, node: fx.Node, x: fx.Node, dim=None, keepdim=False) -> Layout:
    axes = axes_of(plan, x, dim)
    if any(a in group for group in plan.layout(x) for a in axes):
        plan.fail(node, "returns positions, which a key changes")
    return reduced_indices(plan, x, axes, keepdim)


def reduced_indices(plan: Plan, x: fx.Node, axes: set[int], keepdim: bool) -> Layout:
    """Layout after a reduction over axes that have no key."""
    return tuple(
        group if keepdim else group.shifted(-sum(a < group.first for a in axes))
        for group in plan.layout(x)
    )


@rule(modules=[nn.Softmax, nn.LogSoftmax])
def softmax_layer(plan: Plan, node: fx.Node, x: fx.Node) -> Layout:
    return softmax(plan, node, x, plan.module(node).dim)


@rule(
    functions=[torch.softmax, torch.log_softmax, F.softmax, F.log_softmax],
    methods=["softmax", "log_softmax"],
)
def softmax(plan: Plan, node: fx.Node, x: fx.Node, dim: int, **__) -> Layout:
    axes = axes_of(plan, x, dim)
    return plan.keep(node, x, axes - seen_whole(plan, x, axes))


@rule(functions=[F.normalize])
def normalize(plan: Plan, node: fx.Node, x: fx.Node, p=2.0, dim: int = 1, **__) -> Layout:
    return softmax(plan, node, x, dim)


@rule(modules=[nn.LayerNorm, nn.RMSNorm])
def layer_norm_layer(plan: Plan, node: fx.Node, x: fx.Node) -> Layout:
    return layer_norm(plan, node, x, plan.module(node).normalized_shape)


@rule(functions=[F.layer_norm, F.rms_norm])
def layer_norm(plan: Plan, node: fx.Node, x: fx.Node, normalized_shape, *_, **__) -> Layout:
    # Its statistics would not see the order, but its weights belong to positions.
    rank = len(plan.shape(x))
    return plan.keep(node, x, range(rank - len(normalized_shape), rank))


@rule(modules=[nn.Linear], functions=[F.linear])
def linear(plan: Plan, node: fx.Node, x: fx.Node, *_, **__) -> Layout:
    """Along the last axis; if that is the tokens' (MLP-Mixer), its result has a key of its own."""
    rank = len(plan.shape(x))
    return remaining(plan, node, x, plan.layout(x), {rank - 1}, {a: a for a in range(rank)})
