"""One call makes an ordinary network run on scrambled images (paper, section 3).

The network is traced; every layer with a spatial extent is replaced by its keyed twin, which takes
its input under the key of the layer before it and gives its output under a fresh key of its own.
Keys are drawn in the order of execution, for VGG16 that of the published implementation. Layers
that treat every position alike (batch normalisation, ReLU, dropout) need no key, and a 1x1 map has
only one, so that a classifier on top of it stays as it is.
"""

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F

from operators import ImageScrambler, KeyedAvgPool2d, KeyedConv2d, KeyedMaxPool2d

POINTWISE_MODULES = (
    *(nn.BatchNorm2d, nn.Identity, nn.Dropout, nn.Dropout2d),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh),
    *(nn.ELU, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh),
)
POINTWISE_FUNCTIONS = (*(torch.relu, F.relu, torch.sigmoid, torch.tanh, F.gelu, F.silu, F.dropout),)


class KeyingError(ValueError):
    """A network cannot be keyed exactly; names the module or operation and the reason."""


def key_network(
    net: nn.Module,
    scrambler: ImageScrambler,
    image_size: tuple[int, int] | None = None,
    backend: str = "auto",
) -> nn.Module:
    """The network that gives on scrambled images what ``net`` gives on the images.

    Its parameters are those of ``net``, shared and under the same names; keys and offsets are
    buffers that never enter a ``state_dict``.

    Shape: input ``(N, C, H, W)`` scrambled by ``scrambler``, output as ``net``'s.

    Args:
        net: an ordinary network whose forward pass can be traced by ``torch.fx``.
        scrambler: the key of the images, and the source of the layers' keys.
        image_size: ``(H, W)`` of the images; None for the scrambler's.
        backend: how keyed layers compute: ``auto``, ``deform`` or ``gather``.

    Raises:
        KeyingError: naming the module path, the operation and the reason, if the network has an
            operation that cannot be keyed exactly.
        ValueError: if ``image_size`` is not the scrambler's.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AvgPool2d(6), nn.Flatten()).eval()
        >>> scrambler, image = ImageScrambler(8, seed=0), torch.rand(2, 3, 8, 8)
        >>> torch.allclose(key_network(net, scrambler)(scrambler(image)), net(image), atol=1e-6)
        True
    """
    if image_size is not None and tuple(image_size) != scrambler.image_size:
        raise ValueError(
            f"image_size must be the scrambler's {scrambler.image_size}, got {tuple(image_size)}"
        )
    traced = fx.symbolic_trace(net)
    kernel = next(p for p in net.parameters() if p.dim() == 4)
    sizes = _plane_sizes(traced, kernel, scrambler)
    stream = scrambler.layer_keys()
    keys: dict[fx.Node, Tensor] = {}  # of the nodes that have a spatial extent above 1x1
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            keys[node] = scrambler.key.cpu()
            continue
        inputs = [source for source in node.all_input_nodes if source in keys]
        if not inputs:
            continue
        layer = traced.get_submodule(node.target) if node.op == "call_module" else None
        if type(layer) in KEYED_TWINS:
            size = sizes[node]
            out_key = stream.draw(size[0] * size[1])
            geometry = {
                "image_size": sizes[inputs[0]],
                "in_key": keys[inputs[0]],
                "out_key": out_key,
                "backend": backend,
            }
            _replace(traced, node.target, KEYED_TWINS[type(layer)](layer, geometry))
            if size != (1, 1):
                keys[node] = out_key
        elif type(layer) in POINTWISE_MODULES or node.target in POINTWISE_FUNCTIONS:
            if len(inputs) > 1:
                raise KeyingError(f"{node.name}: joins maps that are under different keys")
            keys[node] = keys[inputs[0]]
        else:
            raise KeyingError(_refusal(node, layer))
    return traced.to(kernel.device).train(net.training)


def _plane_sizes(
    traced: fx.GraphModule, kernel: Tensor, scrambler: ImageScrambler
) -> dict[fx.Node, tuple[int, int]]:
    """``(H, W)`` of every node's result, found without computing anything."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        image = kernel.new_empty(2, kernel.shape[1], *scrambler.image_size)
    ShapeProp(traced, fake_mode=mode).propagate(image)
    shapes = {
        node: node.meta["tensor_meta"].shape for node in traced.graph.nodes if node.op != "output"
    }
    return {node: tuple(shape[-2:]) for node, shape in shapes.items()}


def _keyed_conv(layer: nn.Conv2d, geometry: dict) -> KeyedConv2d:
    keyed = KeyedConv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups,
        layer.bias is not None,
        device="meta",
        **geometry,
    )
    keyed.weight, keyed.bias = layer.weight, layer.bias
    return keyed


def _keyed_max_pool(layer: nn.MaxPool2d, geometry: dict) -> KeyedMaxPool2d:
    return KeyedMaxPool2d(
        layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode, **geometry
    )


def _keyed_avg_pool(layer: nn.AvgPool2d, geometry: dict) -> KeyedAvgPool2d:
    return KeyedAvgPool2d(
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.ceil_mode,
        layer.count_include_pad,
        layer.divisor_override,
        **geometry,
    )


KEYED_TWINS = {
    nn.Conv2d: _keyed_conv,
    nn.MaxPool2d: _keyed_max_pool,
    nn.AvgPool2d: _keyed_avg_pool,
}


def _replace(traced: fx.GraphModule, path: str, layer: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(traced.get_submodule(parent), name, layer)


def _refusal(node: fx.Node, layer: nn.Module | None) -> str:
    where = node.target if layer is not None else node.name
    what = (
        type(layer).__name__ if layer is not None else getattr(node.target, "__name__", node.target)
    )
    return f"{where}: {what} on a scrambled map has no exact keyed form here"
