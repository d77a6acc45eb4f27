"""Transforms of a trained network for inference: fold its keys, fold its batch normalisation.

``fold_keys`` is for people who trust the machine that runs the network. A keyed layer undoes the
key of its input and applies the one of its output; the next layer undoes that again. Between two
layers the two cancel, and one reordering at the input is left.

``fold_batch_norm`` is the usual one: at inference a batch normalisation is a scale and a shift per
channel, which a convolution before it absorbs. It serves plain and keyed networks alike, because a
key moves positions and leaves channels alone (the arithmetic is torch's).

Both work on the exported graph and return a network of its own: it has copies of the modules,
parameters and buffers, and what is done to one network later (weights loaded, a mode set, a step of
training) leaves the other alone. What they return was compared with what they were given.
"""

import copy
from operator import attrgetter

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from models.keying import GraphNetwork, KeyedNetwork
from models.keying.graph import HELPERS
from models.keying.network import Mode, Program
from models.keying.trace import trace_at
from models.keying.verify import compare
from models.vgg_deformable import VGG16Deformable
from operators.gather import Reorder
from operators.keyed_layer import KeyedLayer
from operators.permutation import invert

aten = torch.ops.aten


def fold_keys(net: KeyedNetwork | VGG16Deformable) -> GraphNetwork:
    """Cancel all inner keys of a keyed network: the same output, one reordering at the input.

    What that gives up: every map inside the folded network is in natural order, so whoever can look
    into the machine sees pictures; in the keyed network each map is under a key of its own. Both
    hold their keys, and neither should be handed to someone who must not read the images.

    Shape: as ``net``'s; a map that ``net`` returns scrambled comes back in natural order.

    Args:
        net: a keyed network, made by ``key_network`` or ``create_model``.

    Raises:
        ValueError: ``net`` is no keyed network.
        KeyingError: the folded network does not compute what ``net`` does.

    Example:
        >>> keyed = create_model("vgg16_permuted", scrambler=scrambler).eval()
        >>> torch.allclose(fold_keys(keyed)(scrambled), keyed(scrambled), atol=1e-5)
        True
    """
    if not isinstance(net, KeyedNetwork | VGG16Deformable):
        raise ValueError(f"fold_keys takes a keyed network, got {type(net).__name__}")
    natural = _with_plain_layers(copy.deepcopy(net))
    if isinstance(net, KeyedNetwork):
        natural.get_submodule(HELPERS)._modules.clear()  # reorderings; constants are its buffers
        del natural.image_key
        plain = {training: mode.plain for training, mode in net.modes.items()}
        natural = GraphNetwork(natural, {}, net.image_shape)
    else:
        natural = _as_graph(natural, net.conv1.image_size)
        plain = {training: mode.program for training, mode in natural.modes.items()}
    natural.add_module("restore", Reorder(invert(net.image_key)).train(net.training))
    modes = {training: Mode(_restoring(program)) for training, program in plain.items()}
    folded = GraphNetwork(natural, modes, natural.image_shape)
    restore = net.restored if isinstance(net, KeyedNetwork) else list
    compare(folded, net, folded.image_shape, plain[False].precision, restore=restore)
    return folded


def fold_batch_norm(net: nn.Module, image_size: tuple[int, int] | None = None) -> GraphNetwork:
    """Let each convolution absorb the batch normalisation that follows it.

    Exact up to rounding, which is done in float32 or better whatever the network's dtype. A batch
    normalisation stays where the convolution's result is also used elsewhere, where either of the
    two is used twice, or where it does not normalise by running statistics.

    Args:
        net: a plain or keyed network in evaluation mode.
        image_size: ``(H, W)`` of the images of a plain one; others know theirs.

    Raises:
        ValueError: ``net`` is in training mode, or plain without an image size.
        KeyingError: ``net`` cannot be exported, or the folded network does not compute the same.
    """
    if net.training:
        raise ValueError("fold_batch_norm takes a network in evaluation mode, got training mode")
    if isinstance(net, VGG16Deformable):
        image_size = net.conv1.image_size
    if image_size is None and not isinstance(net, GraphNetwork):
        raise ValueError("fold_batch_norm of a plain network needs the size of its images")
    folded = _fold_batch_norm(net, image_size)
    # Compared in float64: in the network's dtype the folded weights are rounded anew.
    exact = copy.deepcopy(net).double()
    precision = folded.modes[False].program.precision
    compare(exact, _fold_batch_norm(exact, image_size), folded.image_shape, precision)
    return folded


