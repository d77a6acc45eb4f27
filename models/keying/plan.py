"""The plan of a keyed network: the layout of every tensor, and what to insert or replace.

Rules write it in the order of execution, before any key is drawn. A rule has four means:

- **replace** a layer by its keyed operator, which goes from one key to another by itself;
- **restore** an operand to natural order and **scramble** the result under a fresh key, for
  operations that have no keyed operator; this is what the operators' gather backend does too;
- **move** an operand from one key to another such that an operation that moves positions (slicing,
  rolling, permuting axes) makes a scrambled result of a scrambled operand;
- leave the operation as it is and say what it does to the layout.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod

from torch import Tensor, fx, nn

from models.keying.graph import BATCH, HEAD, INPUT, VALUE, KeyingError, is_tensor, what, where
from models.keying.layout import NATURAL, Layout, MapKey, Run, Shape, span

LAYOUT, RULE = "privdl_layout", "privdl_rule"


@dataclass(frozen=True)
class Reordering:
    """Reorder ``operand`` on its way into ``node``, or the result of ``node`` where it is None.

    Args:
        in_key, out_key: the keys of the positions before and after.
        outer: where the positions are, as of a ``Run``.
        shape: lengths that the operand is expanded to first, or None.
        optional: whether to leave it out where it changes nothing. All others are there whatever
            the keys are, so that networks under different keys are built alike.
    """

    node: fx.Node
    operand: fx.Node | None
    in_key: MapKey
    out_key: MapKey
    outer: int
    shape: Shape | None = None
    optional: bool = False


@dataclass(frozen=True)
class Replacement:
    """Put ``build(in_key, out_key)`` in the place of the layer that ``node`` calls."""

    node: fx.Node
    operand: fx.Node
    in_key: MapKey
    out_key: MapKey
    build: Callable[[Tensor, Tensor], nn.Module]


@dataclass
class Shared:
    """What the plans of a network's two modes share.

    Attributes:
        image_key: the key of the input images.
        backend: how keyed operators compute.
        strict: whether to refuse what has no rule.
        per_image: whether each image has its own keys, so that all that is scrambled has a batch.
        keys: all that were made.
        known: those that are drawn already, by their places in a plan.
        layers: keys of input and output of the layers that are keyed already, by their names.
        unkeyed: names of the modules that are called as they are.
    """

    image_key: MapKey
    backend: str
    strict: bool = False
    per_image: bool = False
    keys: list[MapKey] = field(default_factory=list)
    known: dict[str, Tensor] = field(default_factory=dict)
    layers: dict[str, tuple[MapKey, MapKey]] = field(default_factory=dict)
    unkeyed: set[str] = field(default_factory=set)


class Plan:
    """Everything that is decided about one network in one mode.

    Args:
        net: the network whose modules the graph calls.
        graph: from ``models.keying.export.export``.
    """

    def __init__(self, net: nn.Module, graph: fx.Graph, shared: Shared) -> None:
        self.net, self.graph, self.shared = net, graph, shared
        self.places: dict[str, MapKey] = {}  # who was given which key
        self.counts: Counter[str] = Counter()
        self.edits: list[Reordering | Replacement] = []
        self.first_map: tuple[str, MapKey] | None = None
        self.lost: set[fx.Node] = set()  # whose result came out natural
        self._restored: set[tuple[fx.Node, fx.Node, Run]] = set()
        self.calls = Counter(node.target for node in graph.nodes if node.op == "call_module")

    # What rules ask

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls; None for an operator."""
        return self.net.get_submodule(node.target) if node.op == "call_module" else None

    def call(self, node: fx.Node) -> tuple[object, tuple, dict]:
        """The operator of a node, in a module or not, with its arguments."""
        if node.op != "call_module":
            return node.target, node.args, node.kwargs
        head, args, kwargs = node.meta[HEAD]
        (x,) = node.args
        return head, *fx.node.map_aggregate((args, kwargs), lambda a: x if a is INPUT else a)

    def arguments(self, node: fx.Node) -> dict[str, object]:
        """The arguments of a node's operator by their names, defaults included."""
        operator, args, kwargs = self.call(node)
        schema = operator._schema.arguments
        given = dict(zip([a.name for a in schema], args, strict=False)) | dict(kwargs)
        return {a.name: a.default_value for a in schema if a.has_default_value()} | given

    def shape(self, node: fx.Node) -> Shape:
        return node.meta[VALUE].shape

    def has_batch(self, node: fx.Node) -> bool:
        return prod(self.shape(node)) % BATCH == 0

    def layout(self, operand: object) -> Layout:
        """The layout of an operand as planned so far; natural order for what is no tensor."""
        runs = operand.meta.get(LAYOUT, NATURAL) if isinstance(operand, fx.Node) else NATURAL
        return tuple(part for run in runs for part in run.whole())

    def tensors(self, node: fx.Node) -> list[fx.Node]:
        """The tensors among the inputs of a node, each once, those of its module included."""
        _, args, kwargs = self.call(node)
        found: dict[fx.Node, None] = {}
        fx.node.map_arg((args, kwargs), lambda n: found.setdefault(n))
        return [x for x in found if is_tensor(x)]

    def fail(self, node: fx.Node, reason: str) -> None:
        """Raise ``KeyingError``, naming the node and what it calls."""
        raise KeyingError(self.message(node, reason))

    def message(self, node: fx.Node, reason: str) -> str:
        return f"{where(node)}: {what(node, self.module(node))}: {reason}"

    # What rules decide

    def fresh(self, node: fx.Node, first: int, last: int, **options: bool) -> Layout:
        """A layout with a new key for the axes ``first..last`` of the result of ``node``."""
        return self.fresh_run(node, *span(self.shape(node), first, last), **options)

    def fresh_run(
        self, node: fx.Node, outer: int, positions: int, divisible: bool = False
    ) -> Layout:
        if positions == 1:
            return NATURAL
        name = f"{where(node)}: {what(node, self.module(node))}"
        self.counts[name] += 1
        name = f"{name}: {self.counts[name]}"
        key = MapKey(len(self.shared.keys) + 1, positions, divisible=divisible)
        known = self.shared.known.get(name)
        if known is not None and known.numel() == positions:
            key.give(known)
        self.shared.keys.append(key)
        self.places[name] = key
        return (Run(key, outer),)

    def restore(self, node: fx.Node, operand: fx.Node, runs: Layout | None = None) -> None:
        """Bring runs of an operand (all of them by default) to natural order before ``node``."""
        for run in self.layout(operand) if runs is None else runs:
            if (node, operand, run) not in self._restored:  # an operand may be given twice
                self._restored.add((node, operand, run))
                self.rekey(node, operand, run, MapKey.natural(run.key.positions))

    def scramble(self, node: fx.Node, operand: fx.Node, run: Run, shape: Shape | None) -> None:
        """Bring an operand in natural order under a run's key before ``node``."""
        natural = MapKey.natural(run.key.positions)
        self.edits.append(Reordering(node, operand, natural, run.key, run.outer, shape))

    def rekey(
        self, node: fx.Node, operand: fx.Node, run: Run, key: MapKey, optional: bool = False
    ) -> None:
        """Bring a run of an operand under another key before ``node``."""
        optional = optional and not self.shared.per_image
        edit = Reordering(node, operand, run.key, key, run.outer, optional=optional)
        self.edits.append(edit)

    def scramble_result(self, node: fx.Node, layout: Layout) -> Layout:
        """Bring the natural result of ``node`` under the keys of ``layout``."""
        results = [node]
        if not is_tensor(node):  # the same for each of several results
            results = [user for user in node.users if user.target is operator.getitem]
        for result in results:
            for run in layout:
                natural = MapKey.natural(run.key.positions)
                self.edits.append(Reordering(result, None, natural, run.key, run.outer))
        return layout
