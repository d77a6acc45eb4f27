"""An exported program written again as a graph whose parameters and constants are attributes."""

import operator

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from models.keying.functions import FunctionCall, is_recorded
from models.keying.graph import (
    BATCH,
    CALL,
    HELPERS,
    VALUE,
    KeyingError,
    Value,
    is_tensor,
    mutates,
    what,
    where,
)

aten = torch.ops.aten


class Translation:
    """An exported program written again, with attributes in place of its lifted inputs."""

    def __init__(self, program: torch.export.ExportedProgram, calls: list[FunctionCall]) -> None:
        self.program, self.graph, self.constants = program, fx.Graph(), {}
        self.calls = calls  # which its nodes stand for
        self.sizes: dict[object, int] = {}
        self.detached = 0  # how many blocks of torch.no_grad it is in

    def graph_and_constants(self) -> tuple[fx.Graph, dict]:
        inputs = {spec.arg.name: spec for spec in self.program.graph_signature.input_specs}
        nodes: dict[fx.Node, object] = {}
        images = [n for n in self.program.graph.nodes if n.op == "placeholder"]
        image = next(n for n in images if inputs[n.name].kind == InputKind.USER_INPUT)
        batch = image.meta["val"].shape[0]
        self.symbol = batch.node.expr if isinstance(batch, torch.SymInt) else None
        if self.symbol is None or not self.symbol.is_symbol:
            raise KeyingError("forward: cannot be exported: it bakes in the size of the batch")
        nodes[image] = self._describe(self.graph.placeholder("x"), image)
        for node in images:
            if node is not image:
                nodes[node] = self._attribute(node, inputs[node.name])
        (leaves,) = self._copy(self.program.graph, self.program.graph_module, nodes)
        self.graph.output(list(leaves))
        return self.graph, self.constants

    def _attribute(self, node: fx.Node, spec: object) -> object:
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            path = spec.target.removeprefix("net.")
        else:
            path = f"{HELPERS}.{node.name}"
            self.constants[node.name] = self.program.constants[spec.target]
        return self._describe(self.graph.create_node("get_attr", path), node)

    def _copy(self, graph: fx.Graph, owner: nn.Module, nodes: dict) -> tuple:
        """Copy the nodes of a graph; the results of its output."""
        for node in graph.nodes:
            if node.op == "output":
                return fx.node.map_arg(node.args, lambda n: nodes[n])
            if node.op == "get_attr":
                nodes[node] = getattr(owner, node.target)  # the body of a block, such as no_grad
            elif node.target is aten.view_as.default and node.args[0] is node.args[1]:
                nodes[node] = nodes[node.args[0]]  # marks where backward hooks are called
            elif is_recorded(node):
                nodes[node] = self._function(node, nodes)
            elif node.op == "call_function" and "_assert" not in str(node.target):
                body = next((a for a in node.args if self._is_body(a)), None)
                if body is None:
                    copied = self.graph.node_copy(node, lambda n: nodes[n])
                    nodes[node] = self._describe(copied, node)
                    if self.detached and mutates(copied):
                        self._detach_operands(copied)
                else:
                    nodes[node] = self._inline(node, nodes[body], nodes)
        raise AssertionError("a graph has an output")

    def _function(self, node: fx.Node, nodes: dict) -> object:
        """A custom autograd function; its only result in a list, as the node's results are."""
        *arguments, call = fx.node.map_arg(node.args, lambda n: nodes[n])
        new = self._describe(self.graph.call_function(self.calls[call], tuple(arguments)), node)
        if len(new.meta[VALUE]) > 1:
            return new
        (new.meta[VALUE],) = new.meta[VALUE]
        return [new]

    @staticmethod
    def _is_body(argument: object) -> bool:
        return isinstance(argument, fx.Node) and argument.op == "get_attr"

    def _inline(self, node: fx.Node, body: fx.GraphModule, nodes: dict) -> object:
        """The body of ``torch.no_grad`` or a disabled autocast, in the place of its call."""
        name, reason = str(node.target).removeprefix("wrap_with_"), None
        if "autocast" in name and node.args[2]:
            reason = "it computes under autocast; call the whole network under it instead"
        elif "autocast" not in name and "set_grad_enabled" not in name:
            reason = "is control flow, or a function, that has no rule"
        if reason is not None:
            node.meta[CALL] = _calls(node)
            raise KeyingError(f"{where(node)}: {name}: {reason}")
        at = next(i for i, a in enumerate(node.args) if self._is_body(a))
        given = [nodes[a] if isinstance(a, fx.Node) else a for a in node.args[at + 1 :]]
        inside = dict(zip(body.graph.find_nodes(op="placeholder"), given, strict=True))
        no_grad = "set_grad_enabled" in str(node.target) and node.args[0] is False
        self.detached += no_grad
        (results,) = self._copy(body.graph, body, inside)
        self.detached -= no_grad
        if no_grad:
            detached = [self.graph.call_function(aten.detach.default, (r,)) for r in results]
            for new, old in zip(detached, results, strict=True):
                new.meta.update(old.meta)
            results = detached
        return results

    def _detach_operands(self, node: fx.Node) -> None:
        """Let an operator write its result where gradients are off, as ``out=`` needs it."""
        for x in node.all_input_nodes:
            if is_tensor(x) and x.op != "get_attr":
                with self.graph.inserting_before(node):
                    new = self.graph.call_function(aten.detach.default, (x,))
                new.meta.update(x.meta)
                node.replace_input_with(x, new)

    def _describe(self, new: fx.Node, old: fx.Node) -> fx.Node:
        if new.target is operator.getitem and not isinstance(new.args[0], fx.Node):
            values, index = new.args  # of an inlined block
            self.graph.erase_node(new)
            return values[index]
        new.meta = {CALL: _calls(old)}
        try:
            new.meta[VALUE] = pytree.tree_map(self._value, old.meta.get("val"))
        except _DependsOnDataError as error:
            reason = "the size of its result depends on data"
            raise KeyingError(f"{where(new)}: {what(new)}: {reason}") from error
        return new

    def _value(self, value: object) -> object:
        if not isinstance(value, Tensor):
            return value
        return Value(tuple(self._size(n) for n in value.shape), value.dtype, value.device)

    def _size(self, size: object) -> int:
        if isinstance(size, int):
            return size
        expression = size.node.expr
        if expression not in self.sizes:
            if expression.free_symbols != {self.symbol}:
                raise _DependsOnDataError
            self.sizes[expression] = int(expression.subs(self.symbol, BATCH))
        return self.sizes[expression]


def _calls(node: fx.Node) -> list[tuple[str, str]]:
    """The calls of modules that an exported node belongs to, the outermost first, with their paths.

    None for what the exporter adds itself, to keep what was assigned to a buffer.
    """
    stack = (node.meta.get("nn_module_stack") or {}) if "val" in node.meta else {}
    calls = [(key, path) for key, (path, _) in stack.items() if not path.startswith("_empty")]
    return [(key, path.removeprefix("net").lstrip(".")) for key, path in calls]


class _DependsOnDataError(Exception):
    """A size that is known only when the network runs."""
