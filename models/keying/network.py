"""The keyed network as an ordinary module, and the programs that it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from models.keying.graph import unflatten
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

    def graph(self, structured: bool = False) -> fx.Graph:
        """The graph of this program, whose output is the list of its leaves unless structured."""
        graph, nodes = fx.Graph(), {}
        for op, name, target, args, kwargs in self.instructions:
            args, kwargs = _with_nodes(args, nodes), _with_nodes(kwargs, nodes)
            if isinstance(target, tuple):
                target = _operator(*target)
            if op == "output" and structured:
                args = (unflatten(args[0], self.spec),)
            nodes[name] = graph.create_node(op, target, args, kwargs, name)
        return graph

    def function(self) -> Callable:
        """A function of a module and its input that returns the list of results."""
        code = self.graph().python_code("self")
        namespace = dict(code.globals)
        exec(code.src, namespace)
        return namespace["forward"]


def _with_nodes(argument: object, nodes: dict[str, fx.Node]) -> object:
    if isinstance(argument, _Result):
        return nodes[argument.name]
    if isinstance(argument, (list, tuple)):
        return type(argument)(_with_nodes(a, nodes) for a in argument)
    if isinstance(argument, dict):
        return {key: _with_nodes(a, nodes) for key, a in argument.items()}
    return argument


def _operator(name: str) -> object:
    found = torch.ops
    for part in name.split("."):
        found = getattr(found, part)
    return found


@dataclass
class Keyed:
    """What one mode of a keyed network runs.

    Attributes:
        program: on scrambled images; ``plain`` is the same before it was keyed.
        output_keys: for each leaf of the output.
        rows: of ``KeyedNetwork.report``.
    """

    program: Program
    plain: Program
    output_keys: list
    rows: list = field(default_factory=list)


class KeyedNetwork(nn.Module):
    """What ``key_network`` returns: the network on scrambled images.

    An ordinary module. Its submodules and parameters are those of the plain network, name for name;
    beside them ``keying`` holds reorderings, as buffers that never enter a ``state_dict``. Whoever
    pickles or exports it writes its keys along with it.

    Attributes:
        output_keys: in the structure of the output, an ``ImageScrambler`` whose ``backward``
            restores a map that is returned scrambled, and None for every other leaf.
        modes: what it runs, by whether it trains; training is keyed when it first happens.
        image_key: the key of its input, a buffer that never enters a ``state_dict``.
    """

    def __init__(self, net: nn.Module, modes: dict[bool, Keyed], image_key: Tensor, rekey) -> None:
        super().__init__()
        self._parameters.update(net._parameters)
        self._buffers.update(net._buffers)
        self._non_persistent_buffers_set.update(net._non_persistent_buffers_set)
        self._modules.update(net._modules)
        self.training = net.training
        self.register_buffer("image_key", image_key, persistent=False)
        self.modes, self._rekey = modes, rekey
        self._functions = {name: keyed.program.function() for name, keyed in modes.items()}

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "_functions"}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self._functions = {name: keyed.program.function() for name, keyed in self.modes.items()}

    @property
    def _now(self) -> Keyed:
        return self.modes.get(self.training) or self.modes[False]

    @property
    def output_keys(self) -> object:
        return unflatten(self._now.output_keys, self._now.program.spec)

    def report(self) -> Report:
        """What became of each operator, and how much of the maps stays scrambled."""
        return Report(tuple(self._now.rows))

    @property
    def graph(self) -> fx.Graph:
        """What it computes in its present mode, for an ``fx.GraphModule``."""
        return self._now.program.graph(structured=True)

    @property
    def plain_graph(self) -> fx.Graph:
        """The same before it was keyed."""
        return self._now.plain.graph(structured=True)

    def forward(self, x: Tensor) -> object:
        if self.training and True not in self.modes:
            self._key_training()
        leaves = self._functions[self.training](self, x)
        spec = self.modes[self.training].program.spec
        if not isinstance(spec, tuple) and spec.is_leaf():
            return leaves[0]
        return unflatten(leaves, spec)

    def train(self, mode: bool = True) -> KeyedNetwork:
        """As of any module; the first time, what the network does in training is keyed, too.

        Raises:
            KeyingError: that cannot be keyed.
        """
        if mode and True not in self.modes:
            self._key_training()
        return super().train(mode)

    def _key_training(self) -> None:
        self.modes[True] = self._rekey(self)
        self._functions[True] = self.modes[True].program.function()
