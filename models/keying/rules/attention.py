"""Attention: equivariant under permutations of the tokens, so a key passes through it.

Keys and values meet along their tokens, hence share one permutation key; the result has that of
the queries. Windowed attention (Swin, MaxViT) tells positions apart: it is restored and scrambled
afresh.
"""

import operator

import torch
from torch import fx, nn
from torch.nn import functional as F
from torchvision.models.maxvit import RelativePositionalMultiHeadAttention
from torchvision.models.swin_transformer import _patch_merging_pad, shifted_window_attention

from models.keying.layout import NATURAL, Group, Layout
from models.keying.plan import VALUE, Plan
from models.keying.registry import rule


def contract(plan: Plan, node: fx.Node, a: tuple[fx.Node, int], b: tuple[fx.Node, int]) -> None:
    """Make two operands agree along the axes, one of each, that ``node`` sums over."""
    groups = []
    for x, axis in (a, b):
        group = next((g for g in plan.layout(x) if axis in g), None)
        if group is not None and group.span != (axis, axis):
            plan.fail(node, "sums over one axis of a scrambled map but not over the others")
        groups.append(group)
    if all(groups):
        groups[0].key.meet(groups[1].key)
    elif any(groups):
        # One side is natural: bring it under the other's key.
        (x, axis), group = (b, groups[0]) if groups[0] else (a, groups[1])
        plan.scramble(node, x, group.at(axis, axis), (plan.shape(x)[axis],))


@rule(functions=[torch.matmul, torch.bmm, operator.matmul], methods=["matmul", "bmm", "__matmul__"])
def matmul(plan: Plan, node: fx.Node, a: fx.Node, b: fx.Node) -> Layout:
    rank_a, rank_b, rank = (len(plan.shape(x)) for x in (a, b, node))
    if min(rank_a, rank_b) < 2:
        plan.fail(node, "of a vector has no rule")
    contract(plan, node, (a, rank_a - 1), (b, rank_b - 2))
    layout: list[Group] = []
    for x, rank_x, summed in ((a, rank_a, rank_a - 1), (b, rank_b, rank_b - 2)):
        for group in plan.layout(x):
            if group.first < rank_x - 2:
                plan.fail(node, "of batches that are scrambled maps has no rule")
            if group.first != summed:
                layout.append(group.shifted(rank - rank_x))
    return tuple(layout)


@rule(functions=[F.scaled_dot_product_attention])
def scaled_dot_product_attention(
    plan: Plan,
    node: fx.Node,
    query: fx.Node,
    key: fx.Node,
    value: fx.Node,
    attn_mask=None,
    dropout_p=0.0,
    is_causal=False,
    **__,
) -> Layout:
    if attn_mask is not None or is_causal:
        plan.fail(node, "with a mask, tells tokens apart")
    tokens = len(plan.shape(key)) - 2
    for x in (query, key, value):
        if any(group.span != (tokens, tokens) for group in plan.layout(x)):
            plan.fail(node, f"expects tokens at axis {tokens} alone")
    contract(plan, node, (key, tokens), (value, tokens))
    return plan.layout(query)


@rule(modules=[nn.MultiheadAttention])
def multihead_attention(
    plan: Plan, node: fx.Node, query: fx.Node, key: fx.Node, value: fx.Node, *masks, **options
) -> tuple[Layout, ...]:
    given = [*masks, *(options.get(name) for name in ("key_padding_mask", "attn_mask"))]
    if any(isinstance(m, fx.Node) for m in given) or options.get("is_causal"):
        plan.fail(node, "with a mask, tells tokens apart")
    tokens = 1 if plan.module(node).batch_first else 0
    for x in (query, key, value):
        if any(group.span != (tokens, tokens) for group in plan.layout(x)):
            plan.fail(node, f"expects tokens at axis {tokens} alone")
    if key is not value:
        contract(plan, node, (key, tokens), (value, tokens))
    layout = plan.layout(query)
    weights = [g.at(axis, axis) for x, axis in ((query, -2), (key, -1)) for g in plan.layout(x)]
    rank = 0 if node.meta[VALUE][1] is None else node.meta[VALUE][1].dim()
    return layout, tuple(g.shifted(rank) for g in weights) if rank else NATURAL


@rule(modules=[nn.TransformerEncoder, nn.TransformerEncoderLayer])
def transformer_encoder(plan: Plan, node: fx.Node, x: fx.Node, *masks, **options) -> Layout:
    if masks or any(options.values()):
        plan.fail(node, "with a mask, tells tokens apart")
    module = plan.module(node)
    layer = module.layers[0] if isinstance(module, nn.TransformerEncoder) else module
    tokens = 1 if layer.self_attn.batch_first else 0
    if any(group.span != (tokens, tokens) for group in plan.layout(x)):
        plan.fail(node, f"expects tokens at axis {tokens} alone")
    return plan.layout(x)


@rule(
    modules=[RelativePositionalMultiHeadAttention],
    functions=[shifted_window_attention, _patch_merging_pad],
)
def windowed(plan: Plan, node: fx.Node, x: fx.Node, *_, **__) -> Layout:
    """Windows of ``(N, H, W, C)``, or of MaxViT's ``(N, windows, positions, C)``."""
    return plan.conjugate(node, [(1, 2)])
