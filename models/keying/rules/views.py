"""Operations that see the elements of a tensor in the same order: reshaping, flattening.

A run of positions is told by the order of elements, so it stays what it is. Where it becomes part
of the features of ``(N, features)``, positions are restored on the way, so that the weights of the
linear layer that follows need no change and dropout falls on the same features.
"""

import torch
from torch import fx

from models.keying.layout import NATURAL, Layout
from models.keying.plan import Plan
from models.keying.registry import rule

aten = torch.ops.aten


@rule(
    *(aten.view, aten.reshape, aten._unsafe_view, aten.view_as, aten.reshape_as, aten.flatten),
    *(aten.unflatten, aten.squeeze, aten.unsqueeze, aten.view_copy),
)
def reshape(plan: Plan, node: fx.Node, x: fx.Node, *_, **__) -> Layout:
    """``(...)`` -> another shape of as many elements; ``(N, C, ...)`` -> ``(N, features)``."""
    shape, layout = plan.shape(node), []
    for run in plan.layout(x):
        if len(shape) == 2 and run.outer >= shape[0]:
            plan.restore(node, x, (run,))
        else:
            layout.append(run)
    return tuple(layout)


@rule(
    *(aten.zeros_like, aten.ones_like, aten.full_like, aten.empty_like, aten.rand_like),
    *(aten.new_zeros, aten.new_ones, aten.new_full, aten.new_empty, aten.randn_like),
)
def created(plan: Plan, node: fx.Node, x: fx.Node, *_, **__) -> Layout:
    """``(...)`` -> a tensor of any shape that does not depend on its elements."""
    return NATURAL
