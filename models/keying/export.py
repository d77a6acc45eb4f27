"""The network as a graph: exported by torch, with modules where a module's whole call is one node.

``torch.export`` follows the network's own Python code, so that sizes are numbers, the batch is
symbolic and every operation is an ATen operator. Parameters, buffers and constants become
attributes again (``translate``), calls of leaf modules as well (``leaves``).
"""

import io
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch.export import Dim
from torch.nn.modules.module import register_module_buffer_registration_hook

from models.keying.functions import functions_kept
from models.keying.graph import KeyingError, erase_unused, first_line, is_view, mutates, named
from models.keying.leaves import restore_modules
from models.keying.output import flatten
from models.keying.plain import mode, momentum_given
from models.keying.translate import Translation

aten = torch.ops.aten


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
        with (
            mode(net, training),
            momentum_given(net) as averaging,
            functions_kept() as calls,
            _quiet(),
        ):
            try:
                program = _program(flat, image, strict=False)
            except Exception as error:
                if "specialized" not in str(error) or calls:
                    raise
                # It understands len(x), but not that a function has its own backward.
                program = _program(flat, image, strict=True)
            if _writes_through_views(program.graph):
                program = program.run_decompositions({aten.copy.default: _copied_to})
    except Exception as error:  # whatever the network's code or the exporter raises
        raise KeyingError(f"{_place(error, net)}: {_reason(error)}") from error
    finally:
        del flat.net  # the exporter outlives its use, in a cycle, and would keep the weights
    with named():
        graph, constants = Translation(program, calls).graph_and_constants()
        program.state_dict.clear()  # so does the program
        leaves = restore_modules(graph, net)
        called = {node.target for node in graph.find_nodes(op="call_module")}
        for name in averaging.intersection(leaves) - called if training else ():
            raise KeyingError(f"{name}: batch_norm: with momentum=None a layer is called once")
        erase_unused(graph)
    return Exported(graph, flat.spec, constants, leaves)


class _Flat(nn.Module):
    """Returns the leaves of what ``net`` returns, dataclasses taken apart like dictionaries."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> list:
        leaves, self.spec = flatten(self.net(x))
        return leaves


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
        frames = re.findall(r'File "(.+)", (line \d+)', text)  # the network's own are the last
        at = f" ({Path(frames[-1][0]).name}, {frames[-1][1]})" if frames else ""
        return f"it bakes in the size of the batch{at}; write it for a batch of any size"
    if "We found a fake tensor" in text:
        return "it uses the data of a tensor that it computes; write x.detach() for x.data"
    if "data-dependent" in text or "DataDependent" in type(error).__name__:
        return "its control flow depends on the values of pixels"
    return first_line(error)


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
