"""What an operation does to keys, told from how its axes correspond.

An operation is described as ``torch.einsum`` is: a label for each axis of its operands and of its
result. Two sets of labels say more: along ``natural`` ones it tells positions apart, as a linear
layer does its features; along ``summed`` ones it treats all positions together, whatever their
order, as a mean, a softmax or a matrix product does. Along all others it treats each position by
itself. From this follows where keys stay, meet, vanish, and what has to be restored.
"""

from collections.abc import Iterable

from torch import fx

from models.keying.graph import BATCH
from models.keying.layout import Atoms, Layout, Run, Shape, atoms, overlap, place, span
from models.keying.plan import Plan

Labels = list  # one for each axis; None for an axis of length 1 that is stretched or dropped
Found = dict[Atoms, dict[fx.Node, Run]]  # who is scrambled at the same axes


def relate(
    plan: Plan,
    node: fx.Node,
    operands: list[tuple[fx.Node, Labels]],
    result: Labels,
    natural: Iterable = (),
    summed: Iterable = (),
    shape: Shape | None = None,
    divisible: bool = False,
) -> Layout:
    """Plan an operation whose axes correspond by labels; the layout of its result.

    Args:
        operands: each tensor with its labels.
        result: the labels of the result.
        natural: labels along which positions are told apart.
        summed: labels along which their order does not matter.
        shape: of the result, where the node has several.
        divisible: whether a fresh key may become a product of keys.
    """
    shape = plan.shape(node) if shape is None else shape
    natural, summed = set(natural), set(summed)
    found, restored = _sort(plan, node, operands, natural)
    if any([_divide(covered, runs) for covered, runs in restored.items()]):
        return relate(plan, node, operands, result, natural, summed, shape, divisible)
    layout: list[Run] = []
    for covered, runs in found.items():
        labels = {label for label, _, _ in covered}
        outer = place(covered, shape, result)
        vanishes = labels <= summed and not labels & set(result)
        kept = outer is not None and (labels <= summed or not labels & summed)
        if not (vanishes or kept) and _divide(covered, runs):
            return relate(plan, node, operands, result, natural, summed, shape, divisible)
        if (vanishes or kept) and _agree(plan, node, operands, covered, runs, result, shape):
            if kept:
                layout.append(Run(next(iter(runs.values())).key, outer))
        else:
            restored[covered] = runs
    for runs in restored.values():
        for x, run in runs.items():
            plan.restore(node, x, (run,))
    fresh: list[Run] = []
    for first, last in _spans(restored, result):
        outer, positions = span(shape, first, last)
        torn = any(run.outer < outer * positions and outer < run.end for run in layout)
        if torn or positions % BATCH == 0:
            plan.lost.add(node)
        else:
            fresh.extend(plan.fresh_run(node, outer, positions, divisible))
    return (*layout, *plan.scramble_result(node, tuple(fresh)))


def _sort(plan: Plan, node: fx.Node, operands: list, natural: set) -> tuple[Found, Found]:
    """The runs that the operation may keep, and those that it needs in natural order."""
    found: Found = {}
    restored: Found = {}
    for x, labels in operands:
        for run in plan.layout(x):
            covered = atoms(run, plan.shape(x), labels)
            if covered is None:
                plan.restore(node, x, (run,))
                plan.lost.add(node)
            elif any(label in natural for label, _, _ in covered):
                restored.setdefault(covered, {})[x] = run
            else:
                found.setdefault(covered, {})[x] = run
    for covered in list(found):
        others = [other for other in (*found, *restored) if other != covered]
        if any(overlap(covered, other) for other in others):
            restored[covered] = found.pop(covered)
    return found, restored


def _divide(covered: Atoms, runs: dict[fx.Node, Run]) -> bool:
    """Make the keys of runs that are torn apart products, one factor for each axis."""
    sizes = [high // low for _, low, high in covered]
    return len(sizes) > 1 and all([run.key.divide(sizes) for run in runs.values()])


def _agree(
    plan: Plan,
    node: fx.Node,
    operands: list,
    covered: Atoms,
    runs: dict[fx.Node, Run],
    result: Labels,
    shape: Shape,
) -> bool:
    """Bring all operands under one key along the axes of a run, and say whether that works."""
    key = next(iter(runs.values())).key
    scrambled = []
    for x, labels in operands:
        here = [label for label, _, _ in covered if label in labels]
        if x in runs or not here:
            continue
        if node.op == "call_module" and x is not node.args[0]:
            return False  # a parameter of the module, which stays as it is
        sizes, stretched = plan.shape(x), None
        if len(here) < len(covered) or (plan.shared.per_image and not plan.has_batch(x)):
            names = {label for label, _, _ in covered}
            if plan.shared.per_image:
                names |= {name for name, n in zip(result, shape, strict=True) if n % BATCH == 0}
            stretched = _stretched(sizes, labels, names, result, shape)
            if stretched is None:
                return False
            sizes, labels = stretched, result[-len(stretched) :]
        outer = place(covered, sizes, labels)
        if outer is None:
            return False
        scrambled.append((x, Run(key, outer), stretched))
    for x, run, stretched in scrambled:
        plan.scramble(node, x, run, stretched)
    for x, run in runs.items():
        if not key.meet(run.key):
            plan.rekey(node, x, run, key)
    return True


def _stretched(
    sizes: Shape, labels: Labels, names: set, result: Labels, shape: Shape
) -> Shape | None:
    """The shape of a broadcast operand, stretched along the axes ``names``; None if it is none."""
    if any(a not in (None, b) for a, b in zip(labels[::-1], result[::-1], strict=False)):
        return None
    rank = max(len(sizes), len(result) - min(result.index(name) for name in names))
    sizes = (1,) * (rank - len(sizes)) + sizes
    tail = range(len(result) - rank, len(result))
    return tuple(
        shape[axis] if result[axis] in names else size
        for axis, size in zip(tail, sizes, strict=True)
    )


def _spans(restored: Iterable[Atoms], result: Labels) -> list[list[int]]:
    """The axes of a result that were scrambled in an operand and are to be scrambled again.

    As disjoint ``[first, last]``.
    """
    found = [[result.index(n) for n, _, _ in covered if n in result] for covered in restored]
    spans: list[list[int]] = []
    for first, last in sorted((min(axes), max(axes)) for axes in found if axes):
        if spans and first <= spans[-1][1]:
            spans[-1][1] = max(last, spans[-1][1])
        else:
            spans.append([first, last])
    return spans
