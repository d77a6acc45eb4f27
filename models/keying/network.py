"""The keyed network as an ordinary module, and the programs that it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from models.keying.layout import MapKey
from models.keying.output import unflatten
from models.keying.plain import lowest
from models.keying.report import Report


@dataclass(frozen=True)
class _Result:
    """An earlier instruction's result, among the arguments of a later one."""

    name: str


@dataclass(frozen=True)
class Program:
    """A graph as plain data, which can be pickled: what ``fx.Graph`` cannot.

    Args:
        instructions: ``(op, name, target, args, kwargs)`` of each node.
        spec: how the results become the network's output.
    """

    instructions: tuple
    spec: object

    @classmethod
    def of(cls, graph: fx.Graph, spec: object) -> Program:
        """The program of a graph."""
        rows = []
        for node in graph.nodes:
            arguments = fx.node.map_arg((node.args, node.kwargs), lambda n: _Result(n.name))
            target = node.target
            if isinstance(target, torch._ops.OpOverload):
                target = (str(target),)
            rows.append((node.op, node.name, target, *arguments))
        return cls(tuple(rows), spec)

    def graph(self) -> fx.Graph:
        """The graph of this program, whose output is the list of its leaves."""
        graph, nodes = fx.Graph(), {}
        for op, name, target, *arguments in self.instructions:
            args, kwargs = fx.node.map_aggregate(
                arguments, lambda a: nodes[a.name] if isinstance(a, _Result) else a
            )
            if isinstance(target, tuple):
                target = attrgetter(*target)(torch.ops)
            nodes[name] = graph.create_node(op, target, args, kwargs, name)
        return graph

    @property
    def precision(self) -> torch.dtype:
        """The coarsest that it asks for itself, as ``x.float()`` does, or float64."""
        given = pytree.tree_leaves([arguments for _, _, _, *arguments in self.instructions])
        return lowest([a for a in given if isinstance(a, torch.dtype)])

    def function(self) -> Callable:
        """A function of a module and its input that returns the list of results."""
        code = self.graph().python_code("self")
        namespace = dict(code.globals)
        exec(code.src, namespace)
        return namespace["forward"]


@dataclass
class Mode:
    """What a network runs, in evaluation or in training.

    Attributes:
        program: what it runs.
        plain: the same before it was keyed.
        output_keys: for each leaf of the output.
        report: of ``KeyedNetwork.report``.
        layers: names of modules with keys, and the keys that their ``give_keys`` takes.
        first_map: name of the module that returns the first convolution's map, and its key.
    """

    program: Program
    plain: Program | None = None
    output_keys: list = field(default_factory=list)
    report: Report | None = None
    layers: list[tuple[str, MapKey, MapKey]] = field(default_factory=list)
    first_map: tuple[str, MapKey] | None = None


class GraphNetwork(nn.Module):
    """The modules of a network, called as a program says.

    An ordinary module: its submodules and parameters are those of the network, name for name.
    Beside them ``keying`` may hold reorderings and constants, which never enter a ``state_dict``.

    Args:
        net: whose modules and parameters it takes over.
        modes: what it runs, by whether it trains. In a mode that is missing it does the same as in
            the other one.
        image_shape: ``(C, H, W)`` of the images that it takes.
    """

    def __init__(self, net: nn.Module, modes: dict[bool, Mode], image_shape: tuple) -> None:
        super().__init__()
        self._parameters.update(net._parameters)
        self._buffers.update(net._buffers)
        self._non_persistent_buffers_set.update(net._non_persistent_buffers_set)
        self._modules.update(net._modules)
        self.training = net.training
        self.modes, self.image_shape = modes, image_shape
        self._functions = {name: mode.program.function() for name, mode in modes.items()}

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "_functions"}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self._functions = {name: mode.program.function() for name, mode in self.modes.items()}

    @property
    def _now(self) -> bool:
        """Which of ``modes`` it runs."""
        return self.training if self.training in self.modes else not self.training

    def forward(self, x: Tensor) -> object:
        leaves = self._functions[self._now](self, x)
        return unflatten(leaves, self.modes[self._now].program.spec)


class KeyedNetwork(GraphNetwork):
    """What ``key_network`` returns: the network on scrambled images.

    Whoever pickles or exports it writes its keys along with it.

    Args:
        rekey: keys what a network does in training; asked for when it first trains.

    Attributes:
        output_keys: in the structure of the output, an ``ImageScrambler`` whose ``backward``
            restores a map that is returned scrambled, and None for every other leaf.
        image_key: the key of its input, a buffer that never enters a ``state_dict``.
    """

    def __init__(
        self,
        net: nn.Module,
        modes: dict[bool, Mode],
        image_shape: tuple,
        image_key: Tensor,
        rekey: Callable[[nn.Module], Mode],
    ) -> None:
        super().__init__(net, modes, image_shape)
        self.register_buffer("image_key", image_key, persistent=False)
        self._rekey = rekey

    @property
    def output_keys(self) -> object:
        mode = self.modes[self._now]
        return unflatten(mode.output_keys, mode.program.spec)

    def restored(self, leaves: list[Tensor]) -> list[Tensor]:
        """The leaves of its output in natural order."""
        keys = self.modes[self._now].output_keys
        return [x if k is None else k.unscramble(x) for x, k in zip(leaves, keys, strict=True)]

    def report(self) -> Report:
        """What became of each operator, and how much of the maps stays scrambled."""
        return self.modes[self._now].report

    @property
    def first_map(self) -> tuple[nn.Module, Tensor] | None:
        """The module that returns the first convolution's map in evaluation, and the map's key.

        None for a network without convolutions.
        """
        found = self.modes[False].first_map
        return None if found is None else (self.get_submodule(found[0]), found[1].value)

    def forward(self, x: Tensor) -> object:
        self.key_training(self.training)
        return super().forward(x)

    def train(self, mode: bool = True) -> KeyedNetwork:
        """As of any module; the first time, what the network does in training is keyed, too.

        Raises:
            KeyingError: that cannot be keyed.
        """
        self.key_training(mode)
        return super().train(mode)

    def key_training(self, training: bool = True) -> None:
        """Key what the network does in training, if it trains and that was not done."""
        if training and True not in self.modes:
            self.modes[True] = self._rekey(self)
            self._functions[True] = self.modes[True].program.function()
