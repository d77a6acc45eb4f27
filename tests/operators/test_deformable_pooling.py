"""Keyed pooling: both backends against nested loops and against torch's pooling."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from operators import KeyedAvgPool2d, KeyedMaxPool2d
from tests.operators import naive
from tests.operators.geometry import geometries, key

BOTH = ("deform", "gather")


def geometry_of(layer, keys, out_size):
    """The arguments of the nested loops that follow the input and the reduction."""
    sizes = (layer["kernel_size"], layer["stride"], layer["padding"], layer["dilation"])
    return (keys["in_key"], keys["out_key"], out_size, *sizes)


@settings(max_examples=40, deadline=None)
@given(geometries(pool=True))
def test_maximum_equals_the_nested_loops(case):
    layer, keys, out_size, x = case

    def largest(values, window):
        return torch.stack(values).amax(0) if values else torch.tensor(-torch.inf).double()

    twin = naive.pool2d(x, largest, *geometry_of(layer, keys, out_size))
    for backend in BOTH:
        pool = KeyedMaxPool2d(**layer, **keys, backend=backend)
        assert pool.output_size == out_size
        torch.testing.assert_close(pool(x), twin, atol=0, rtol=0)


@settings(max_examples=40, deadline=None)
@given(geometries(pool=True), st.booleans(), st.sampled_from([None, 3, -2]))
def test_average_equals_the_nested_loops(case, count_include_pad, divisor_override):
    layer, keys, _, x = case
    layer["dilation"] = (1, 1)
    height, width = keys["image_size"]
    top, left = layer["padding"] if count_include_pad else (0, 0)

    def mean(values, window):
        counted = [-top <= y < height + top and -left <= x < width + left for y, x in window]
        total = torch.stack(values).sum(0) if values else torch.tensor(0.0).double()
        return total / (divisor_override or max(1, sum(counted)))

    undilated = {name: value for name, value in layer.items() if name != "dilation"}
    extra = {"count_include_pad": count_include_pad, "divisor_override": divisor_override}
    plain = nn.AvgPool2d(**undilated, **extra)
    try:
        out_size = tuple(plain(x).shape[2:])
    except RuntimeError:  # dilation made the window fit, or fit elsewhere
        return
    keys["out_key"] = key(out_size[0] * out_size[1], 1)
    twin = naive.pool2d(x, mean, *geometry_of(layer, keys, out_size))
    for backend in BOTH:
        pool = KeyedAvgPool2d(**undilated, **extra, **keys, backend=backend)
        assert pool.output_size == out_size
        torch.testing.assert_close(pool(x), twin)


@settings(max_examples=40, deadline=None)
@given(geometries(pool=True))
def test_the_gradient_goes_to_one_tap_as_in_torch(case):
    layer, keys, _, x = case
    leaf = naive.restore(x, keys["in_key"]).requires_grad_()
    y = nn.MaxPool2d(**layer)(leaf)
    if y.isinf().any():  # a window wholly in the padding: torch picks a tap that is not there
        return
    weight = torch.arange(1.0, 1 + y.numel(), dtype=torch.float64).reshape(y.shape)
    (natural,) = torch.autograd.grad(y, leaf, weight)
    for backend in BOTH:
        pool = KeyedMaxPool2d(**layer, **keys, backend=backend)
        leaf = x.clone().requires_grad_()
        (scrambled,) = torch.autograd.grad(
            pool(leaf), leaf, naive.scramble(weight, keys["out_key"])
        )
        assert torch.equal(scrambled, naive.scramble(natural, keys["in_key"]))


GEOMETRIES = {
    "tiles": ({"kernel_size": 2}, 9),
    "overlap": ({"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}, 16),
}


@pytest.mark.parametrize("backend", BOTH)
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("kind", [KeyedMaxPool2d, KeyedAvgPool2d])
def test_gradients(kind, geometry, backend):
    layer, positions = GEOMETRIES[geometry]
    keys = {"image_size": 6, "in_key": key(36, 0), "out_key": key(positions, 1)}
    pool = kind(**layer, **keys, backend=backend)
    distinct = torch.randperm(36).reshape(1, 1, 6, 6).double().requires_grad_()
    assert torch.autograd.gradcheck(pool, distinct)
    assert torch.autograd.gradgradcheck(lambda x: pool(x).pow(2), distinct, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind", [KeyedMaxPool2d, KeyedAvgPool2d])
def test_every_dtype_and_layout(kind, memory_format, dtype):
    keys = {"image_size": 6, "in_key": key(36, 0), "out_key": key(9, 1)}
    x = torch.randn(2, 3, 6, 6).to(dtype).contiguous(memory_format=memory_format)
    deform, gather = (kind(2, **keys, backend=backend)(x) for backend in BOTH)
    assert deform.dtype == gather.dtype == dtype
    torch.testing.assert_close(gather, deform)
    assert gather.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("backend", ("auto", *BOTH))
def test_nothing_is_stored_and_no_key_is_shown(backend):
    keys = {"image_size": 6, "in_key": key(36, 0), "out_key": key(9, 1)}
    for pool in (KeyedMaxPool2d(2, **keys), KeyedAvgPool2d(2, **keys, backend=backend)):
        assert pool.state_dict() == {} and "tensor" not in repr(pool)
        moved = dict(pool.to("meta").half().named_buffers())
        assert not any(b.is_floating_point() for b in moved.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"padding": 2}, r"padding must be at most half of kernel_size \(2, 2\), got \(2, 2\)"),
        ({"kernel_size": 0}, r"kernel_size .*got 0"),
        ({"stride": (0, 2)}, r"stride .*got \(0, 2\)"),
        ({"kernel_size": 7}, r"kernel_size \(7, 7\) .*image_size \(6, 6\)"),
        ({"out_key": key(36, 1)}, r"out_key must hold 9 whole numbers .* 3x3, got shape \(36,\)"),
        ({"backend": "cuda"}, r"backend must be one of .*got 'cuda'"),
    ],
)
@pytest.mark.parametrize("kind", [KeyedMaxPool2d, KeyedAvgPool2d])
def test_bad_arguments_are_named(kind, changes, message):
    keys = {"image_size": 6, "in_key": key(36, 0), "out_key": key(9, 1)}
    with pytest.raises(ValueError, match=message):
        kind(**({"kernel_size": 2} | keys | changes))


def test_other_errors():
    keys = {"image_size": 6, "in_key": key(36, 0), "out_key": key(9, 1)}
    with pytest.raises(ValueError, match="divisor_override must not be zero, got 0"):
        KeyedAvgPool2d(2, divisor_override=0, **keys)
    with pytest.raises(ValueError, match=r"\(N, C, 6, 6\) for this key, got \(1, 1, 6, 7\)"):
        KeyedMaxPool2d(2, **keys)(torch.zeros(1, 1, 6, 7))
