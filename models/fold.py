"""Transforms of a trained network for inference: fold its keys, fold its batch normalisation.

``fold_keys`` is for people who trust the machine that runs the network. A keyed layer undoes the
key of its input and applies the one of its output; the next layer undoes that again. Between two
layers the two cancel, and one reordering at the input is left.

``fold_batch_norm`` is the usual one: at inference a batch normalisation is a scale and a shift per
channel, which a convolution before it absorbs. It serves plain and keyed networks alike, because a
key moves positions and leaves channels alone (``torch.fx.experimental.optimization.fuse`` knows
plain ones only; the arithmetic is torch's).

Both return a network of its own: it has copies of the modules, parameters and buffers, and what is
done to one network later (weights loaded, a mode set, a step of training) leaves the other alone.
"""

import copy

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from models.keying import KeyedNetwork
from models.vgg_deformable import VGG16Deformable
from operators.gather import Reorder
from operators.keyed_layer import KeyedLayer
from operators.permutation import invert


def fold_keys(net: KeyedNetwork | VGG16Deformable) -> fx.GraphModule:
    """Cancel all inner keys of a keyed network: the same output, one reordering at the input.

    What that gives up: every map inside the folded network is in natural order, so whoever can look
    into the machine sees pictures; in the keyed network each map is under a key of its own. Both
    hold their keys, and neither should be handed to someone who must not read the images.

    Shape: as ``net``'s; a map that ``net`` returns scrambled comes back in natural order.

    Args:
        net: a keyed network, made by ``key_network`` or ``create_model``.

    Raises:
        ValueError: ``net`` is no keyed network.

    Example:
        >>> keyed = create_model("vgg16_permuted", scrambler=scrambler).eval()
        >>> torch.allclose(fold_keys(keyed)(scrambled), keyed(scrambled), atol=1e-5)
        True
    """
    if not isinstance(net, KeyedNetwork | VGG16Deformable):
        raise ValueError(f"fold_keys takes a keyed network, got {type(net).__name__}")
    net = copy.deepcopy(net)
    folded = _graph_module(net, net.plain_graph if isinstance(net, KeyedNetwork) else _trace(net))
    restore = Reorder(invert(net.image_key)).train(net.training)
    folded.add_submodule("restore", restore)
    image = next(node for node in folded.graph.nodes if node.op == "placeholder")
    with folded.graph.inserting_after(image):
        restored = folded.graph.call_module("restore", (image,))
    image.replace_all_uses_with(restored, delete_user_cb=lambda user: user is not restored)
    for node in folded.graph.nodes:
        layer = folded.get_submodule(node.target) if node.op == "call_module" else None
        if hasattr(layer, "plain"):
            folded.set_submodule(node.target, layer.plain().train(layer.training))
    folded.recompile()
    return folded


def fold_batch_norm(net: nn.Module) -> fx.GraphModule:
    """Let each convolution absorb the batch normalisation that follows it.

    Exact up to rounding, which is done in float32 or better whatever the network's dtype. A batch
    normalisation stays where the convolution's result is also used elsewhere, where either of the
    two is used twice, or where it does not normalise by running statistics.

    Args:
        net: a plain or keyed network in evaluation mode, traceable by ``torch.fx``.

    Raises:
        ValueError: ``net`` is in training mode.
    """
    if net.training:
        raise ValueError("fold_batch_norm takes a network in evaluation mode, got training mode")
    net = copy.deepcopy(net)
    traced = isinstance(net, KeyedNetwork | fx.GraphModule)
    folded = _graph_module(net, net.graph if traced else _trace(net))
    uses = [node.target for node in folded.graph.nodes if node.op == "call_module"]
    for node in list(folded.graph.nodes):
        if node.op != "call_module" or len(node.args) != 1:
            continue
        source = node.args[0]
        norm = folded.get_submodule(node.target)
        if type(norm) is not nn.BatchNorm2d or norm.running_mean is None or norm.training:
            continue
        if source.op != "call_module" or len(source.users) > 1:
            continue
        conv = folded.get_submodule(source.target)
        if (
            not isinstance(conv, nn.Conv2d)
            or max(map(uses.count, (source.target, node.target))) > 1
        ):
            continue
        _absorb(conv, norm)
        node.replace_all_uses_with(source)
        folded.graph.erase_node(node)
        folded.delete_submodule(node.target)
    folded.recompile()
    return folded


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        return isinstance(module, KeyedLayer) or super().is_leaf_module(module, path)


def _trace(net: nn.Module) -> fx.Graph:
    """What a network computes, down to ordinary and keyed layers."""
    return _Tracer().trace(net)


def _graph_module(net: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """The modules of ``net`` that ``graph`` calls, each in the mode that it is in."""
    module = fx.GraphModule(net, graph)
    for name, part in module.named_modules():
        part.training = net.get_submodule(name).training
    return module


def _absorb(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Make ``conv(x)`` what ``norm(conv(x))`` was."""
    dtype = conv.weight.dtype
    exact = torch.promote_types(dtype, torch.float32)
    tensors = (conv.weight, conv.bias, norm.running_mean, norm.running_var)
    weight, bias, mean, variance = (None if t is None else t.to(exact) for t in tensors)
    scale, shift = (None if t is None else t.to(exact) for t in (norm.weight, norm.bias))
    weight, bias = fuse_conv_bn_weights(weight, bias, mean, variance, norm.eps, scale, shift)
    conv.weight = nn.Parameter(weight.detach().to(dtype))
    conv.bias = nn.Parameter(bias.detach().to(dtype))
