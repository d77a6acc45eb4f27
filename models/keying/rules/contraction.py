"""Products that sum over an axis: linear layers, matrix products, attention.

Attention is equivariant under permutations of the tokens, so a key passes through it: keys and
values meet along their tokens, hence share one permutation, and the result has that of the queries.
A mask or a bias of positions is brought under both.
"""

import torch
from torch import fx

from models.keying.layout import Layout
from models.keying.plan import Plan
from models.keying.registry import rule
from models.keying.relate import relate

aten = torch.ops.aten


def from_the_end(plan: Plan, x: fx.Node, last: str) -> list:
    """Labels of an operand: ``last`` for its last axes, numbers from the end for its batch."""
    sizes = plan.shape(x)
    names = [*range(len(last) - len(sizes), 0), *last]
    return [None if n == 1 else name for n, name in zip(sizes, names, strict=True)]


@rule(aten.linear)
def linear(plan: Plan, node: fx.Node, x: fx.Node, *_, **__) -> Layout:
    """``(..., I)`` -> ``(..., O)``."""
    axes = list(range(len(plan.shape(x)) - 1))
    return relate(plan, node, [(x, [*axes, "features"])], [*axes, "features"], natural=["features"])


@rule(aten.matmul, aten.bmm, aten.mm, aten.baddbmm, aten.addmm)
def matmul(plan: Plan, node: fx.Node, *tensors: fx.Node, **__) -> object:
    """``(..., I, K)`` and ``(..., K, J)``, added to ``(..., I, J)`` or not -> ``(..., I, J)``."""
    if min(len(plan.shape(x)) for x in tensors) < 2:
        return NotImplemented
    operands = [
        (x, from_the_end(plan, x, last))
        for x, last in zip(tensors[::-1], ("kj", "ik", "ij"), strict=False)
    ]
    result = [*range(2 - len(plan.shape(node)), 0), "i", "j"]
    return relate(plan, node, operands[::-1], result, summed=["k"])


@rule(aten.einsum)
def einsum(plan: Plan, node: fx.Node, equation: str, operands: list, **__) -> object:
    """``(...)`` for each term -> ``(...)``, as ``torch.einsum`` describes them."""
    given, arrow, result = equation.replace(" ", "").partition("->")
    terms = given.split(",")
    if not arrow or "." in equation or any(len(set(term)) < len(term) for term in terms):
        return NotImplemented
    labelled = [(x, list(term)) for x, term in zip(operands, terms, strict=True)]
    return relate(plan, node, labelled, list(result), summed=set(given) - set(result))


@rule(aten.scaled_dot_product_attention)
def attention(
    plan: Plan,
    node: fx.Node,
    query: fx.Node,
    key: fx.Node,
    value: fx.Node,
    mask: fx.Node | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    **__,
) -> Layout:
    """``(..., L, E)``, ``(..., S, E)`` and ``(..., S, V)`` -> ``(..., L, V)``."""
    tensors = ((query, "le"), (key, "se"), (value, "sv"), (mask, "ls"))
    operands = [(x, from_the_end(plan, x, last)) for x, last in tensors if x is not None]
    # Dropout draws a mask for the natural order, inside of the operator.
    natural = "els" if is_causal or dropout else "e"
    result = [*range(2 - len(plan.shape(node)), 0), "l", "v"]
    return relate(plan, node, operands, result, natural=natural, summed="s")
