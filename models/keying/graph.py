"""The network as a graph: exported by torch, with modules where a module's whole call is one node.

``torch.export`` follows the network's own Python code, so that sizes are numbers, the batch is
symbolic and every operation is an ATen operator. Parameters, buffers and constants become
attributes again, and a node that is all that a leaf module does becomes a call of that module,
which keeps its hooks, its mode and its place in ``named_modules``.

Convention: shapes are numbers here, and the size of the batch is the prime ``BATCH``, so that an
axis of ``2 * BATCH`` is known to hold the batch and two heads.
"""

import copy
import io
import logging
import operator
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, fields, is_dataclass
from inspect import signature
from itertools import islice
from keyword import iskeyword
from math import prod

import torch
from torch import Tensor, fx, nn
from torch.export import Dim
from torch.export.graph_signature import InputKind
from torch.nn.modules.module import register_module_buffer_registration_hook
from torch.utils import _pytree as pytree

BATCH = 1_000_003
VALUE, CALL, HEAD = "privdl_value", "privdl_call", "privdl_head"  # what nodes' meta holds
INPUT = object()  # stands for the input of a module among the arguments of its operator
HELPERS = "keying"  # submodule of a keyed network that holds what it did not have; no parameters
# Names that the network made from a graph has itself.
RESERVED = frozenset(
    f"{HELPERS} modes image_shape image_key restore report restored output_keys first_map "
    "key_training _functions _rekey _now".split()
)
aten = torch.ops.aten


class KeyingError(ValueError):
    """A network that cannot be keyed exactly; names the module, the operation and the reason."""


@dataclass(frozen=True)
class Value:
    """What is known about a tensor: its shape with ``BATCH`` for the batch, and its kind."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes(self) -> float:
        """Bytes for each image, or altogether if the tensor has no batch."""
        count = prod(self.shape)
        return (count / BATCH if count % BATCH == 0 else count) * self.dtype.itemsize


@contextmanager
def named() -> Iterator[None]:
    """Let whatever is raised be a ``KeyingError``."""
    try:
        yield
    except KeyingError:
        raise
    except Exception as error:
        raise KeyingError(f"forward: {type(error).__name__}: {_first_line(error)}") from error


def check_names(net: nn.Module) -> None:
    """Refuse names that cannot be attributes of the network made of a graph.

    Raises:
        KeyingError: naming the first of them.
    """
    if isinstance(net, torch._dynamo.OptimizedModule):
        raise KeyingError("forward: OptimizedModule: compile the keyed network, not the plain one")
    for name in (*net._modules, *net._parameters, *net._buffers):
        if name in RESERVED:
            raise KeyingError(f"forward: a network with an attribute {name!r} cannot be keyed")
    for name, _ in (*net.named_modules(), *net.named_parameters(), *net.named_buffers()):
        for part in filter(iskeyword, name.split(".")):
            raise KeyingError(f"{name}: {part!r} is a word of Python, not a name")


@contextmanager
def mode(net: nn.Module, training: bool) -> Iterator[None]:
    """Put every module of ``net`` into one mode; each has its own again afterwards."""
    before = [(module, module.training) for module in net.modules()]
    net.train(training)
    try:
        yield
    finally:
        for module, was in before:
            module.training = was


class _Flat(nn.Module):
    """Returns the leaves of what ``net`` returns, dataclasses taken apart like dictionaries."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> list:
        leaves, self.spec = flatten(self.net(x))
        return leaves


def flatten(output: object) -> tuple[list, object]:
    """The leaves of a network's output, and how ``unflatten`` puts them together again."""
    tops, spec = pytree.tree_flatten(output)  # to which a dataclass is a leaf
    leaves, kinds = [], []
    for top in tops:
        if is_dataclass(top) and not isinstance(top, type):
            found, inner = flatten({field.name: getattr(top, field.name) for field in fields(top)})
            kinds.append((type(top), inner, len(found)))
        else:
            found = [top]
            kinds.append(None)
        leaves += found
    return leaves, (spec, kinds)


def unflatten(leaves: list, spec: object) -> object:
    """The output whose leaves and spec ``flatten`` returned."""
    (spec, kinds), rest, tops = spec, iter(leaves), []
    for kind in kinds:
        if kind is None:
            tops.append(next(rest))
        else:
            make, inner, count = kind
            tops.append(make(**unflatten(list(islice(rest, count)), inner)))
    return pytree.tree_unflatten(tops, spec)


@dataclass(frozen=True)
class Exported:
    """A network as a graph.

    Attributes:
        graph: its output is the list of the leaves of the network's output.
        spec: what ``unflatten`` takes.
        constants: tensors that the network makes while it is exported, by name.
        leaves: names of the modules that it calls and that call no others.
    """

    graph: fx.Graph
    spec: object
    constants: dict[str, Tensor]
    leaves: list[str]


