"""Keyed convolution: both backends against nested loops, native convolution and each other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from operators import KeyedConv2d
from operators.gather import Reorder
from tests.operators import naive
from tests.operators.geometry import geometries, key

BOTH = ("deform", "gather")


@settings(max_examples=40, deadline=None)
@given(geometries(), st.sampled_from([1, 2, 4]), st.booleans())
def test_equals_the_nested_loops(case, groups, bias):
    layer, keys, out_size, x = case
    for backend in BOTH:
        conv = KeyedConv2d(4, 4, **layer, groups=groups, bias=bias, **keys, backend=backend)
        conv = conv.double()
        y = conv(x)
        assert conv.output_size == out_size and y.dtype == torch.float64
        twin = naive.conv2d(
            x,
            conv.weight,
            conv.bias,
            keys["in_key"],
            keys["out_key"],
            out_size,
            layer["stride"],
            layer["padding"],
            layer["dilation"],
            groups,
        )
        assert y.shape == twin.shape
        torch.testing.assert_close(y, twin)


def make(backend: str, **changes) -> KeyedConv2d:
    arguments = {
        "in_channels": 2,
        "out_channels": 3,
        "kernel_size": (3, 2),
        "stride": (1, 2),
        "padding": (1, 0),
        "image_size": (5, 6),
        "in_key": key(30, 0),
        "out_key": key(15, 1),
        "backend": backend,
    } | changes
    return KeyedConv2d(**arguments)


POINTWISE = {"kernel_size": 1, "stride": 1, "padding": 0, "out_key": key(30, 1)}


@pytest.mark.parametrize("backend", BOTH)
@pytest.mark.parametrize("changes", [{}, POINTWISE], ids=["windows", "pointwise"])
def test_gradients(backend, changes):
    conv = make(backend, **changes, in_channels=1, out_channels=2).double()
    x = torch.randn(1, 1, 5, 6, dtype=torch.float64, requires_grad=True)
    inputs = (x, conv.weight, conv.bias)

    def run(x, weight, bias):
        return torch.func.functional_call(conv, {"weight": weight, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(run, inputs)
    if backend == "gather":  # torchvision's operator has no double backward
        assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize(("channels", "out_channels"), [(4, 2), (2, 4), (2, 2)])
def test_a_pointwise_convolution_reorders_once_where_there_are_fewer_channels(
    channels, out_channels
):
    changes = POINTWISE | {"in_channels": channels, "out_channels": out_channels}
    deform, gather = (make(backend, **changes).double() for backend in BOTH)
    gather.load_state_dict(deform.state_dict())
    seen = []
    for layer in gather.modules():
        if isinstance(layer, Reorder):
            layer.register_forward_hook(lambda *call: seen.append(call[2].shape[1]))
    x = torch.randn(2, channels, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(gather(x), deform(x))
    assert seen == [2]


@settings(max_examples=20, deadline=None)
@given(geometries(), st.sampled_from([torch.float32, torch.float64]))
def test_backends_agree_forwards_and_backwards(case, dtype):
    layer, keys, _, x = case
    layers = [KeyedConv2d(4, 2, **layer, **keys, backend=backend).to(dtype) for backend in BOTH]
    layers[1].load_state_dict(layers[0].state_dict())
    results = []
    for conv in layers:
        leaf = x.to(dtype).requires_grad_()
        y = conv(leaf)
        results.append((y, *torch.autograd.grad(y.cos().sum(), (leaf, *conv.parameters()))))
    for deform, gather in zip(*results, strict=True):
        torch.testing.assert_close(gather, deform, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", BOTH)
def test_half_precision_layers_keep_exact_positions(backend, dtype):
    # 4096 positions in one column: offsets far beyond what bfloat16 and float16 count exactly.
    keys = {"image_size": (4096, 1), "in_key": key(4096, 0), "out_key": key(4096, 1)}
    conv = KeyedConv2d(1, 1, (3, 1), padding=(1, 0), bias=False, **keys, backend=backend).to(dtype)
    nn.init.ones_(conv.weight)
    x = torch.randint(0, 8, (1, 1, 4096, 1)).to(dtype)
    plain = nn.functional.conv2d(x.float(), conv.weight.float(), padding=(1, 0))
    expected = naive.scramble(plain, keys["out_key"])
    y = conv(naive.scramble(x, keys["in_key"]))
    assert y.dtype == dtype and torch.equal(y.float(), expected)


@pytest.mark.parametrize("backend", BOTH)
def test_autocast_gives_the_dtype_of_an_ordinary_convolution(backend):
    conv = make(backend)
    x = torch.randn(2, 2, 5, 6, requires_grad=True)
    exact = conv(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = conv(x)
    assert y.dtype == torch.bfloat16 and exact.dtype == torch.float32
    torch.testing.assert_close(y.float(), exact, atol=0.05, rtol=0.05)
    y.float().sum().backward()
    assert x.grad.dtype == torch.float32 and conv.weight.grad.dtype == torch.float32


def test_gather_keeps_channels_last():
    conv = make("gather").to(memory_format=torch.channels_last)
    x = torch.randn(2, 2, 5, 6).contiguous(memory_format=torch.channels_last)
    assert conv(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("backend", ("auto", *BOTH))
def test_parameters_are_the_plain_layers_and_nothing_else_is_stored(backend):
    conv = make(backend)
    plain = nn.Conv2d(2, 3, (3, 2), (1, 2), (1, 0))
    assert isinstance(conv, nn.Conv2d)
    assert list(conv.state_dict()) == list(plain.state_dict()) == ["weight", "bias"]
    conv.load_state_dict(plain.state_dict(), strict=True)
    plain.load_state_dict(conv.state_dict(), strict=True)
    assert "tensor" not in repr(conv)


def test_buffers_move_with_the_layer_and_are_never_floating_point():
    for backend in BOTH:
        buffers = dict(make(backend).to("meta").half().named_buffers())
        assert buffers and all(b.device.type == "meta" for b in buffers.values())
        assert not any(b.is_floating_point() for b in buffers.values())


@pytest.mark.parametrize("backend", BOTH)
def test_a_wrong_key_gives_something_else(backend):
    right, wrong = make(backend), make(backend, in_key=key(30, 9))
    wrong.load_state_dict(right.state_dict())
    x = torch.randn(2, 2, 5, 6)
    assert not torch.allclose(right(x), wrong(x), atol=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backend": "fast"}, r"backend must be one of auto, deform, gather, triton, got 'fast'"),
        ({"padding": "same"}, r"padding .*got 'same'"),
        ({"stride": 0}, r"stride .*got 0"),
        ({"kernel_size": (3, 9)}, r"kernel_size \(3, 9\) .*image_size \(5, 6\)"),
        ({"in_key": key(25, 0)}, r"in_key must hold 30 whole numbers .* 5x6, got shape \(25,\)"),
        ({"out_key": key(30, 0)}, r"out_key must hold 15 whole numbers .* 5x3, got shape \(30,\)"),
        ({"groups": 5}, r"in_channels must be divisible by groups"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    backend = changes.pop("backend", "gather")
    with pytest.raises(ValueError, match=message):
        make(backend, **changes)


@pytest.mark.parametrize("backend", BOTH)
@pytest.mark.parametrize("shape", [(2, 2, 6, 5), (2, 5, 6), (2, 2, 5, 7)])
def test_inputs_of_another_size_are_named(backend, shape):
    with pytest.raises(ValueError, match=r"\(N, 2, 5, 6\) for this key, got \("):
        make(backend)(torch.zeros(shape))
