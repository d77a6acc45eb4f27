"""The table of rules: for each module type, function and tensor method, how it is keyed.

A rule is called as ``rule(plan, node, *args, **kwargs)`` with the arguments of the traced call (the
tensor of a method comes first), records in the plan what has to be inserted or replaced, and
returns the layout of the result. An operation without a rule may only see natural tensors.
"""

from collections.abc import Callable, Iterable

from torch import fx, nn

MODULES: dict[type[nn.Module], Callable] = {}
FUNCTIONS: dict[Callable, Callable] = {}
METHODS: dict[str, Callable] = {}
# Rules that give their result a key even where no input has one: a decoder's first layers.
SOURCES: set[Callable] = set()


def rule(
    modules: Iterable[type[nn.Module]] = (),
    functions: Iterable[Callable] = (),
    methods: Iterable[str] = (),
    source: bool = False,
) -> Callable[[Callable], Callable]:
    """Register a rule for module types (exactly these, not their subclasses), functions, methods.

    Args:
        source: whether the rule also applies where no input has a key.
    """

    def register(function: Callable) -> Callable:
        MODULES.update(dict.fromkeys(modules, function))
        FUNCTIONS.update(dict.fromkeys(functions, function))
        METHODS.update(dict.fromkeys(methods, function))
        if source:
            SOURCES.add(function)
        return function

    return register


def rule_for(node: fx.Node, module: nn.Module | None) -> Callable | None:
    """The rule of a traced call, or None."""
    if node.op == "call_module":
        return MODULES.get(type(module))
    return (METHODS if node.op == "call_method" else FUNCTIONS).get(node.target)
