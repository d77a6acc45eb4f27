"""Custom autograd functions, kept whole in the graph: their backward is not that of their forward.

The exporter follows ``forward`` and would lose ``backward``, so that a straight-through estimator
would train nothing. While it runs, each call of a ``torch.autograd.Function`` is recorded as one
operator, of which ``translate`` makes a call of the function again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, fx
from torch.autograd import Function
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import CheckpointFunction


class Slot(Enum):
    """Stands for what differs from call to call among the arguments of a function."""

    TENSOR, SIZE = "tensor", "size"


@dataclass(frozen=True)
class FunctionCall:
    """A call of a custom autograd function, as the target of a node.

    Args:
        function: its class.
        template: its arguments, with slots for tensors and for sizes that depend on the batch.
    """

    function: type[Function]
    template: tuple

    def __call__(self, tensors: list[Tensor], sizes: list[int]) -> Tensor | tuple[Tensor, ...]:
        return self.function.apply(*self.arguments(tensors, sizes))

    def arguments(self, tensors: list[Tensor], sizes: list[int]) -> list:
        """What it passes on."""
        tensors, sizes, found = list(tensors), list(sizes), []
        for a in self.template:
            if isinstance(a, Slot):
                a = tensors.pop(0) if a is Slot.TENSOR else sizes.pop(0)
            found.append(a)
        return found

    def __hash__(self) -> int:
        return hash(self.function)

    def __str__(self) -> str:
        return self.function.__name__

    @property
    def __name__(self) -> str:  # which fx asks of a target
        return self.function.__name__


_APPLY = vars(Function)["apply"]
_calls: list[FunctionCall] = []  # of the network that is being exported


@torch.library.custom_op("privdl::call_function", mutates_args=())
def _record(tensors: list[Tensor], sizes: list[int], call: int) -> list[Tensor]:
    """What the exporter sees of a function: its tensors, its results, its place in ``_calls``."""
    raise NotImplementedError("stands in a graph only")


@_record.register_fake
def _(tensors: list[Tensor], sizes: list[int], call: int) -> list[Tensor]:
    recorded = _calls[call]
    found = _really_apply(recorded.function, *recorded.arguments(tensors, sizes))
    results = found if isinstance(found, tuple) else (found,)
    if not all(isinstance(result, Tensor) for result in results):
        raise TypeError(f"{recorded} returns something else than tensors")
    return [torch.empty_like(result) for result in results]


def _really_apply(cls: type[Function], *args: object, **kwargs: object) -> object:
    return _APPLY.__get__(None, cls)(*args, **kwargs)


def _apply(cls: type[Function], *args: object, **kwargs: object) -> object:
    if cls is CheckpointFunction:  # its gradient is that of the function that it is given
        function, _, *args = args
        return function(*args)
    if cls.__module__.startswith("torch."):  # marks of backward hooks
        return _really_apply(cls, *args, **kwargs)
    kinds = {Tensor: Slot.TENSOR, torch.SymInt: Slot.SIZE}
    template = tuple(next((s for k, s in kinds.items() if isinstance(a, k)), a) for a in args)
    constants = (Slot, bool, int, float, str, torch.dtype, torch.device, type(None))
    odd = [a for a in pytree.tree_leaves(template) if not isinstance(a, constants)]
    for a in (*odd, *kwargs.values()):
        kind = "a nested Tensor" if isinstance(a, Tensor) else type(a).__name__
        raise TypeError(f"{cls.__name__} takes tensors and numbers by position, got {kind}")
    _calls.append(FunctionCall(cls, template))
    tensors, sizes = ([a for a in args if isinstance(a, kind)] for kind in kinds)
    results = _record(tensors, sizes, len(_calls) - 1)
    return tuple(results) if len(results) > 1 else results[0]


def _no_hook(tensor: Tensor, hook: object) -> None:
    raise TypeError("a hook on a tensor would be lost; register it on a layer, or use a Function")


@contextmanager
def functions_kept() -> Iterator[list[FunctionCall]]:
    """While a network is exported, list its calls of custom autograd functions.

    Hooks on tensors, the other way to change a gradient, are refused.
    """
    _calls.clear()
    register_hook = Tensor.register_hook
    Function.apply, Tensor.register_hook = classmethod(_apply), _no_hook
    try:
        yield _calls
    finally:
        Function.apply, Tensor.register_hook = _APPLY, register_hook


def is_recorded(node: fx.Node) -> bool:
    """Whether a node of an exported program stands for a call; its last argument says which."""
    return node.target is torch.ops.privdl.call_function.default
