"""Slow, obvious twins of the operators: nested loops over everything, in Python numbers.

They work from the definition alone: restore the input with the key, compute each output pixel at
its natural place, put it where the output key says.
"""

import torch
from torch import Tensor


def scramble(x: Tensor, key: Tensor) -> Tensor:
    """``s[..., p] = x[..., key[p]]``, one position at a time."""
    flat = x.flatten(-2)
    out = torch.empty_like(flat)
    for p, source in enumerate(key.tolist()):
        out[..., p] = flat[..., source]
    return out.reshape(x.shape)


def restore(s: Tensor, key: Tensor) -> Tensor:
    flat = s.flatten(-2)
    out = torch.empty_like(flat)
    for p, source in enumerate(key.tolist()):
        out[..., source] = flat[..., p]
    return out.reshape(s.shape)


def taps(y: int, x: int, shape, kernel_size, stride, padding, dilation):
    """``(tap, row, column, inside)`` of the window at natural output position ``(y, x)``."""
    for i in range(kernel_size[0]):
        for j in range(kernel_size[1]):
            row = y * stride[0] - padding[0] + i * dilation[0]
            column = x * stride[1] - padding[1] + j * dilation[1]
            inside = 0 <= row < shape[0] and 0 <= column < shape[1]
            yield i * kernel_size[1] + j, row, column, inside


def offsets(in_key, out_key, shape, out_shape, kernel_size, stride, padding, dilation) -> Tensor:
    """The published offsets: for each output position and tap, target minus ordinary position."""
    place = {natural: p for p, natural in enumerate(in_key.tolist())}
    out = torch.zeros(2 * kernel_size[0] * kernel_size[1], *out_shape)
    geometry = (shape, kernel_size, stride, padding, dilation)
    for q, natural in enumerate(out_key.tolist()):
        here = divmod(q, out_shape[1])
        window = taps(*divmod(natural, out_shape[1]), *geometry)
        ordinary = taps(*here, *geometry)
        for (t, row, column, inside), (_, row0, column0, _) in zip(window, ordinary, strict=True):
            target = divmod(place[row * shape[1] + column], shape[1]) if inside else (-1, -1)
            out[2 * t, here[0], here[1]] = target[0] - row0
            out[2 * t + 1, here[0], here[1]] = target[1] - column0
    return out


def conv2d(x, weight, bias, in_key, out_key, out_shape, stride, padding, dilation, groups):
    """Keyed convolution of ``x`` ``(N, C, H, W)``, channel by channel and tap by tap."""
    natural = restore(x, in_key)
    n, _, *shape = x.shape
    c_out, group_in, *kernel_size = weight.shape
    y = torch.zeros(n, c_out, *out_shape, dtype=x.dtype)
    for o in range(c_out):
        first = o // (c_out // groups) * group_in
        for a in range(out_shape[0]):
            for b in range(out_shape[1]):
                for t, row, column, inside in taps(
                    a, b, shape, kernel_size, stride, padding, dilation
                ):
                    if inside:
                        window = natural[:, first : first + group_in, row, column]
                        y[:, o, a, b] += window @ weight[o].flatten(1)[:, t]
        if bias is not None:
            y[:, o] += bias[o]
    return scramble(y, out_key)


def pool2d(x, reduce, in_key, out_key, out_shape, kernel_size, stride, padding, dilation):
    """Keyed pooling; ``reduce(values, window)`` makes one output of the taps inside the map.

    ``values`` is a list of ``(N, C)`` tensors, ``window`` the list of all ``(row, column)``.
    """
    natural = restore(x, in_key)
    shape = x.shape[2:]
    y = torch.zeros(*x.shape[:2], *out_shape, dtype=x.dtype)
    for a in range(out_shape[0]):
        for b in range(out_shape[1]):
            window = list(taps(a, b, shape, kernel_size, stride, padding, dilation))
            values = [natural[:, :, row, column] for _, row, column, inside in window if inside]
            y[:, :, a, b] = reduce(values, [(row, column) for _, row, column, _ in window])
    return scramble(y, out_key)
