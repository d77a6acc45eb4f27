"""Sums, means and maxima, and layers that work along some axes.

A reduction over all positions does not see their order, so it needs no key, and its result has
none; softmax over all tokens keeps the key for the same reason.
"""

import torch
from torch import fx

from models.keying.graph import VALUE
from models.keying.layout import NATURAL, Layout
from models.keying.plan import Plan
from models.keying.registry import rule
from models.keying.relate import relate
from models.keying.rules.layers import resample
from models.keying.rules.pointwise import pointwise

aten = torch.ops.aten


def axes_of(plan: Plan, node: fx.Node, x: fx.Node) -> set[int]:
    """The axes along which an operator works: all of them where it names none."""
    rank, dim = len(plan.shape(x)), plan.arguments(node).get("dim")
    if dim is None or dim == []:
        return set(range(rank))
    return {d % rank for d in ([dim] if isinstance(dim, int) else dim)}


def reduced(plan: Plan, node: fx.Node, x: fx.Node, axes: set[int], order: bool, shape) -> Layout:
    """Layout after a reduction over ``axes``.

    Args:
        order: whether the result depends on the order of positions.
        shape: of the result.
    """
    rank = len(plan.shape(x))
    if len(shape) == rank:
        result = [None if axis in axes else axis for axis in range(rank)]
    else:
        result = [axis for axis in range(rank) if axis not in axes]
    kinds = {"natural" if order else "summed": axes}
    return relate(plan, node, [(x, list(range(rank)))], result, shape=shape, **kinds)


@rule(
    *(aten.mean, aten.sum, aten.amax, aten.amin, aten.var, aten.std, aten.logsumexp, aten.any),
    *(aten.all, aten.nansum, aten.nanmean, aten.prod, aten.norm, aten.linalg_vector_norm),
)
def reduce(plan: Plan, node: fx.Node, x: fx.Node, *_, **__) -> Layout:
    """``(..., A, ...)`` -> ``(..., ...)``, or with 1 in the place of ``A``."""
    return reduced(plan, node, x, axes_of(plan, node, x), False, plan.shape(node))


@rule(aten.max, aten.min)
def extreme(plan: Plan, node: fx.Node, x: fx.Node, *_, **__) -> object:
    """``(..., A, ...)`` -> values and indices ``(..., ...)``; or everything -> ``()``."""
    given = plan.arguments(node)
    if "other" in given:
        return pointwise(plan, node)
    if "dim" not in given:
        return reduce(plan, node, x)
    values = node.meta[VALUE]
    indexed = any(user.args[1] == 1 and user.users for user in node.users)
    return (reduced(plan, node, x, axes_of(plan, node, x), indexed, values[0].shape),) * 2


@rule(aten.argmax, aten.argmin)
def arg_extreme(plan: Plan, node: fx.Node, x: fx.Node, *_, **__) -> Layout:
    """``(..., A, ...)`` -> positions along ``A``, ``(..., ...)``."""
    return reduced(plan, node, x, axes_of(plan, node, x), True, plan.shape(node))


@rule(aten.softmax, aten._softmax, aten.log_softmax, aten._log_softmax)
def softmax(plan: Plan, node: fx.Node, x: fx.Node, *_, **__) -> Layout:
    """``(..., A, ...)`` -> the same."""
    axes = list(range(len(plan.shape(x))))
    return relate(plan, node, [(x, axes)], axes, summed=axes_of(plan, node, x))


@rule(aten.cumsum, aten.cumprod, aten.glu)
def along(plan: Plan, node: fx.Node, x: fx.Node, *_, **__) -> Layout:
    """``(..., A, ...)`` -> the same, or half of ``A``: in the order of one axis."""
    axes = list(range(len(plan.shape(x))))
    return relate(plan, node, [(x, axes)], axes, natural=axes_of(plan, node, x))


@rule(aten.sort, aten.topk)
def sort(plan: Plan, node: fx.Node, x: fx.Node, *_, **__) -> tuple[Layout, Layout]:
    """``(..., A, ...)`` -> values and indices ``(..., B, ...)``."""
    axes, shape = list(range(len(plan.shape(x)))), node.meta[VALUE][0].shape
    layout = relate(plan, node, [(x, axes)], axes, natural=axes_of(plan, node, x), shape=shape)
    return (layout,) * 2


@rule(aten.layer_norm, aten.rms_norm)
def layer_norm(plan: Plan, node: fx.Node, x: fx.Node, normalized: list, *_, **__) -> Layout:
    """``(..., *normalized)`` -> the same; the weights belong to the positions in ``normalized``."""
    axes = list(range(len(plan.shape(x))))
    return relate(plan, node, [(x, axes)], axes, natural=axes[-len(normalized) :])


@rule(aten.group_norm, aten.instance_norm)
def group_norm(plan: Plan, node: fx.Node, x: fx.Node, *_, **__) -> Layout:
    """``(N, C, ...)`` -> the same; statistics of groups of channels over all positions."""
    axes = list(range(len(plan.shape(x))))
    return relate(plan, node, [(x, axes)], axes, natural=axes[1:2], summed=axes[2:])


@rule(
    *(aten.adaptive_avg_pool1d, aten.adaptive_avg_pool2d, aten._adaptive_avg_pool2d),
    aten.adaptive_avg_pool3d,
    source=True,
)
def adaptive_pool(plan: Plan, node: fx.Node, x: fx.Node, size: list) -> Layout:
    """``(N, C, ...)`` -> ``(N, C, *size)``; to one position it is a mean."""
    if all(n == 1 for n in size):
        axes = set(range(len(plan.shape(x)) - len(size), len(plan.shape(x))))
        return reduced(plan, node, x, axes, False, plan.shape(node))
    return resample(plan, node, x)


@rule(aten.adaptive_max_pool1d, aten.adaptive_max_pool2d, source=True)
def adaptive_max_pool(plan: Plan, node: fx.Node, x: fx.Node, size: list) -> object:
    """``(N, C, ...)`` -> the largest and where it was, ``(N, C, *size)``."""
    indexed = any(user.args[1] == 1 and user.users for user in node.users)
    shape = node.meta[VALUE][0].shape
    axes = set(range(len(plan.shape(x)) - len(size), len(plan.shape(x))))
    if all(n == 1 for n in size) and not indexed:
        return reduced(plan, node, x, axes, False, shape), NATURAL
    return NotImplemented if indexed else (resample(plan, node, x, len(size), shape=shape), NATURAL)
