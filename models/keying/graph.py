"""What the nodes of an exported graph say, whoever reads it.

Convention: shapes are numbers here, and the size of the batch is the prime ``BATCH``, so that an
axis of ``2 * BATCH`` is known to hold the batch and two heads.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

import torch
from torch import fx, nn

BATCH = 1_000_003
VALUE, CALL, HEAD = "privdl_value", "privdl_call", "privdl_head"  # what nodes' meta holds
INPUT = object()  # stands for the input of a module among the arguments of its operator
HELPERS = "keying"  # submodule of a keyed network that holds what it did not have; no parameters


class KeyingError(ValueError):
    """A network that cannot be keyed exactly; names the module, the operation and the reason."""


@contextmanager
def named() -> Iterator[None]:
    """Let whatever is raised be a ``KeyingError``."""
    try:
        yield
    except KeyingError:
        raise
    except Exception as error:
        raise KeyingError(f"forward: {type(error).__name__}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """What an error says, without the pages that torch adds to it."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


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


def is_tensor(node: fx.Node) -> bool:
    """Whether the result of a node is one tensor."""
    return isinstance(node.meta.get(VALUE), Value)


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


def erase_unused(graph: fx.Graph) -> None:
    """Erase nodes without a use, and without an effect."""
    for node in reversed(graph.nodes):
        pure = node.op == "get_attr" or (node.op == "call_function" and not mutates(node))
        if pure and not node.users:
            graph.erase_node(node)
