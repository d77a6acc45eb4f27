"""The table of rules: for each ATen operator, how it is keyed.

A rule is called as ``rule(plan, node, *args, **kwargs)`` with the operator's arguments, records in
the plan what has to be inserted or replaced, and returns the layout of the result, or one for each
of its results. An operator without a rule gets its operands restored.
"""

from collections.abc import Callable

import torch

RULES: dict[object, Callable] = {}
# Rules that give their result a key even where no input has one: a decoder's first layers.
SOURCES: set[Callable] = set()


def rule(*operators: object, source: bool = False) -> Callable[[Callable], Callable]:
    """Register a rule for ATen operators, all overloads of each.

    Args:
        source: whether the rule also applies where no input has a key.
    """

    def register(function: Callable) -> Callable:
        RULES.update(dict.fromkeys(operators, function))
        if source:
            SOURCES.add(function)
        return function

    return register


def rule_for(target: object) -> Callable | None:
    """The rule of an operator, or None; torch says itself which operators are pointwise."""
    if not isinstance(target, torch._ops.OpOverload):
        return RULES.get(target)
    packets, name = [target.overloadpacket], target._schema.name.removeprefix("aten::")
    if name.endswith("_") and hasattr(torch.ops.aten, name[:-1]):  # in place
        packets.append(getattr(torch.ops.aten, name[:-1]))
    for packet in packets:
        if packet in RULES:
            return RULES[packet]
    overloads = [getattr(packet, packet.overloads()[0]) for packet in packets]
    pointwise = any(torch.Tag.pointwise in overload.tags for overload in (target, *overloads))
    return RULES[torch.Tag.pointwise] if pointwise else None
