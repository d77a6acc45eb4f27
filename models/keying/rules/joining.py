"""Operations that treat every position alike, and places where tensors meet.

Activations, dropout and normalisation leave the layout as it is. In a sum, a product or a
concatenation the operands must agree: those that are scrambled come to share one key, those that
are not (positional embeddings, masks) are brought under it.
"""

import operator

import torch
from torch import fx, nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth, stochastic_depth

from models.keying.layout import Group, Layout, MapKey, merged, overlapping
from models.keying.plan import Plan
from models.keying.registry import rule

POINTWISE_MODULES = [
    *(nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, StochasticDepth),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU),
    *(nn.Mish, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Hardshrink, nn.Softshrink),
    *(nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Tanhshrink, nn.Softplus, nn.Softsign, nn.Threshold),
]
POINTWISE_FUNCTIONS = [
    *(F.relu, F.relu_, F.relu6, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish),
    *(F.hardswish, F.hardsigmoid, F.hardtanh, F.softplus, F.softsign, F.sigmoid, F.tanh),
    *(F.logsigmoid, F.dropout, F.dropout1d, F.dropout2d, F.alpha_dropout, stochastic_depth),
    *(torch.relu, torch.relu_, torch.sigmoid, torch.tanh, torch.exp, torch.log, torch.log1p),
    *(torch.sqrt, torch.rsqrt, torch.square, torch.abs, torch.neg, torch.sign, torch.clamp),
    *(torch.sin, torch.cos, torch.erf, torch.floor, torch.round, torch.reciprocal, torch.clone),
    *(torch.add, torch.sub, torch.mul, torch.div, torch.true_divide, torch.pow, torch.lerp),
    *(torch.maximum, torch.minimum, torch.where, torch.addcmul, torch.addcdiv),
    *(operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, operator.neg),
    *(operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.abs),
    *(operator.gt, operator.lt, operator.ge, operator.le, operator.eq, operator.ne),
    *(operator.and_, operator.or_, operator.invert),
]
POINTWISE_METHODS = [
    *("relu", "relu_", "sigmoid", "sigmoid_", "tanh", "tanh_", "exp", "log", "sqrt", "rsqrt"),
    *("square", "abs", "neg", "clamp", "clamp_", "reciprocal", "pow", "add", "add_", "sub"),
    *("sub_", "mul", "mul_", "div", "div_", "clone", "detach", "contiguous", "to", "type"),
    *("float", "double", "half", "bfloat16", "type_as", "masked_fill", "expand", "expand_as"),
]


def join(plan: Plan, node: fx.Node, operands: list[fx.Node], along: int | None = None) -> Layout:
    """Layout of the result of ``node``, to whose shape the operands broadcast.

    Args:
        along: the axis at which a concatenation puts them side by side.
    """
    shape = plan.shape(node)
    rank = len(shape)
    holders: dict[tuple[int, int], dict[fx.Node, MapKey]] = {}  # span -> who is scrambled there
    fits = True
    for x in operands:
        for group in plan.layout(x):
            moved = group.shifted(rank - len(plan.shape(x)))
            holders.setdefault(moved.span, {})[x] = group.key
            # An axis that is stretched, or lengthened by a concatenation, cannot keep its key.
            same = (
                plan.shape(x)[group.first : group.last + 1] == shape[moved.first : moved.last + 1]
            )
            fits = fits and same and (along is None or along not in moved)
    if not fits or overlapping(holders):
        return plan.conjugate(node, merged(holders))
    layout = []
    for (first, last), keys in holders.items():
        group = Group(next(iter(keys.values())), first, last)
        layout.append(group)
        for key in keys.values():
            group.key.meet(key)
        for x in operands:
            sizes = plan.shape(x)[first - rank : (last - rank + 1) or None]
            if x not in keys and any(n > 1 for n in sizes):
                plan.scramble(node, x, group.shifted(-rank), shape[first : last + 1])
    return tuple(layout)


@rule(modules=POINTWISE_MODULES, functions=POINTWISE_FUNCTIONS, methods=POINTWISE_METHODS)
def pointwise(plan: Plan, node: fx.Node, *_, **__) -> Layout:
    return join(plan, node, plan.tensors(node))


@rule(functions=[torch.cat, torch.concat, torch.concatenate])
def concatenate(plan: Plan, node: fx.Node, tensors, dim: int = 0, **__) -> Layout:
    return join(plan, node, plan.tensors(node), along=dim % len(plan.shape(node)))


@rule(functions=[torch.stack])
def stack(plan: Plan, node: fx.Node, tensors, dim: int = 0) -> Layout:
    dim %= len(plan.shape(node))
    layouts = [plan.layout(x) for x in tensors]
    spans = [[group.span for group in layout] for layout in layouts]
    if any(span != spans[0] for span in spans) or any(
        first < dim <= last for first, last in spans[0]
    ):
        plan.fail(node, "stacks tensors that are scrambled at different axes")
    for layout in layouts[1:]:
        for ours, theirs in zip(layouts[0], layout, strict=True):
            ours.key.meet(theirs.key)
    return tuple(group.shifted(group.first >= dim) for group in layouts[0])


@rule(
    modules=[
        *(nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm, nn.LocalResponseNorm),
        *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.PReLU, nn.ChannelShuffle, nn.Softmax2d),
    ],
    functions=[
        *(F.batch_norm, F.group_norm, F.instance_norm, F.local_response_norm, F.prelu),
        *(F.channel_shuffle, torch.channel_shuffle),
    ],
)
def per_channel(plan: Plan, node: fx.Node, x: fx.Node, *_, **__) -> Layout:
    return plan.keep(node, x, mixed=(0, 1))
