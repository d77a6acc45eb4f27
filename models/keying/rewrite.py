"""A plan carried out: reorderings inserted into the graph, layers replaced by keyed operators."""

import torch
from torch import Tensor, fx, nn

from models.keying.plan import VALUE, Plan, Reordering, Replacement
from operators.gather import reorder
from operators.permutation import invert

HELPERS = "keying"  # submodule of a keyed network that holds its reorderings; no parameters


class MapReorder(nn.Module):
    """Reorder the positions of a map that lies at any neighbouring axes.

    Convention: ``out[p] = in[index[p]]`` over the row-major index of the axes ``first..last``.

    Args:
        index: ``(positions,)`` int64, a permutation.
        first, last: the axes, counted from the end (negative).
        sizes: lengths that the axes are expanded to first, or None.
    """

    def __init__(
        self, index: Tensor, first: int, last: int, sizes: tuple[int, ...] | None = None
    ) -> None:
        super().__init__()
        self.first, self.last, self.sizes = first, last, sizes
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("inverse", invert(index), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.sizes is not None:
            # (1, C) or (W,) -> (..., H, W): what broadcasting would do, before the reordering
            x = x.reshape((1,) * (-self.first - x.dim()) + x.shape)
            shape = list(x.shape)
            shape[self.first : shape_end(self.last)] = self.sizes
            x = x.expand(shape)
        sizes = x.shape[self.first : shape_end(self.last)]
        axis = x.dim() + self.first
        planes = x.flatten(self.first, self.last).movedim(axis, -1)  # (..., positions)
        planes = reorder(planes.unsqueeze(-2), self.index, self.inverse).squeeze(-2)
        return planes.movedim(-1, axis).unflatten(axis, sizes)

    def extra_repr(self) -> str:
        return f"positions={self.index.numel()}, axes={self.first}..{self.last}"


def shape_end(last: int) -> int | None:
    """End of the slice of a shape whose last axis is ``last`` (negative)."""
    return None if last == -1 else last + 1


def carry_out(plan: Plan) -> None:
    """Rewrite the graph and the modules of a plan whose keys are all drawn."""
    helpers = nn.Module().train(plan.net.training)
    # Whom to reorder next: a result or an operand may be reordered more than once.
    seats: dict[object, fx.Node] = {}
    for edit in plan.edits:
        if isinstance(edit, Replacement):
            _replace(plan, helpers, edit, seats)
        elif edit.operand is None:
            _reorder_result(plan, helpers, edit, seats)
        else:
            _reorder_operand(plan, helpers, edit, seats)
    plan.edits.clear()  # they refer to the plan, a cycle that would keep the weights alive
    if helpers._modules:
        plan.net.add_module(HELPERS, helpers)
    plan.graph.lint()


def _reorder_result(plan: Plan, helpers: nn.Module, edit: Reordering, seats: dict) -> None:
    node = seats.get(edit.node, edit.node)
    path = _helper(plan, helpers, edit, edit.node)
    with plan.graph.inserting_after(node):
        new = plan.graph.call_module(path, (node,))
    node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
    seats[edit.node] = new


def _reorder_operand(plan: Plan, helpers: nn.Module, edit: Reordering, seats: dict) -> None:
    seat = (edit.node, edit.operand)
    operand = seats.get(seat, seats.get(edit.operand, edit.operand))
    path = _helper(plan, helpers, edit, edit.operand)
    with plan.graph.inserting_before(edit.node):
        new = plan.graph.call_module(path, (operand,))
    edit.node.replace_input_with(operand, new)
    seats[seat] = new


def _helper(plan: Plan, helpers: nn.Module, edit: Reordering, of: fx.Node) -> str:
    """Add the module of a reordering; its path."""
    key, device = edit.group.key.value, of.meta[VALUE].device
    first, last = (a if a < 0 else a - of.meta[VALUE].dim() for a in edit.group.span)
    module = MapReorder(invert(key) if edit.restore else key, first, last, edit.sizes)
    return _add(helpers, of.name, module.to(device).train(plan.net.training))


def _add(helpers: nn.Module, name: str, module: nn.Module) -> str:
    name = f"{name}_{len(helpers._modules)}"
    helpers.add_module(name, module)
    return f"{HELPERS}.{name}"


def _replace(plan: Plan, helpers: nn.Module, edit: Replacement, seats: dict) -> None:
    node = edit.node
    size_in, size_out = (x.meta[VALUE].shape[-2:].numel() for x in (edit.operand, node))
    layer = edit.build(
        *(
            torch.arange(n) if key is None else key.value
            for key, n in ((edit.in_key, size_in), (edit.out_key, size_out))
        )
    )
    replaced = plan.module(node)
    layer.train((plan.net if replaced is None else replaced).training)
    layer.to(node.meta[VALUE].device)
    if node.op == "call_module" and plan.calls[node.target] == 1:
        plan.net.set_submodule(node.target, layer)
    else:
        # A function, or a module that is called in several places, each with its own keys.
        node.op, node.target = "call_module", _add(helpers, node.name, layer)
    node.args, node.kwargs = (seats.get(edit.operand, edit.operand),), {}
