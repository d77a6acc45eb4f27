"""Convolutions and poolings, which become keyed operators, and layers that have none.

Those without, transposed convolution, interpolation, pixel shuffle, are computed between two
reorderings, as the gather backend computes all layers. A map's positions are the last axes.
"""

from math import prod

import torch
from torch import Tensor, fx, nn

from models.keying.layout import Layout, MapKey, Run, Shape, span
from models.keying.plan import Plan, Replacement
from models.keying.registry import rule
from operators import KeyedAvgPool2d, KeyedConv2d, KeyedMaxPool2d

aten = torch.ops.aten


def map_and_batch(plan: Plan, node: fx.Node, x: fx.Node, spatial: int) -> tuple[Run | None, Layout]:
    """The run of a map at the last ``spatial`` axes, and runs beside the batch; others restored."""
    shape = plan.shape(x)
    found, beside = None, []
    for run in plan.layout(x):
        if (run.outer, run.key.positions) == (prod(shape[:-spatial]), prod(shape[-spatial:])):
            found = run
        elif shape[0] % run.end == 0:
            beside.append(run)
        else:
            plan.restore(node, x, (run,))
    return found, tuple(beside)


def resample(
    plan: Plan,
    node: fx.Node,
    x: fx.Node,
    spatial: int = 2,
    spatial_out: int | None = None,
    shape: Shape | None = None,
) -> Layout:
    """A layer from maps to maps between two reorderings.

    Args:
        spatial: how many last axes hold the positions of ``x``; ``spatial_out`` of the result.
        shape: of the result, where the node has several.
    """
    run, beside = map_and_batch(plan, node, x, spatial)
    if run is not None:
        plan.restore(node, x, (run,))
    shape = plan.shape(node) if shape is None else shape
    first = len(shape) - (spatial_out or spatial)
    fresh = plan.fresh_run(node, *span(shape, first, len(shape) - 1))
    return (*beside, *plan.scramble_result(node, fresh))


@rule(
    *(aten.conv_transpose2d, aten.upsample_nearest2d, aten.upsample_bilinear2d),
    *(aten.upsample_bicubic2d, aten._upsample_nearest_exact2d, aten._upsample_bicubic2d_aa),
    *(aten._upsample_bilinear2d_aa, aten.pixel_shuffle, aten.pixel_unshuffle),
    source=True,
)
def resampling(plan: Plan, node: fx.Node, x: fx.Node, *_, **__) -> Layout:
    """``(N, C, H, W)`` -> ``(N, C', H', W')``."""
    return resample(plan, node, x)


@rule(
    *(aten.conv1d, aten.avg_pool1d, aten.max_pool1d, aten.conv_transpose1d),
    *(aten.im2col, aten.col2im),
)
def resampling_1d(plan: Plan, node: fx.Node, x: fx.Node, *_, **__) -> Layout:
    """``(N, C, L)`` -> ``(N, C', L')``; windows of a map ``(N, C, H, W)`` and back."""
    return resample(plan, node, x, len(plan.shape(x)) - 2, len(plan.shape(node)) - 2)


def pair(value: list | tuple | int) -> tuple[int, int]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * 2 if len(values) == 1 else values


def replaced(plan: Plan, node: fx.Node, x: fx.Node, build) -> Layout:
    """Replace a layer of ``(N, C, H, W)`` by the keyed operator ``build(image_size, in, out)``."""
    run, beside = map_and_batch(plan, node, x, 2)
    shape, made = plan.shape(x), plan.shape(node)
    if node.target in plan.shared.layers:  # it was keyed for the other mode, and keeps its keys
        in_key, out_key = plan.shared.layers[node.target]
        run = run or Run(MapKey.natural(in_key.positions), prod(shape[:-2]))
        plan.rekey(node, x, run, in_key, optional=True)
        return (*beside, *([Run(out_key, prod(made[:-2]))] if out_key.positions > 1 else []))

    def make(in_key: Tensor, out_key: Tensor) -> nn.Module:
        return build(
            image_size=shape[-2:], in_key=in_key, out_key=out_key, backend=plan.shared.backend
        )

    fresh = plan.fresh(node, len(made) - 2, len(made) - 1)
    in_key = run.key if run else MapKey.natural(prod(shape[-2:]))
    out_key = fresh[0].key if fresh else MapKey.natural(1)
    plan.edits.append(Replacement(node, x, in_key, out_key, make))
    return (*beside, *fresh)


@rule(aten.conv2d, source=True)
def conv2d(
    plan: Plan,
    node: fx.Node,
    x: fx.Node,
    weight: fx.Node,
    bias: fx.Node | None = None,
    stride=1,
    padding=0,
    dilation=1,
    groups: int = 1,
) -> Layout:
    """``(N, C, H, W)`` -> ``(N, C', H', W')``."""
    if node.target in plan.shared.layers:
        return replaced(plan, node, x, None)
    out_channels, channels, *kernel = plan.shape(weight)
    padding = even_padding(padding, kernel, pair(dilation))
    conv = plan.module(node)
    if padding is None or not _is_its_own(plan, node, conv, weight, bias):
        return resample(plan, node, x)

    def build(**keys) -> KeyedConv2d:
        geometry = (tuple(kernel), pair(stride), padding, pair(dilation), groups)
        keyed = KeyedConv2d(
            channels * groups, out_channels, *geometry, bias is not None, device="meta", **keys
        )
        keyed.weight, keyed.bias = conv.weight, conv.bias
        return keyed

    return replaced(plan, node, x, build)


def _is_its_own(plan: Plan, node: fx.Node, conv: nn.Module | None, *weights: object) -> bool:
    """Whether a convolution can be replaced: a plain layer with plain weights, called once."""
    if not isinstance(conv, nn.Conv2d) or plan.calls[node.target] > 1:
        return False
    given = [getattr(w, "target", None) for w in weights]
    own = [f"{node.target}.{name}" for name, _ in (*conv.named_parameters(), *conv.named_buffers())]
    return list(filter(None, given)) == own and node.target not in plan.shared.unkeyed


def even_padding(padding: object, kernel: list, dilation: tuple) -> tuple[int, int] | None:
    """The padding of a convolution as ``(y, x)``, or None if it differs between two sides."""
    if padding == "valid":
        return (0, 0)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return None if any(n % 2 for n in total) else (total[0] // 2, total[1] // 2)
    return pair(padding)


@rule(aten.max_pool2d, source=True)
def max_pool2d(
    plan: Plan, node: fx.Node, x: fx.Node, kernel, stride=(), padding=0, dilation=1, ceil=False
) -> Layout:
    """``(N, C, H, W)`` -> ``(N, C, H', W')``."""
    stride = pair(stride or kernel)
    geometry = (pair(kernel), stride, pair(padding), pair(dilation), ceil)
    return replaced(plan, node, x, lambda **keys: KeyedMaxPool2d(*geometry, **keys))


@rule(aten.avg_pool2d, source=True)
def avg_pool2d(
    plan: Plan,
    node: fx.Node,
    x: fx.Node,
    kernel,
    stride=(),
    padding=0,
    ceil=False,
    include_pad=True,
    divisor=None,
) -> Layout:
    """``(N, C, H, W)`` -> ``(N, C, H', W')``."""
    stride = pair(stride or kernel)
    geometry = (pair(kernel), stride, pair(padding), ceil, include_pad, divisor)
    return replaced(plan, node, x, lambda **keys: KeyedAvgPool2d(*geometry, **keys))
