"""Convolution and pooling: the layers with keyed operators (paper, section 3)."""

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from models.keying.layout import Layout
from models.keying.plan import Plan
from models.keying.registry import rule
from models.keying.rules.resampling import check_map, resample
from operators import KeyedAvgPool2d, KeyedConv2d, KeyedMaxPool2d


def even_padding(conv: nn.Conv2d) -> tuple[int, int] | None:
    """The padding of a convolution as ``(y, x)``, or None if it differs between two sides."""
    if conv.padding == "valid":
        return (0, 0)
    if conv.padding == "same":
        total = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        return None if any(n % 2 for n in total) else (total[0] // 2, total[1] // 2)
    return conv.padding


@rule(modules=[nn.Conv2d], source=True)
def conv2d(plan: Plan, node: fx.Node, x: fx.Node) -> Layout:
    conv, image_size = plan.module(node), plan.shape(x)[-2:]
    padding = even_padding(conv)
    # A layer that is called twice, or whose hooks compute its weight, must stay itself.
    shared = plan.calls[node.target] > 1 or conv._forward_pre_hooks or conv._forward_hooks
    if shared or conv.padding_mode != "zeros" or padding is None:
        return resample(plan, node, x)
    check_map(plan, node, x)

    def build(in_key: Tensor, out_key: Tensor) -> KeyedConv2d:
        keyed = KeyedConv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            padding,
            conv.dilation,
            conv.groups,
            conv.bias is not None,
            device="meta",
            image_size=image_size,
            in_key=in_key,
            out_key=out_key,
            backend=plan.backend,
        )
        keyed.weight, keyed.bias, keyed.training = conv.weight, conv.bias, conv.training
        return keyed

    return plan.replace(node, x, build)


@rule(modules=[nn.MaxPool2d], source=True)
def max_pool_layer(plan: Plan, node: fx.Node, x: fx.Node) -> Layout:
    pool = plan.module(node)
    geometry = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
    return max_pool2d(plan, node, x, *geometry, pool.return_indices)


@rule(functions=[F.max_pool2d, torch.max_pool2d], source=True)
def max_pool2d(
    plan: Plan,
    node: fx.Node,
    x: fx.Node,
    kernel_size,
    stride=None,
    padding=0,
    dilation=1,
    ceil_mode=False,
    return_indices=False,
) -> Layout:
    check_map(plan, node, x)
    if return_indices:
        plan.fail(node, "returns positions, which a key changes")
    image_size = plan.shape(x)[-2:]

    def build(in_key: Tensor, out_key: Tensor) -> KeyedMaxPool2d:
        return KeyedMaxPool2d(
            kernel_size,
            stride or None,  # torch takes [] for the default too
            padding,
            dilation,
            ceil_mode,
            image_size=image_size,
            in_key=in_key,
            out_key=out_key,
            backend=plan.backend,
        )

    return plan.replace(node, x, build)


@rule(modules=[nn.AvgPool2d], source=True)
def avg_pool_layer(plan: Plan, node: fx.Node, x: fx.Node) -> Layout:
    pool = plan.module(node)
    geometry = (pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode)
    return avg_pool2d(plan, node, x, *geometry, pool.count_include_pad, pool.divisor_override)


@rule(functions=[F.avg_pool2d], source=True)
def avg_pool2d(
    plan: Plan,
    node: fx.Node,
    x: fx.Node,
    kernel_size,
    stride=None,
    padding=0,
    ceil_mode=False,
    count_include_pad=True,
    divisor_override=None,
) -> Layout:
    check_map(plan, node, x)
    image_size = plan.shape(x)[-2:]

    def build(in_key: Tensor, out_key: Tensor) -> KeyedAvgPool2d:
        return KeyedAvgPool2d(
            kernel_size,
            stride or None,
            padding,
            ceil_mode,
            count_include_pad,
            divisor_override,
            image_size=image_size,
            in_key=in_key,
            out_key=out_key,
            backend=plan.backend,
        )

    return plan.replace(node, x, build)
