"""The plan of a keyed network: the layout of every tensor, and what to insert or replace.

Rules write it in the order of execution, before any key is drawn. A rule has three means:

- **replace** a layer by its keyed operator, which goes from one key to another by itself;
- **restore** an operand to natural order and **scramble** the result under a fresh key, for
  operations that have no keyed operator; this is what the operators' gather backend does too;
- leave the operation as it is and say what it does to the layout.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod

from torch import Tensor, fx, nn

from models.keying.layout import NATURAL, Group, Layout, MapKey, Shape, trimmed

VALUE, LAYOUT = "value", "layout"  # what a planned node's meta holds


class KeyingError(ValueError):
    """A network that cannot be keyed exactly; names the module, the operation and the reason."""


@dataclass(frozen=True)
class Reordering:
    """Reorder ``operand`` on its way into ``node``, or the result of ``node`` where it is None.

    Args:
        group: the axes, and the key to scramble under or to restore from.
        restore: the direction.
        sizes: lengths that the axes are expanded to first, or None.
    """

    node: fx.Node
    operand: fx.Node | None
    group: Group
    restore: bool
    sizes: Shape | None = None


@dataclass(frozen=True)
class Replacement:
    """Put ``build(in_key, out_key)`` in the place of the layer that ``node`` calls."""

    node: fx.Node
    operand: fx.Node
    in_key: MapKey | None
    out_key: MapKey | None
    build: Callable[[Tensor, Tensor], nn.Module]


class Plan:
    """Everything that is decided about one network.

    Args:
        net: the network, whose traced graph has the value of every node in its meta.
        graph: the traced graph.
        backend: how keyed operators compute.
        image_key: the key of the input images.
    """

    def __init__(self, net: nn.Module, graph: fx.Graph, backend: str, image_key: Tensor) -> None:
        self.net, self.graph, self.backend = net, graph, backend
        self.keys = [MapKey(0, image_key.numel(), image_key)]
        self.edits: list[Reordering | Replacement] = []
        self.calls = Counter(node.target for node in graph.nodes if node.op == "call_module")

    # What rules ask

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls; None for a function or a method."""
        return self.net.get_submodule(node.target) if node.op == "call_module" else None

    def shape(self, node: fx.Node) -> Shape:
        """The shape of a node's result."""
        return tuple(node.meta[VALUE].shape)

    def layout(self, operand: object) -> Layout:
        """The layout of an operand as planned so far; natural order for what is no tensor."""
        return operand.meta[LAYOUT] if isinstance(operand, fx.Node) else NATURAL

    def tensors(self, node: fx.Node) -> list[fx.Node]:
        """The tensors among the inputs of a node, each once."""
        return [x for x in node.all_input_nodes if isinstance(x.meta[VALUE], Tensor)]

    def fail(self, node: fx.Node, reason: str) -> None:
        """Raise ``KeyingError``, naming the node and what it calls."""
        raise KeyingError(f"{where(node)}: {what(node, self.module(node))}: {reason}")

    # What rules decide

    def fresh(self, node: fx.Node, first: int, last: int) -> Layout:
        """A layout with a new key for the axes ``first..last`` of the result of ``node``."""
        span = trimmed(self.shape(node), first, last)
        if span is None:
            return NATURAL
        positions = prod(self.shape(node)[first : last + 1])
        self.keys.append(MapKey(len(self.keys), positions))
        return (Group(self.keys[-1], *span),)

    def restore(self, node: fx.Node, operand: fx.Node, groups: Layout | None = None) -> None:
        """Bring groups of an operand (all of them by default) to natural order before ``node``."""
        for group in self.layout(operand) if groups is None else groups:
            self.edits.append(Reordering(node, operand, group, restore=True))

    def scramble(self, node: fx.Node, operand: fx.Node, group: Group, sizes: Shape) -> None:
        """Bring an operand in natural order under a group's key before ``node``.

        The group's axes may be counted from the end; they are expanded to ``sizes``.
        """
        self.edits.append(Reordering(node, operand, group, restore=False, sizes=sizes))

    def scramble_result(self, node: fx.Node, layout: Layout) -> Layout:
        """Bring the natural result of ``node`` under the keys of ``layout``."""
        for group in layout:
            self.edits.append(Reordering(node, None, group, restore=False))
        return layout

    def conjugate(self, node: fx.Node, spans: Iterable[tuple[int, int]]) -> Layout:
        """Compute ``node`` in natural order; a fresh key for each span of axes of its result."""
        for operand in self.tensors(node):
            self.restore(node, operand)
        fresh = [group for span in spans for group in self.fresh(node, *span)]
        return self.scramble_result(node, tuple(fresh))

    def keep(self, node: fx.Node, x: fx.Node, mixed: Iterable[int] = ()) -> Layout:
        """For a result shaped like ``x``: the layout of ``x``, which stays as it is.

        A group with a mixed axis, along which positions are told apart, is restored before and
        scrambled afresh afterwards.
        """
        mixed = set(mixed)
        touched = tuple(g for g in self.layout(x) if any(axis in g for axis in mixed))
        self.restore(node, x, touched)
        fresh = tuple(new for group in touched for new in self.fresh(node, *group.span))
        self.scramble_result(node, fresh)
        return (*(group for group in self.layout(x) if group not in touched), *fresh)

    def replace(
        self, node: fx.Node, x: fx.Node, build: Callable[[Tensor, Tensor], nn.Module]
    ) -> Layout:
        """Replace a layer from maps to maps, at the last two axes, by its keyed operator."""
        rank = len(self.shape(node))
        layout = self.fresh(node, rank - 2, rank - 1)
        in_key = self.layout(x)[0].key if self.layout(x) else None
        out_key = layout[0].key if layout else None
        self.edits.append(Replacement(node, x, in_key, out_key, build))
        return layout


def where(node: fx.Node) -> str:
    """Path of the module that a traced call belongs to."""
    if node.op == "call_module":
        return str(node.target)
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return (stack[-1][0] if stack else "") or "forward"


def what(node: fx.Node, module: nn.Module | None) -> str:
    """Name of the operation of a traced call."""
    if module is not None:
        return type(module).__name__
    return getattr(node.target, "__name__", str(node.target))
