"""Tensors that a network creates follow its input's dtype and device where its own code lets them.

An exported graph has them as constants: ``torch.zeros(..., dtype=x.dtype)`` becomes float32 on the
CPU. Exported again in float64 on the ``meta`` device, the network tells which of them follow.
"""

import copy

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from models.keying.graph import KeyingError, export


def follow_input(graph: fx.Graph, net: nn.Module, image: Tensor, training: bool) -> None:
    """Let the operators of a graph take dtype and device from its input, as those of ``net`` do."""
    fixed = [node for node in graph.nodes if _mentions(node)]
    if not fixed or image.dtype == torch.float64:
        return
    tensors = (*net.parameters(), *net.buffers())
    elsewhere = copy.deepcopy(net, {id(t): _elsewhere(t) for t in tensors})
    try:
        other, _, _ = export(elsewhere, _elsewhere(image), training)
    except KeyingError:
        return  # something of it is fixed
    if [_kind(node) for node in graph.nodes] != [_kind(node) for node in other.nodes]:
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


def _elsewhere(t: Tensor) -> Tensor:
    dtype = torch.float64 if t.is_floating_point() else t.dtype
    moved = torch.empty_like(t, device="meta", dtype=dtype)
    return nn.Parameter(moved, t.requires_grad) if isinstance(t, nn.Parameter) else moved