def export(net: nn.Module, image: Tensor, training: bool) -> Exported:
    """The graph of ``net`` in one mode.

    Args:
        image: an example input ``(2, C, H, W)``.

    Raises:
        KeyingError: with the exporter's reason.
    """
    flat = _Flat(net)
    flat.training = net.training
    try:
        with mode(net, training), _quiet():
            try:
                program = _program(flat, image, strict=False)
            except Exception as error:
                if "specialized" not in str(error):
                    raise
                program = _program(flat, image, strict=True)  # which understands len(x)
            if _writes_through_views(program.graph):
                program = program.run_decompositions({aten.copy.default: _copied_to})
    except Exception as error:  # whatever the network's code or the exporter raises
        raise KeyingError(f"{_place(error, net)}: {_reason(error)}") from error
    finally:
        del flat.net  # the exporter outlives its use, in a cycle, and would keep the weights
    with named():
        graph, constants = _Translation(program).graph_and_constants()
        program.state_dict.clear()  # so does the program
        leaves = _restore_modules(graph, net)
        erase_unused(graph)
    return Exported(graph, flat.spec, constants, leaves)


def _program(net: nn.Module, image: Tensor, strict: bool) -> torch.export.ExportedProgram:
    hook = register_module_buffer_registration_hook(_write)
    try:
        return torch.export.export(net, (image,), dynamic_shapes=({0: Dim.DYNAMIC},), strict=strict)
    finally:
        hook.remove()


def _write(module: nn.Module, name: str, value: Tensor | None) -> Tensor | None:
    """Let what a network assigns to a buffer be written into it: the exporter drops the former."""
    buffer = module._buffers.get(name)
    if buffer is None or value is None or buffer is value:
        return value
    return buffer.copy_(value)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from showing what goes wrong while it exports: the error raised says it."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _place(error: BaseException | None, net: nn.Module) -> str:
    """The innermost module whose forward pass raised an error."""
    names = {id(module): name for name, module in net.named_modules()}
    found = None
    while error is not None:
        trace = error.__traceback__
        while trace is not None:
            module = trace.tb_frame.f_locals.get("self")
            found = module if names.get(id(module)) else found
            trace = trace.tb_next
        error = error.__cause__ or error.__context__
    if found is None:
        return "forward: cannot be exported"
    return f"{names[id(found)]}: {type(found).__name__}: cannot be exported"


def _reason(error: Exception) -> str:
    text = str(error)
    if "specialized" in text or "L['x'].size()[0]" in text:
        return "it bakes in the size of the batch; write it for a batch of any size"
    if "data-dependent" in text or "DataDependent" in type(error).__name__:
        return "its control flow depends on the values of pixels"
    return _first_line(error)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _writes_through_views(graph: fx.Graph) -> bool:
    """Whether an operator writes into what is seen otherwise, too, as ``x[:, 0] = 1`` does."""
    seen = set()
    for node in graph.nodes:
        if is_view(node) and node.target is not aten.lift_fresh_copy.default:
            seen.update((node, node.args[0]))
        elif mutates(node) and node.args[0] in seen:
            return True
    return False


