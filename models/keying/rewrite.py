"""A plan carried out: reorderings inserted into the graph, layers replaced by keyed operators."""

from math import prod

import torch
from torch import Tensor, fx, nn

from models.keying.graph import BATCH, HELPERS, VALUE
from models.keying.layout import MapKey, Shape
from models.keying.plan import RULE, Plan, Reordering, Replacement
from operators.gather import reorder
from operators.permutation import invert


class RunReorder(nn.Module):
    """Reorder positions that lie anywhere in a tensor, from one key to another.

    Convention: a tensor of ``outer * positions * inner`` elements, in row-major order, becomes
    ``out[o, p, i] = in[o, index[p], i]`` with ``index`` the inverse of the one key, taken at the
    other. Where each image has its own keys, they are those of the batch to come.

    Args:
        in_key, out_key: ``(positions,)`` int64, permutations.
        outer, inner: numbers of elements, one of them -1 where it depends on the batch.
        is_map: whether the positions are the last two of four axes.
        expand: sizes that the tensor is stretched to first, or None; ``-k`` for ``k`` images, and
            -1 for any number of them under common keys.
        before: number of elements before the axis of the batch.
    """

    def __init__(
        self,
        in_key: Tensor,
        out_key: Tensor,
        outer: int,
        inner: int,
        is_map: bool,
        expand: Shape | None,
        before: int,
    ) -> None:
        super().__init__()
        self.outer, self.inner, self.is_map = outer, inner, is_map
        self.expand, self.before = expand, before
        for name in ("index", "inverse"):
            self.register_buffer(name, None, persistent=False)
        self.give_keys(in_key, out_key)

    def give_keys(self, in_key: Tensor, out_key: Tensor) -> None:
        """Take other keys, each ``(positions,)``, or ``(N, positions)`` for the batch to come."""
        in_key, out_key = torch.broadcast_tensors(in_key, out_key)
        self.index = invert(in_key.contiguous()).gather(-1, out_key)
        self.inverse = invert(self.index)

    def forward(self, x: Tensor) -> Tensor:
        if self.index.dim() == 2:
            return self._each_image(x)
        if self.expand is not None:
            x = x.expand(self.expand)
        if self.is_map:
            return reorder(x, self.index, self.inverse)
        positions = self.index.numel()
        if self.inner == 1:
            planes = x.reshape(self.outer, 1, positions)
            return reorder(planes, self.index, self.inverse).reshape(x.shape)
        rows = x.reshape(self.outer, positions, self.inner)
        return self._rows(rows, self.index, self.inverse).reshape(x.shape)

    def _each_image(self, x: Tensor) -> Tensor:
        count, positions = self.index.shape
        if self.expand is not None:
            x = x.expand([-n * count if n < 0 else n for n in self.expand])
        if not x.numel():
            return x
        images = x.reshape(self.before, count, -1).transpose(0, 1)  # (N, before, ...)
        inner = self.inner if self.outer < 0 else images[0].numel() // (self.outer * positions)
        rows = images.reshape(-1, positions, inner)
        each = len(rows) // count
        keys = [key.repeat_interleave(each, 0) for key in (self.index, self.inverse)]
        moved = self._rows(rows, *keys).reshape(count, self.before, -1)
        return moved.transpose(0, 1).reshape(x.shape)

    @staticmethod
    def _rows(rows: Tensor, *keys: Tensor) -> Tensor:
        """``(outer, positions, inner)`` -> the same."""
        pixels = rows.transpose(1, 2).unsqueeze(-1)  # (outer, inner, positions, 1), channels_last
        return reorder(pixels, *keys).squeeze(-1).transpose(1, 2)

    def extra_repr(self) -> str:
        return f"positions={self.index.shape[-1]}, outer={self.outer}, inner={self.inner}"


def carry_out(plan: Plan, helpers: nn.Module) -> list[tuple[str, MapKey, MapKey]]:
    """Rewrite the graph and the modules of a plan whose keys are all drawn.

    Args:
        helpers: takes the modules that the network did not have; it is ``net.keying``.

    Returns:
        for each module with keys its name, and the keys that its ``give_keys`` takes.
    """
    # Whom to reorder next: a result or an operand may be reordered more than once.
    seats: dict[object, fx.Node] = {}
    keyed = []
    for edit in plan.edits:
        carry = _replace if isinstance(edit, Replacement) else _reorder
        name = carry(plan, helpers, edit, seats)
        if name is not None:
            keyed.append((name, edit.in_key, edit.out_key))
            made = isinstance(edit, Replacement) or edit.operand is None
            if made and edit.node.meta[RULE] == "conv2d" and plan.first_map is None:
                plan.first_map = (name, edit.out_key)
    plan.edits.clear()  # they refer to the plan, a cycle that would keep the weights alive
    plan.graph.lint()
    return keyed


def _reorder(plan: Plan, helpers: nn.Module, edit: Reordering, seats: dict) -> str | None:
    if edit.optional and torch.equal(edit.in_key.value, edit.out_key.value):
        return None
    node, operand = edit.node, edit.operand
    seat = node if operand is None else (node, operand)
    moved = seats.get(seat, seats.get(operand, operand or node))
    path = _add(helpers, (operand or node).name, _reordering(edit))
    place = plan.graph.inserting_after if operand is None else plan.graph.inserting_before
    with place(moved if operand is None else node):
        new = plan.graph.call_module(path, (moved,))
    if operand is None:
        moved.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
    else:
        node.replace_input_with(moved, new)
    seats[seat] = new
    return path


def _reordering(edit: Reordering) -> RunReorder:
    value = (edit.operand or edit.node).meta[VALUE]
    shape = value.shape if edit.shape is None else edit.shape
    positions, outer = edit.in_key.positions, edit.outer
    inner = prod(shape) // (outer * positions)
    is_map = len(shape) == 4 and inner == 1 and positions == shape[2] * shape[3]
    batch = next((axis for axis, n in enumerate(shape) if n % BATCH == 0), 0)
    outer, inner = (-1 if n % BATCH == 0 else n for n in (outer, inner))
    expand = edit.shape and tuple(-(n // BATCH) if n % BATCH == 0 else n for n in edit.shape)
    module = RunReorder(
        edit.in_key.value, edit.out_key.value, outer, inner, is_map, expand, prod(shape[:batch])
    )
    return module.to(value.device)


def _add(helpers: nn.Module, name: str, module: nn.Module) -> str:
    name = f"{name}_{len(helpers._modules)}"
    helpers.add_module(name, module.train(helpers.training))
    return f"{HELPERS}.{name}"


def _replace(plan: Plan, helpers: nn.Module, edit: Replacement, seats: dict) -> str:
    node = edit.node
    try:
        layer = edit.build(edit.in_key.value, edit.out_key.value)
    except ValueError as error:
        plan.fail(node, str(error))
    layer.to(node.meta[VALUE].device)
    free = plan.calls[node.target] == 1 and node.target not in plan.shared.unkeyed
    if node.op == "call_module" and free:
        old = plan.net.get_submodule(node.target)
        layer.train(old.training)
        for name, value in vars(old).items():
            if "_hooks" in name and value:
                setattr(layer, name, value)  # they see the keyed layer's maps
        plan.net.set_submodule(node.target, layer)
        plan.shared.layers[node.target] = (edit.in_key, edit.out_key)
    else:
        # An operator, or a module that is called in several places, each with its own keys.
        node.op, node.target = "call_module", _add(helpers, node.name, layer)
    node.args = (seats.get((node, edit.operand), seats.get(edit.operand, edit.operand)),)
    node.kwargs = {}
    return node.target