def _with_plain_layers(net: nn.Module) -> nn.Module:
    """``net`` with an ordinary layer in the place of each keyed one."""
    for name, layer in list(net.named_modules()):
        if isinstance(layer, KeyedLayer):
            net.set_submodule(name, layer.plain().train(layer.training))
    return net


def _as_graph(net: nn.Module, image_size: tuple[int, int] | None) -> GraphNetwork:
    """A copy of a network whose program in evaluation mode is known.

    Keyed layers take the place of ordinary ones in it, as they do in the network.
    """
    work = copy.deepcopy(net)
    if isinstance(net, GraphNetwork):
        return GraphNetwork(work, {False: Mode(net.modes[False].program)}, net.image_shape)
    image, exported = trace_at(_with_plain_layers(copy.deepcopy(net)), image_size)
    if exported.constants:
        work.add_module(HELPERS, nn.Module().train(net.training))
    for name, constant in exported.constants.items():
        work.get_submodule(HELPERS).register_buffer(name, constant, persistent=False)
    mode = Mode(Program.of(exported.graph, exported.spec))
    return GraphNetwork(work, {False: mode}, tuple(image.shape[1:]))


def _restoring(program: Program) -> Program:
    """A program that restores its input first."""
    graph = program.graph()
    (image,) = graph.find_nodes(op="placeholder")
    with graph.inserting_after(image):
        restored = graph.call_module("restore", (image,))
    image.replace_all_uses_with(restored, delete_user_cb=lambda user: user is not restored)
    return Program.of(graph, program.spec)


def _fold_batch_norm(net: nn.Module, image_size: tuple[int, int] | None) -> GraphNetwork:
    net = _as_graph(net, image_size)
    program = net.modes[False].program
    graph = program.graph()
    uses = [n.target for n in graph.nodes if n.op in ("call_module", "get_attr")]
    for node in list(graph.nodes):
        statistics = _statistics(net, node)
        if statistics is None:
            continue
        names, eps = statistics
        source = node.args[0]
        if source.op != "call_module" or len(source.users) > 1:
            continue
        conv = net.get_submodule(source.target)
        called = (source.target, *([node.target] if node.op == "call_module" else names))
        if not isinstance(conv, nn.Conv2d) or any(uses.count(n) > 1 for n in called if n):
            continue
        _absorb(conv, [None if n is None else attrgetter(n)(net) for n in names], eps)
        node.replace_all_uses_with(source)
        graph.erase_node(node)
        _forget(net, node, names)
    for node in reversed(graph.nodes):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
    return GraphNetwork(net, {False: Mode(Program.of(graph, program.spec))}, net.image_shape)


def _statistics(net: nn.Module, node: fx.Node) -> tuple[list[str | None], float] | None:
    """Names of the weight, bias, mean and variance of a batch normalisation, and its epsilon.

    None for any other node, and where it does not normalise by running statistics.
    """
    if node.op == "call_module":
        norm = net.get_submodule(node.target)
        if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None or norm.training:
            return None
        parts = ("weight", "bias", "running_mean", "running_var")
        names = [None if getattr(norm, p) is None else f"{node.target}.{p}" for p in parts]
        return names, norm.eps
    if node.target is not aten.batch_norm.default or node.args[5]:  # in training
        return None
    given = node.args[1:5]
    if not all(n is None or n.op == "get_attr" for n in given) or None in given[2:]:
        return None
    return [None if n is None else n.target for n in given], node.args[7]


def _forget(net: nn.Module, node: fx.Node, names: list[str | None]) -> None:
    """Delete the module, or the tensors, of a batch normalisation that is computed no more."""
    if node.op == "call_module":
        names = [node.target]
    for name in filter(None, names):
        owner, _, last = name.rpartition(".")
        delattr(net.get_submodule(owner), last)


def _absorb(conv: nn.Conv2d, norm: list[Tensor | None], eps: float) -> None:
    """Make ``conv(x)`` what the batch normalisation by ``norm`` made of it."""
    dtype = conv.weight.dtype
    exact = torch.promote_types(dtype, torch.float32)
    weight, bias, scale, shift, mean, variance = (
        None if t is None else t.to(exact) for t in (conv.weight, conv.bias, *norm)
    )
    weight, bias = fuse_conv_bn_weights(weight, bias, mean, variance, eps, scale, shift)
    conv.weight = nn.Parameter(weight.detach().to(dtype))
    conv.bias = nn.Parameter(bias.detach().to(dtype))
