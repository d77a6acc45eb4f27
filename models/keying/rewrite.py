"""A plan carried out: reorderings inserted into the graph, layers replaced by keyed operators."""

from math import prod

import torch
from torch import Tensor, fx, nn

from models.keying.graph import BATCH, HELPERS, VALUE
from models.keying.layout import Run, Shape
from models.keying.plan import Plan, Reordering, Replacement
from operators.gather import reorder
from operators.permutation import invert


class RunReorder(nn.Module):
    """Reorder positions that lie anywhere in a tensor.

    Convention: a tensor of ``outer * positions * inner`` elements, in row-major order, becomes
    ``out[o, p, i] = in[o, index[p], i]``.

    Args:
        index: ``(positions,)`` int64, a permutation.
        outer, inner: numbers of elements, one of them -1 where it depends on the batch.
        is_map: whether the positions are the last two of four axes.
        expand: sizes that the tensor is stretched to first, or None.
    """

    def __init__(
        self, index: Tensor, outer: int, inner: int, is_map: bool, expand: Shape | None
    ) -> None:
        super().__init__()
        self.outer, self.inner, self.is_map, self.expand = outer, inner, is_map, expand
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("inverse", invert(index), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.expand is not None:
            x = x.expand(self.expand)
        if self.is_map:
            return reorder(x, self.index, self.inverse)
        positions = self.index.numel()
        if self.inner == 1:
            planes = x.reshape(self.outer, 1, positions)
            return reorder(planes, self.index, self.inverse).reshape(x.shape)
        rows = x.reshape(self.outer, positions, self.inner)
        pixels = rows.transpose(1, 2).unsqueeze(-1)  # (outer, inner, positions, 1), channels_last
        pixels = reorder(pixels, self.index, self.inverse)
        return pixels.squeeze(-1).transpose(1, 2).reshape(x.shape)

    def extra_repr(self) -> str:
        return f"positions={self.index.numel()}, outer={self.outer}, inner={self.inner}"


def carry_out(plan: Plan, helpers: nn.Module) -> None:
    """Rewrite the graph and the modules of a plan whose keys are all drawn.

    Args:
        helpers: takes the modules that the network did not have; it is ``net.keying``.
    """
    # Whom to reorder next: a result or an operand may be reordered more than once.
    seats: dict[object, fx.Node] = {}
    for edit in plan.edits:
        if isinstance(edit, Replacement):
            _replace(plan, helpers, edit, seats)
        else:
            _reorder(plan, helpers, edit, seats)
    plan.edits.clear()  # they refer to the plan, a cycle that would keep the weights alive
    plan.graph.lint()


def _reorder(plan: Plan, helpers: nn.Module, edit: Reordering, seats: dict) -> None:
    index = edit.index()
    if edit.optional and torch.equal(index, torch.arange(index.numel())):
        return
    node = edit.node
    module = _reordering(edit.operand or node, edit.run, index, edit.shape)
    if edit.operand is None:
        node = seats.get(node, node)
        path = _add(helpers, edit.node.name, module)
        with plan.graph.inserting_after(node):
            new = plan.graph.call_module(path, (node,))
        node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
        seats[edit.node] = new
        return
    seat = (node, edit.operand)
    operand = seats.get(seat, seats.get(edit.operand, edit.operand))
    path = _add(helpers, edit.operand.name, module)
    with plan.graph.inserting_before(node):
        new = plan.graph.call_module(path, (operand,))
    node.replace_input_with(operand, new)
    seats[seat] = new


def _reordering(of: fx.Node, run: Run, index: Tensor, expand: Shape | None) -> RunReorder:
    value = of.meta[VALUE]
    shape = value.shape if expand is None else expand
    end = run.outer * index.numel()
    inner = prod(shape) // end
    outer = -1 if run.outer % BATCH == 0 else run.outer
    inner = -1 if inner % BATCH == 0 else inner
    is_map = len(shape) == 4 and inner == 1 and index.numel() == shape[2] * shape[3]
    if expand is not None:
        expand = tuple(-1 if n % BATCH == 0 else n for n in expand)
    return RunReorder(index, outer, inner, is_map, expand).to(value.device)


def _add(helpers: nn.Module, name: str, module: nn.Module) -> str:
    name = f"{name}_{len(helpers._modules)}"
    helpers.add_module(name, module.train(helpers.training))
    return f"{HELPERS}.{name}"


def _replace(plan: Plan, helpers: nn.Module, edit: Replacement, seats: dict) -> None:
    node = edit.node
    size_in, size_out = (prod(x.meta[VALUE].shape[-2:]) for x in (edit.operand, node))
    layer = edit.build(
        *(
            torch.arange(n) if key is None else key.value
            for key, n in ((edit.in_key, size_in), (edit.out_key, size_out))
        )
    )
    layer.to(node.meta[VALUE].device)
    if node.op == "call_module" and plan.calls[node.target] == 1:
        old = plan.net.get_submodule(node.target)
        layer.train(old.training)
        for name, value in vars(old).items():
            if "_hooks" in name and value:
                setattr(layer, name, value)  # they see the keyed layer's maps
        plan.net.set_submodule(node.target, layer)
    else:
        # An operator, or a module that is called in several places, each with its own keys.
        node.op, node.target = "call_module", _add(helpers, node.name, layer)
    seat = (node, edit.operand)
    node.args = (seats.get(seat, seats.get(edit.operand, edit.operand)),)
    node.kwargs = {}
