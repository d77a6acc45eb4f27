"""Modules in the graph again: a node that is all that a leaf module does becomes its call.

Such a call keeps the module's hooks, its mode and its place in ``named_modules``.
"""

import operator
from collections import defaultdict
from inspect import signature

import torch
from torch import fx, nn

from models.keying.graph import CALL, HEAD, INPUT, VALUE, Value, is_tensor, mutates, written

aten = torch.ops.aten


def restore_modules(graph: fx.Graph, net: nn.Module) -> list[str]:
    """Let nodes that are the whole of a leaf module's call be calls of that module.

    Returns:
        names of all leaf modules, those included that are no single node.
    """
    leaves: dict[str, None] = {}
    inside: dict[str, list[fx.Node]] = defaultdict(list)  # call -> nodes of its own
    parents: set[str] = set()
    replaced: set[fx.Node] = set()
    for node in graph.nodes:
        calls = node.meta.get(CALL)
        if node.op == "call_function" and calls:
            inside[calls[-1][0]].append(node)
            parents.update(key for key, _ in calls[:-1])
    for key, nodes in inside.items():
        path = nodes[0].meta[CALL][-1][1]
        module = net.get_submodule(path) if path else net
        if key in parents or not path:
            continue
        leaves[path] = None
        work = [n for n in nodes if not _is_bookkeeping(n, path)]
        heads = [n for n in work if n.target is not operator.getitem]
        if len(heads) != 1 or not _takes_one_tensor(module):
            continue
        (head,) = heads
        given = [x for x in head.all_input_nodes if not _belongs(x, path)]
        if len(given) != 1 or given[0].op == "get_attr" or not is_tensor(given[0]):
            continue
        if not is_tensor(head) and head.target not in _NATIVE_NORMS:
            continue
        result = head
        if head.target in _NATIVE_NORMS:  # returns statistics, too; the module does not
            result = next(n for n in work if n is not head)
        with graph.inserting_after(result):
            call = graph.call_module(path, (given[0],))
        arguments = fx.node.map_arg(
            (head.args, head.kwargs), lambda n, x=given[0]: INPUT if n is x else n
        )
        call.meta = {**result.meta, HEAD: (head.target, *arguments)}
        result.replace_all_uses_with(call)
        replaced.update(nodes)
    for node in reversed(graph.nodes):
        if node in replaced and not node.users:
            graph.erase_node(node)
    return list(leaves)


_NATIVE_NORMS = {
    aten._native_batch_norm_legit_no_training.default,
    aten._native_batch_norm_legit_functional.default,
}


def _belongs(node: fx.Node, path: str) -> bool:
    return node.op == "get_attr" and node.target.rpartition(".")[0] == path


def _is_bookkeeping(node: fx.Node, path: str) -> bool:
    """Whether a node only computes sizes, or updates a buffer of its own module."""
    value = node.meta.get(VALUE)
    if not isinstance(value, (Value, tuple, list)):
        return True
    return mutates(node) and _belongs(written(node), path)


def _takes_one_tensor(module: nn.Module) -> bool:
    """Whether calling a module with its input alone is what the network does."""
    if type(module).__module__.startswith("torch.nn."):
        return True
    return len(signature(module.forward).parameters) == 1
