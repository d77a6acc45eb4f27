"""How much of a keyed network's work is done on scrambled maps, operator by operator."""

from dataclasses import dataclass

from torch import fx

from models.keying.graph import VALUE, Value, what, where
from models.keying.plan import LAYOUT, RULE, Plan

SCRAMBLED, NATURAL, FEATURES = "scrambled", "natural", "features"
RESTORED = "restored"  # in place of a rule's name


@dataclass(frozen=True)
class Row:
    """What became of one operator.

    Attributes:
        module: path of the module that it belongs to.
        operator: the module's class, or the name of the operator.
        rule: name of the rule, or ``restored``.
        result: ``scrambled``, ``natural`` or ``features``, which have no positions any more.
        bytes: of the result, for one image.
    """

    module: str
    operator: str
    rule: str
    result: str
    bytes: float


@dataclass(frozen=True)
class Report:
    """What became of every operator that sees the image.

    Attributes:
        rows: one for each.
        lost: names of leaf modules that are no longer called, so that hooks on them see nothing:
            they became several operators, or a keyed layer for each of several calls. Modules that
            contain others are taken apart and never called.
    """

    rows: tuple[Row, ...]
    lost: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """The scrambled part of the bytes of all maps, 0 to 1."""
        maps = [row for row in self.rows if row.result != FEATURES]
        total = sum(row.bytes for row in maps)
        kept = sum(row.bytes for row in maps if row.result == SCRAMBLED)
        return kept / total if total else 1.0

    @property
    def restored(self) -> tuple[Row, ...]:
        """The operators without a rule."""
        return tuple(row for row in self.rows if row.rule == RESTORED)

    def __str__(self) -> str:
        lines = [f"{r.module}: {r.operator}: {r.rule}, {r.result}" for r in self.rows]
        lines += [f"{name}: is no longer called" for name in self.lost]
        return "\n".join([*lines, f"{self.share:.1%} of the maps' bytes stay scrambled"])


def rows(plan: Plan) -> list[Row]:
    """The rows of a plan that is made."""
    states: dict[fx.Node, str] = {}
    result = []
    for node in plan.graph.nodes:
        seen = {states[x] for x in node.all_input_nodes if x in states}
        if node.op == "placeholder":
            states[node] = SCRAMBLED
        elif seen and node.op != "output" and _values(node):
            states[node] = _state(plan, node, seen)
            size = sum(value.bytes for value in _values(node))
            rule = node.meta.get(RULE, "natural")
            name = what(node, plan.module(node))
            result.append(Row(where(node), name, rule, states[node], size))
    return result


def _values(node: fx.Node) -> list[Value]:
    value = node.meta.get(VALUE)
    values = value if isinstance(value, (tuple, list)) else [value]
    return [v for v in values if isinstance(v, Value)]


def _state(plan: Plan, node: fx.Node, seen: set[str]) -> str:
    layout = node.meta[LAYOUT]
    if any(layout) and node.meta.get(RULE) != RESTORED:
        return SCRAMBLED
    if seen == {FEATURES}:
        return FEATURES
    if NATURAL in seen or node in plan.lost or node.meta.get(RULE) == RESTORED:
        flat = all(n == 1 for value in _values(node) for n in value.shape[2:])
        return FEATURES if flat else NATURAL
    return FEATURES