def _copied_to(x: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """What ``x.copy_(source)`` makes of ``x``, by operators that have a derivative."""
    return source.to(x.device, x.dtype).expand_as(x).clone()


def mutates(node: fx.Node) -> bool:
    """Whether a node writes into its first argument."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def written(node: fx.Node) -> fx.Node:
    """The tensor that a node which mutates writes into, through earlier writes."""
    x = node.args[0]
    while mutates(x):
        x = x.args[0]
    return x


def is_view(node: fx.Node) -> bool:
    """Whether the result of a node is its argument seen otherwise, not written to."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    aliases = [r.alias_info for r in node.target._schema.returns if r.alias_info is not None]
    return bool(aliases) and not any(alias.is_write for alias in aliases)


class _Translation:
    """An exported program written again, with attributes in place of its lifted inputs."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        self.program, self.graph, self.constants = program, fx.Graph(), {}
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

    @staticmethod
    def _is_body(argument: object) -> bool:
        return isinstance(argument, fx.Node) and argument.op == "get_attr"

    def _inline(self, node: fx.Node, body: fx.GraphModule, nodes: dict) -> object:
        """The body of ``torch.no_grad`` or a disabled autocast, in the place of its call."""
        if "autocast" in str(node.target) and node.args[2]:
            reason = "it computes under autocast; call the whole network under it instead"
            node.meta[CALL] = _calls(node)
            raise KeyingError(f"{where(node)}: autocast: {reason}")
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
            if _is_tensor(x) and x.op != "get_attr":
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


def where(node: fx.Node) -> str:
    """Path of the module that a node belongs to."""
    if node.op == "call_module":
        return str(node.target)
    calls = node.meta.get(CALL)
    return (calls[-1][1] if calls else "") or "forward"


def what(node: fx.Node, module: nn.Module | None = None) -> str:
    """Name of the operation of a node."""
    if module is not None:
        return type(module).__name__
    return str(node.target).rpartition(".")[0].rpartition(".")[2] or str(node.target)


class _DependsOnDataError(Exception):
    """A size that is known only when the network runs."""


def _restore_modules(graph: fx.Graph, net: nn.Module) -> list[str]:
    """Let nodes that are the whole of a leaf module's call be calls of that module.

    Returns:
        names of all leaf modules, those included that are no single node.
    """
    leaves: dict[str, None] = {}
    inside: dict[str, list[fx.Node]] = defaultdict(list)  # call -> nodes of its own
    parents: set[str] = set()
    replaced: set[fx.Node] = set()
    for node in graph.nodes:
        calls = node.meta.get(CALL)
        if node.op == "call_function" and calls:
            inside[calls[-1][0]].append(node)
            parents.update(key for key, _ in calls[:-1])
    for key, nodes in inside.items():
        path = nodes[0].meta[CALL][-1][1]
        module = net.get_submodule(path) if path else net
        if key in parents or not path:
            continue
        leaves[path] = None
        work = [n for n in nodes if not _is_bookkeeping(n, path)]
        heads = [n for n in work if n.target is not operator.getitem]
        if len(heads) != 1 or not _takes_one_tensor(module):
            continue
        (head,) = heads
        given = [x for x in head.all_input_nodes if not _belongs(x, path)]
        if len(given) != 1 or given[0].op == "get_attr" or not _is_tensor(given[0]):
            continue
        if not _is_tensor(head) and head.target not in _NATIVE_NORMS:
            continue
        result = head
        if head.target in _NATIVE_NORMS:  # returns statistics, too; the module does not
            result = next(n for n in work if n is not head)
        with graph.inserting_after(result):
            call = graph.call_module(path, (given[0],))
        arguments = fx.node.map_arg(
            (head.args, head.kwargs), lambda n, x=given[0]: INPUT if n is x else n
        )
        call.meta = {**result.meta, HEAD: (head.target, *arguments)}
        result.replace_all_uses_with(call)
        replaced.update(nodes)
    for node in reversed(graph.nodes):
        if node in replaced and not node.users:
            graph.erase_node(node)
    return list(leaves)


_NATIVE_NORMS = {
    aten._native_batch_norm_legit_no_training.default,
    aten._native_batch_norm_legit_functional.default,
}


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get(VALUE), Value)


def _belongs(node: fx.Node, path: str) -> bool:
    return node.op == "get_attr" and node.target.rpartition(".")[0] == path


def _is_bookkeeping(node: fx.Node, path: str) -> bool:
    """Whether a node only computes sizes, or updates a buffer of its own module."""
    value = node.meta.get(VALUE)
    if not isinstance(value, (Value, tuple, list)):
        return True
    return mutates(node) and _belongs(written(node), path)


def _takes_one_tensor(module: nn.Module) -> bool:
    """Whether calling a module with its input alone is what the network does."""
    if type(module).__module__.startswith("torch.nn."):
        return True
    return len(signature(module.forward).parameters) == 1


def lowest(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """The coarsest of the floating-point ones; float64 if there is none."""
    floating = (d for d in dtypes if d.is_floating_point)
    return max(floating, key=lambda d: torch.finfo(d).eps, default=torch.float64)


def erase_unused(graph: fx.Graph) -> None:
    """Erase nodes without a use, and without an effect."""
    for node in reversed(graph.nodes):
        pure = node.op == "get_attr" or (node.op == "call_function" and not mutates(node))
        if pure and not node.users:
            graph.erase_node(node)


def copied(net: nn.Module, convert: Callable[[Tensor], Tensor] = lambda t: t) -> nn.Module:
    """A copy of ``net`` that shares ``convert(t)`` for each of its parameters and buffers ``t``."""
    tensors = {}
    for t in (*net.parameters(), *net.buffers()):
        new = convert(t)
        again = isinstance(t, nn.Parameter) and not isinstance(new, nn.Parameter)
        tensors[id(t)] = nn.Parameter(new, t.requires_grad) if again else new
    for module in net.modules():  # what was computed from parameters, as pruning does, too
        for t in vars(module).values():
            if isinstance(t, Tensor) and not t.is_leaf:
                tensors[id(t)] = convert(t.detach())
    return copy.deepcopy(net, tensors)
