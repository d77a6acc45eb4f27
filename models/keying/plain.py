"""What is done to the plain network: its names are checked, its mode is set, copies are made."""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from keyword import iskeyword

import torch
from torch import Tensor, nn

from models.keying.graph import HELPERS, KeyingError

# Names that the network made from a graph has itself.
RESERVED = frozenset(
    f"{HELPERS} modes image_shape image_key restore report restored output_keys first_map "
    "key_training _functions _rekey _now".split()
)


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


@contextmanager
def momentum_given(net: nn.Module) -> Iterator[set[str]]:
    """Give a momentum to batch normalisations that average over all batches, and list their names.

    The exporter takes their counter of batches for control flow. What they compute is theirs again
    where they are called as modules.
    """
    kind = nn.modules.batchnorm._BatchNorm
    found = {n: m for n, m in net.named_modules() if isinstance(m, kind) and m.momentum is None}
    for layer in found.values():
        layer.momentum = 0.0
    try:
        yield set(found)
    finally:
        for layer in found.values():
            layer.momentum = None


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


def lowest(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """The coarsest of the floating-point ones; float64 if there is none."""
    floating = (d for d in dtypes if d.is_floating_point)
    return max(floating, key=lambda d: torch.finfo(d).eps, default=torch.float64)
