"""Random layer geometry for the operators' tests: H != W, even kernels, everything unequal."""

import torch
from hypothesis import assume
from hypothesis import strategies as st

from operators.offset import Geometry


def key(n: int, seed: int) -> torch.Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


@st.composite
def geometries(draw, pool: bool = False):
    """A dictionary of valid geometry, keys included; sizes up to 7x7, batches from 0 to 3."""

    def two(low, high):
        return st.tuples(st.integers(low, high), st.integers(low, high))

    size, kernel_size = draw(two(1, 7)), draw(two(1, 4))
    padding = tuple(draw(st.integers(0, k // 2 if pool else 2)) for k in kernel_size)
    layer = {
        "kernel_size": kernel_size,
        "stride": draw(two(1, 3)),
        "padding": padding,
        "dilation": draw(two(1, 2)),
    }
    ceil_mode = draw(st.booleans()) if pool else False
    try:
        out_size = Geometry(size, **layer, ceil_mode=ceil_mode).output_size
    except ValueError:
        assume(False)
    if pool:
        layer["ceil_mode"] = ceil_mode
    seed = draw(st.integers(0, 2**16))
    keys = {
        "image_size": size,
        "in_key": key(size[0] * size[1], seed),
        "out_key": key(out_size[0] * out_size[1], seed + 1),
    }
    generator = torch.Generator().manual_seed(seed)
    # Few distinct values, so that maxima tie.
    x = torch.randint(-3, 4, (draw(st.integers(0, 3)), 4, *size), generator=generator).double()
    layout = draw(st.sampled_from(["contiguous", "channels_last", "transposed"]))
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "transposed":
        x = x.transpose(2, 3).contiguous().transpose(2, 3)
    return layer, keys, out_size, x
