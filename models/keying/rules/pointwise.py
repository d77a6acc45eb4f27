"""Operations that treat every position alike, and places where tensors meet.

In a sum, a product or a concatenation of channels the operands must agree: those that are scrambled
come to share one key, those that are not (position embeddings, masks) are brought under it.
"""

import operator

import torch
from torch import fx

from models.keying.graph import CALL, VALUE
from models.keying.layout import NATURAL, Layout
from models.keying.plan import LAYOUT, Plan
from models.keying.registry import rule
from models.keying.relate import Labels, relate

aten = torch.ops.aten


def broadcast(plan: Plan, node: fx.Node, x: fx.Node) -> Labels:
    """Labels of an operand that is broadcast to the result: the axes of the result."""
    sizes, shape = plan.shape(x), plan.shape(node)
    first = len(shape) - len(sizes)
    return [
        None if n == 1 and shape[axis] != 1 else axis for axis, n in enumerate(sizes, start=first)
    ]


@rule(  # beside what torch itself calls pointwise
    torch.Tag.pointwise,
    *(aten.contiguous, aten.detach, aten.alias, aten.to, aten._to_copy, aten.type_as, aten.copy),
    *(aten.expand, aten.expand_as, aten.hardswish, aten.log_sigmoid, aten.lift_fresh_copy),
    *(aten.conj, aten.real),
)
def pointwise(plan: Plan, node: fx.Node, *_, **__) -> Layout:
    """Any operands that broadcast -> ``(...)``: each position by itself."""
    operands = [(x, broadcast(plan, node, x)) for x in plan.tensors(node)]
    return relate(plan, node, operands, list(range(len(plan.shape(node)))))


@rule(aten.dropout)
def dropout(plan: Plan, node: fx.Node, x: fx.Node, p: float, train: bool) -> Layout:
    """``(...)`` -> the same; in training ``x`` times the mask of the plain network, scrambled.

    The mask is dropout of ones, which draws what dropout of the natural map draws.
    """
    if not (train and p and plan.layout(x)):
        return pointwise(plan, node)
    with plan.graph.inserting_before(node):
        ones = plan.graph.call_function(aten.ones_like.default, (x,))
    node.replace_input_with(x, ones)
    with plan.graph.inserting_after(node):
        product = plan.graph.call_function(aten.mul.Tensor, (x, node))  # planned next
    node.replace_all_uses_with(product, delete_user_cb=lambda user: user is not product)
    for new in (ones, product):
        new.meta = {VALUE: x.meta[VALUE], CALL: node.meta[CALL], LAYOUT: NATURAL}
    return NATURAL


@rule(
    *(aten.native_dropout, aten.alpha_dropout, aten.rrelu),
    *(aten.feature_dropout, aten.feature_alpha_dropout),
)
def random(plan: Plan, node: fx.Node, x: fx.Node, *args, **kwargs) -> object:
    """``(N, C, ...)`` -> the same; in training in natural order, to draw what the network draws."""
    value, axes = node.meta[VALUE], list(range(len(plan.shape(x))))
    train = True in args or True in kwargs.values()
    natural = axes[1:2] if "feature" in str(plan.call(node)[0]) else axes[1:]
    layout = relate(plan, node, [(x, axes)], axes, natural if train else (), shape=plan.shape(x))
    return (layout,) * len(value) if isinstance(value, (tuple, list)) else layout


@rule(aten.prelu, aten.batch_norm, aten.native_channel_shuffle, aten.channel_shuffle)
def channelwise(plan: Plan, node: fx.Node, x: fx.Node, *_, **__) -> Layout:
    """``(N, C, ...)`` -> the same: parameters belong to channels, positions are alike."""
    axes = list(range(len(plan.shape(x))))
    return relate(plan, node, [(x, axes)], axes, natural=axes[1:2])


@rule(aten._native_batch_norm_legit_no_training)
def native_batch_norm(plan: Plan, node: fx.Node, x: fx.Node, *_, **__) -> tuple[Layout, ...]:
    """``(N, C, ...)`` -> the same, and two statistics."""
    axes = list(range(len(plan.shape(x))))
    layout = relate(plan, node, [(x, axes)], axes, natural=axes[1:2], shape=plan.shape(x))
    return layout, (), ()


@rule(aten.cat, aten.concat, aten.concatenate)
def concatenate(plan: Plan, node: fx.Node, tensors: list, dim: int = 0) -> Layout:
    """``(..., A, ...)`` and ``(..., B, ...)`` -> ``(..., A + B, ...)``."""
    axes = list(range(len(plan.shape(node))))
    operands = [(x, axes) for x in tensors if plan.shape(x) != (0,)]  # torch takes an empty one
    return relate(plan, node, operands, axes, natural=[axes[dim]])


@rule(aten.stack)
def stack(plan: Plan, node: fx.Node, tensors: list, dim: int = 0) -> Layout:
    """``K`` times ``(...)`` -> ``(..., K, ...)``."""
    axes = list(range(len(plan.shape(node))))
    new = axes.pop(dim)
    result = sorted([*axes, new])
    return relate(plan, node, [(x, axes) for x in tensors], result)


@rule(operator.getitem)
def getitem(plan: Plan, node: fx.Node, results: fx.Node, index: int) -> Layout:
    """Several ``(...)`` -> one of them."""
    return results.meta[LAYOUT][index]
