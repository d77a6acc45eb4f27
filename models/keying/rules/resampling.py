"""Layers from maps to maps that have no keyed operator: restored, computed, scrambled afresh.

Transposed convolution, adaptive and power-average pooling, interpolation, pixel shuffle. Their
positions are the axes from 2 on, as everywhere in torch.
"""

import torch
from torch import fx, nn
from torch.nn import functional as F
from torchvision.ops import DeformConv2d, deform_conv2d

from models.keying.layout import NATURAL, Layout, trimmed
from models.keying.plan import VALUE, Plan
from models.keying.registry import rule


def check_map(plan: Plan, node: fx.Node, x: fx.Node) -> None:
    """Fail unless all scrambled axes of ``x`` are positions of an ``(N, C, ...)`` batch."""
    rank = len(plan.shape(x))
    for group in plan.layout(x):
        if group.span != trimmed(plan.shape(x), 2, rank - 1):
            axes = ", ".join(str(a) for a in range(group.first, group.last + 1))
            plan.fail(node, f"expects positions at axes 2..{rank - 1}, this key scrambles {axes}")


@rule(
    modules=[
        *(nn.Conv1d, nn.ConvTranspose1d, nn.ConvTranspose2d, DeformConv2d),
        *(nn.AvgPool1d, nn.MaxPool1d, nn.LPPool1d, nn.LPPool2d),
        *(nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
        *(nn.PixelShuffle, nn.PixelUnshuffle, nn.Unfold),
    ],
    functions=[
        *(F.conv1d, F.conv2d, F.conv_transpose1d, F.conv_transpose2d, deform_conv2d),
        *(F.avg_pool1d, F.max_pool1d, F.lp_pool1d, F.lp_pool2d),
        *(F.interpolate, F.upsample, F.pixel_shuffle, F.pixel_unshuffle, F.unfold),
    ],
    source=True,
)
def resample(plan: Plan, node: fx.Node, x: fx.Node, *_, **__) -> Layout:
    for operand in plan.tensors(node):
        check_map(plan, node, operand)
    if getattr(plan.module(node), "return_indices", False):
        plan.fail(node, "returns positions, which a key changes")
    return plan.conjugate(node, [(2, len(plan.shape(node)) - 1)])


@rule(
    modules=[
        *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
        *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
    ],
    functions=[
        *(F.adaptive_avg_pool1d, F.adaptive_avg_pool2d),
        *(F.adaptive_max_pool1d, F.adaptive_max_pool2d),
    ],
    source=True,
)
def adaptive_pool(plan: Plan, node: fx.Node, x: fx.Node, *_, **__) -> Layout:
    check_map(plan, node, x)
    if not isinstance(node.meta[VALUE], torch.Tensor):
        plan.fail(node, "returns positions, which a key changes")
    if all(n == 1 for n in plan.shape(node)[2:]):
        return NATURAL  # global pooling does not see the order of its positions
    return resample(plan, node, x)
