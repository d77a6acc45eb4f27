"""The exported graph, with what the network creates in the dtype and on the device of its input.

An exported graph has them as constants: ``torch.zeros(..., dtype=x.dtype)`` becomes float32 on the
CPU. Exported again in float64 on the ``meta`` device, the network tells which of them follow.
"""

from contextlib import suppress
from functools import partial

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from models.keying.export import Exported, export
from models.keying.graph import KeyingError
from models.keying.plain import check_names, copied


def trace(net: nn.Module, image: Tensor, training: bool) -> Exported:
    """The graph of ``net`` in one mode, in which created tensors follow the input.

    Args:
        image: an example input ``(2, C, H, W)``.

    Raises:
        KeyingError: with the exporter's reason.
    """
    exported = export(net, image, training)
    _follow_input(exported.graph, net, image, training)
    return exported


def trace_at(
    net: nn.Module, image_size: tuple[int, int], in_channels: int | None = None
) -> tuple[Tensor, Exported]:
    """An example of a batch of images, and the graph of ``net`` in evaluation mode.

    Args:
        in_channels: of the images; None for those of the first convolution, or 3, because that
            convolution may come after a reshaping.

    Raises:
        KeyingError: with the exporter's reason.
    """
    check_names(net)
    if in_channels is None:
        convolution = next((m for m in net.modules() if isinstance(m, nn.Conv2d)), None)
        channels = {getattr(convolution, "in_channels", 3): None, 3: None}
    else:
        channels = {in_channels: None}
    like = next((p for p in net.parameters() if p.is_floating_point()), torch.empty(0))
    failures = []
    for count in channels:
        image = torch.zeros(2, count, *image_size, dtype=like.dtype, device=like.device)
        try:
            return image, trace(net, image, training=False)
        except KeyingError as error:
            failures.append(error)
    raise failures[0]


def _follow_input(graph: fx.Graph, net: nn.Module, image: Tensor, training: bool) -> None:
    """Let the operators of a graph take dtype and device from its input, as those of ``net`` do."""
    fixed = [node for node in graph.nodes if _mentions(node)]
    if not fixed or image.dtype == torch.float64:
        return
    for device in ("meta", image.device):  # what the network fixes may be one of the two
        convert = partial(_elsewhere, device=device)
        with suppress(KeyingError):
            other = export(copied(net, convert), convert(image), training).graph
            if [_kind(node) for node in graph.nodes] == [_kind(node) for node in other.nodes]:
                break
    else:
        return
    (x,) = graph.find_nodes(op="placeholder")
    twins = dict(zip(graph.nodes, other.nodes, strict=True))
    with graph.inserting_after(x):
        own = {name: graph.call_function(getattr, (x, name)) for name in ("dtype", "device")}

    def followed(a: object, b: object) -> object:
        if (a, b) == (image.dtype, torch.float64):
            return own["dtype"]
        moved = isinstance(a, torch.device) and a == image.device and b.type == "meta"
        return own["device"] if moved else a

    for node in fixed:
        twin = twins[node]
        node.args = pytree.tree_map(followed, node.args, twin.args)
        node.kwargs = pytree.tree_map(followed, dict(node.kwargs), dict(twin.kwargs))
    for name in own.values():
        if not name.users:
            graph.erase_node(name)


def _mentions(node: fx.Node) -> bool:
    arguments = pytree.tree_leaves((node.args, dict(node.kwargs)))
    return any(
        isinstance(a, torch.device) or (isinstance(a, torch.dtype) and a.is_floating_point)
        for a in arguments
    )


def _kind(node: fx.Node) -> tuple:
    return node.op, node.target, len(node.args), tuple(node.kwargs)


def _elsewhere(t: Tensor, device: object) -> Tensor:
    dtype = torch.float64 if t.is_floating_point() else t.dtype
    return torch.empty_like(t, device=device, dtype=dtype, requires_grad=False)
