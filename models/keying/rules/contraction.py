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


def from_the_end(plan: Plan, x: fx.Node, last: list) -> list:
    """Labels of an operand: ``last`` for its last axes, numbers from the end for its batch."""
    sizes = plan.shape(x)
    count = len(sizes) - len(last)
    return [None if sizes[axis] == 1 else axis - count for axis in range(count)] + last


@rule(aten.linear)
def linear(plan: Plan, node: fx.Node, x: fx.Node, *_, **__) -> Layout:
    """``(..., I)`` -> ``(..., O)``."""
    axes = list(range(len(plan.shape(x)) - 1))
    return relate(plan, node, [(x, [*axes, "features"])], [*axes, "features"], natural=["features"])


@rule(aten.matmul, aten.bmm, aten.mm)
def matmul(plan: Plan, node: fx.Node, a: fx.Node, b: fx.Node) -> object:
    """``(..., I, K)`` and ``(..., K, J)`` -> ``(..., I, J)``."""
    if min(len(plan.shape(a)), len(plan.shape(b))) < 2:
        return NotImplemented
    operands = [(a, from_the_end(plan, a, ["i", "k"])), (b, from_the_end(plan, b, ["k", "j"]))]
    batch = len(plan.shape(node)) - 2
    result = [*(axis - batch for axis in range(batch)), "i", "j"]
    return relate(plan, node, operands, result, summed=["k"])


@rule(aten.baddbmm, aten.addmm)
def add_matmul(plan: Plan, node: fx.Node, c: fx.Node, a: fx.Node, b: fx.Node, **__) -> object:
    """``(..., I, J)``, ``(..., I, K)`` and ``(..., K, J)`` -> ``(..., I, J)``."""
    if len(plan.shape(c)) != len(plan.shape(node)):
        return NotImplemented
    last = [None if n == 1 else name for n, name in zip(plan.shape(c)[-2:], "ij", strict=True)]
    operands = [
        (c, from_the_end(plan, c, last)),
        (a, from_the_end(plan, a, ["i", "k"])),
        (b, from_the_end(plan, b, ["k", "j"])),
    ]
    batch = len(plan.shape(node)) - 2
    result = [*(axis - batch for axis in range(batch)), "i", "j"]
    return relate(plan, node, operands, result, summed=["k"])


@rule(aten.einsum)
def einsum(plan: Plan, node: fx.Node, equation: str, operands: list, **__) -> object:
    """Tensors as ``torch.einsum`` takes them."""
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
    operands = [
        (query, from_the_end(plan, query, ["l", "e"])),
        (key, from_the_end(plan, key, ["s", "e"])),
        (value, from_the_end(plan, value, ["s", "v"])),
    ]
    if mask is not None:
        last = [
            None if n == 1 else name for n, name in zip(plan.shape(mask)[-2:], "ls", strict=True)
        ]
        operands.append((mask, from_the_end(plan, mask, last)))
    batch = len(plan.shape(node)) - 2
    result = [*(axis - batch for axis in range(batch)), "l", "v"]
    # Dropout draws a mask for the natural order, inside of the operator.
    natural = ("e", "l", "s") if is_causal or dropout else ("e",)
    return relate(plan, node, operands, result, natural=natural, summed=["s"])
