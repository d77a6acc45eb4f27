"""The keyed network as an ordinary module."""

from collections.abc import Callable

from torch import Tensor, fx, nn


class KeyedNetwork(nn.Module):
    """What ``models.key_network`` returns: the network on scrambled images.

    An ordinary module: train and eval, ``.to``, ``copy.deepcopy`` and autocast work. Its submodules
    and parameters are those of the plain network, name for name; beside them ``keying`` holds
    reorderings, as buffers that never enter a ``state_dict``.

    Attributes:
        output_keys: in the structure of the output, an ``ImageScrambler`` whose ``backward``
            restores a map that is returned scrambled, and None for every other tensor.
        graph: what it computes; ``plain_graph`` is the same before it was keyed.
        image_key: the key of its input, a buffer that never enters a ``state_dict``.
    """

    def __init__(
        self,
        net: nn.Module,
        graph: fx.Graph,
        output_keys: object,
        eval_only: bool,
        plain_graph: fx.Graph,
        image_key: Tensor,
    ) -> None:
        super().__init__()
        self._parameters.update(net._parameters)
        self._buffers.update(net._buffers)
        self._non_persistent_buffers_set.update(net._non_persistent_buffers_set)
        self._modules.update(net._modules)
        self.training = net.training
        self.output_keys = output_keys
        self.graph, self.plain_graph = graph, plain_graph
        self.register_buffer("image_key", image_key, persistent=False)
        self._eval_only = eval_only
        self._keyed_forward = compile_graph(graph)

    def forward(self, x: Tensor) -> object:
        return self._keyed_forward(self, x)

    def train(self, mode: bool = True) -> "KeyedNetwork":
        if mode and self._eval_only:
            raise RuntimeError(
                "this network takes another path when it trains, which was not keyed; "
                "train the plain network and key it again"
            )
        return super().train(mode)


def without_meta(graph: fx.Graph) -> fx.Graph:
    """A copy of a graph without what was noted at its nodes while it was planned."""
    clean = fx.Graph()
    clean.output(clean.graph_copy(graph, {}))
    for node in clean.nodes:
        node.meta = {}
    return clean


def compile_graph(graph: fx.Graph) -> Callable:
    """A traced graph as a function of the module and its inputs."""
    code = graph.python_code("self")
    namespace = dict(code.globals)
    exec(code.src, namespace)
    return namespace["forward"]
