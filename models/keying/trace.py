"""The network as a graph whose nodes know the shape of their result; nothing is computed."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, fx, nn

from models.keying.plan import VALUE, KeyingError, what, where
from models.keying.registry import MODULES


class _Tracer(fx.Tracer):
    """Traces down to the modules that have a rule, and remembers in which module it is."""

    path = ""

    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        return type(module) in MODULES or super().is_leaf_module(module, path)

    def call_module(self, m: nn.Module, forward: Callable, args: tuple, kwargs: dict) -> object:
        outer, self.path = self.path, self.path_of_module(m)
        result = super().call_module(m, forward, args, kwargs)
        self.path = outer
        return result


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


def trace(net: nn.Module) -> tuple[fx.Graph, bool]:
    """The graph of ``net`` in eval mode, and whether it takes another path when it trains.

    Raises:
        KeyingError: if the forward pass depends on the data or is not traceable otherwise.
    """
    with mode(net, training=False):
        graph = _trace(net)
    with mode(net, training=True):
        try:
            other = _trace(net)
        except KeyingError:
            return graph, True
    return graph, graph.python_code("self").src != other.python_code("self").src


def _trace(net: nn.Module) -> fx.Graph:
    tracer = _Tracer()
    try:
        graph = tracer.trace(net)
    except Exception as error:  # whatever the network's own code raises on symbolic values
        place = tracer.path or "forward"
        raise KeyingError(f"{place}: cannot be traced by torch.fx: {error}") from error
    finally:
        del tracer.root  # a tracer outlives its use, in a cycle, and would keep the weights alive
    for node in graph.nodes:
        # Tensors made while tracing hang on the network as plain attributes.
        if node.op == "get_attr" and isinstance(vars(net).get(node.target), Tensor):
            net.register_buffer(node.target, vars(net).pop(node.target), persistent=False)
    return graph


class _Shapes(fx.Interpreter):
    """Runs a graph on fake tensors, and keeps every result in the meta of its node."""

    def run_node(self, node: fx.Node) -> object:
        try:
            result = super().run_node(node)
        except Exception as error:  # of any operation: say which
            module = self.module.get_submodule(node.target) if node.op == "call_module" else None
            raise KeyingError(f"{where(node)}: {what(node, module)}: {error}") from error
        node.meta[VALUE] = result
        return result

    def call_module(self, target: str, args: tuple, kwargs: dict) -> object:
        norm = self.fetch_attr(target)
        if type(norm) is nn.BatchNorm2d and [x.shape[1:-2] for x in args] == [(norm.num_features,)]:
            return torch.empty_like(args[0])  # its decomposition on fake tensors is slow
        return super().call_module(target, args, kwargs)


def find_shapes(net: nn.Module, graph: fx.Graph, image: tuple[int, ...]) -> None:
    """Put the value of every node, as a fake tensor, into its meta.

    Args:
        image: shape of the input, ``(N, C, H, W)``.

    Raises:
        KeyingError: naming the operation that does not accept its input.
    """
    # a private name: a rename upstream shall not stop plain networks, which never come here
    from torch._subclasses.fake_tensor import FakeTensorMode

    like = next((p for p in net.parameters() if p.is_floating_point()), torch.empty(0))
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with mode(net, training=False), torch.no_grad(), _quiet(), fake:
        x = torch.empty(image, dtype=like.dtype, device=like.device)
        shapes = _Shapes(net, graph=graph)
        shapes.extra_traceback = False  # the error names the operation already
        shapes.run(x)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from logging what goes wrong on fake tensors: the error is raised, and says it."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    disabled, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = disabled
