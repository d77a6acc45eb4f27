"""Operations that move positions and compute nothing: permuting axes, slicing, rolling, padding.

Where one keeps the axes of a map together, so does the key. Where it takes them apart, or takes
some positions only, its operand is moved, in one reordering, to a key under which the operation
itself makes the scrambled result: nothing is in natural order at any time.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, fx

from models.keying.graph import BATCH, VALUE
from models.keying.layout import NATURAL, Layout, MapKey, Moved, Run, Shape, atoms, place, span
from models.keying.plan import Plan
from models.keying.registry import rule
from models.keying.relate import relate

aten = torch.ops.aten


@rule(
    *(aten.permute, aten.transpose, aten.t, aten.movedim, aten.moveaxis, aten.swapaxes),
    *(aten.swapdims, aten.numpy_T, aten.mT, aten.adjoint),
)
def permute(plan: Plan, node: fx.Node, x: fx.Node, *args, **kwargs) -> Layout:
    """``(A, B, ...)`` -> the same axes in another order."""
    named = torch.empty(tuple(range(2, len(plan.shape(x)) + 2)), device="meta")
    order = [n - 2 for n in plan.call(node)[0](named, *args, **kwargs).shape]
    parts = factors(plan, x)
    shape = tuple(size for sizes in parts for size in sizes)
    starts = [sum(map(len, parts[:axis])) for axis in range(len(parts))]
    result = [starts[axis] + i for axis in order for i in range(len(parts[axis]))]
    results = [tuple(shape[i] for i in result)]
    (layout,) = moved(plan, node, x, shape, results, result, set(), lambda t: [t.permute(result)])
    return layout


def factors(plan: Plan, x: fx.Node) -> list[list[int]]:
    """The axes of a tensor, cut where runs begin or end: windows beside the batch, for example."""
    shape = plan.shape(x)
    cuts = [{1, size} for size in shape]
    for run in plan.layout(x):
        for axis, low, high in atoms(run, shape, list(range(len(shape)))) or ():
            cuts[axis] |= {low, high}
    ordered = [sorted(cut) for cut in cuts]
    return [
        [b // a for a, b in pairwise(cut)] if all(b % a == 0 for a, b in pairwise(cut)) else [size]
        for cut, size in zip(ordered, shape, strict=True)
    ]


@rule(
    *(aten.roll, aten.flip, aten.slice, aten.narrow, aten.select, aten.unbind),
    *(aten.split, aten.split_with_sizes, aten.chunk, aten.tensor_split),
)
def cut(plan: Plan, node: fx.Node, x: fx.Node, *args, **kwargs) -> object:
    """``(..., A, ...)`` -> one ``(..., B, ...)`` or several; or ``(..., ...)``, without axis."""
    operator, value, rank = plan.call(node)[0], node.meta[VALUE], len(plan.shape(x))
    given = plan.arguments(node)
    dims = given.get("dim", given.get("dims"))
    dims = [dims] if isinstance(dims, int) else dims
    if not dims or isinstance(given.get("index"), fx.Node):
        return NotImplemented  # over all elements, or at a place that is computed
    several = isinstance(value, (tuple, list))
    results = [v.shape for v in value] if several else [value.shape]
    touched = {dim % rank for dim in dims}
    dropped = touched if len(results[0]) < rank else set()
    result = [axis for axis in range(rank) if axis not in dropped]
    if operator.overloadpacket is aten.slice and results[0] == plan.shape(x):
        touched = set()

    def mover(t: Tensor) -> list[Tensor]:
        made = operator(t, *args, **kwargs)
        return list(made) if several else [made]

    layouts = moved(plan, node, x, plan.shape(x), results, result, touched, mover)
    return tuple(layouts) if several else layouts[0]


def moved(
    plan: Plan,
    node: fx.Node,
    x: fx.Node,
    shape: Shape,
    results: list[Shape],
    result: list[int],
    touched: set[int],
    mover: Callable[[Tensor], list[Tensor]],
) -> list[Layout]:
    """Layouts of what a movement makes of ``x``.

    Args:
        shape: of ``x``, its axes cut where that helps.
        results: the shapes of the results.
        result: the axis of ``x`` that each axis of a result comes from.
        touched: axes along which positions are told apart.
        mover: the movement of a tensor whose axes are as long as those of ``x``, or 1.
    """
    layouts: list[list[Run]] = [[] for _ in results]
    axes = list(range(len(shape)))
    runs = list(plan.layout(x))
    while runs:
        run = runs.pop(0)
        covered = atoms(run, shape, axes)
        if covered is None:
            plan.restore(node, x, (run,))
            plan.lost.add(node)
            continue
        names = {axis for axis, _, _ in covered}
        outers = [place(covered, made, result) for made in results]
        if not names & touched and None not in outers:
            for layout, outer in zip(layouts, outers, strict=True):
                layout.append(Run(run.key, outer))
            continue
        left = [result.index(axis) for axis in names if axis in result]
        between = {result[i] for i in range(min(left), max(left))} - names if left else set()
        between = {axis for axis in between if shape[axis] > 1}
        if between:  # the result's positions lie apart
            partner = next((r for r in runs if _cover(r, shape, axes) & between), None)
            if partner is not None and partner.outer == run.end:
                runs[runs.index(partner)] = _joined(run, partner)
                continue
            sizes = [high // low for _, low, high in covered]
            if len(sizes) > 1:
                if not run.key.divide(sizes):
                    (new,) = plan.fresh_run(node, run.outer, run.key.positions, divisible=True)
                    plan.rekey(node, x, run, new.key)
                    new.key.divide(sizes)
                    run = new
                runs[:0] = run.whole()
                continue
        whole = all(low == 1 and high == shape[axis] for axis, low, high in covered)
        if not whole or between or any(shape[axis] % BATCH == 0 for axis in names):
            plan.restore(node, x, (run,))
            plan.lost.add(node)
            continue
        sizes = [shape[axis] if axis in names else 1 for axis in axes]
        positions = torch.arange(run.key.positions).reshape(sizes)
        targets = []
        for layout, source, made in zip(layouts, mover(positions), results, strict=True):
            fresh = NATURAL
            if left and source.numel() > 1:
                outer, count = span(made, min(left), max(left))
                fresh = plan.fresh_run(node, outer, count, divisible=True)
            layout.extend(fresh)
            key = fresh[0].key if fresh else MapKey.natural(source.numel())
            targets.append((key, source.flatten()))
        plan.rekey(node, x, run, Moved(run.key, targets))
    return [tuple(layout) for layout in layouts]


def _cover(run: Run, shape: Shape, axes: list[int]) -> set[int]:
    return {axis for axis, _, _ in atoms(run, shape, axes) or ()}


def _joined(first: Run, second: Run) -> Run:
    """Two runs side by side as one, under the product of their keys."""
    return Run(MapKey.product(first.key, second.key), first.outer)


@rule(aten.constant_pad_nd, aten.pad, aten.reflection_pad2d, aten.replication_pad2d)
def pad(plan: Plan, node: fx.Node, x: fx.Node, widths: list, *_, **__) -> Layout:
    """``(..., A, ...)`` -> ``(..., A + before + after, ...)``."""
    rank = len(plan.shape(x))
    touched = {rank - 1 - i // 2 for i, width in enumerate(widths) if width != 0}
    axes = list(range(rank))
    return relate(plan, node, [(x, axes)], axes, natural=touched)


@rule(aten.unfold)
def windows(plan: Plan, node: fx.Node, x: fx.Node, dim: int, *_, **__) -> Layout:
    """``(..., A, ...)`` -> ``(..., windows, ..., size)``; each window in its order."""
    axes = list(range(len(plan.shape(x))))
    return relate(plan, node, [(x, axes)], [*axes, "window"], natural=[axes[dim]])
