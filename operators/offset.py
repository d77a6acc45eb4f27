"""From permutations and a layer's geometry to sampling offsets (paper, section 3).

Notation: ``k_in`` and ``k_out`` are the permutations of a layer's input and output, ``q`` an output
position, ``t`` a kernel tap, ``m(q, t)`` the natural input position of tap ``t`` in the window of
``q``, all row-major. At ``q`` the keyed layer computes what the ordinary one computes at
``k_out[q]``, so it samples scrambled position ``k_in^-1[m(k_out[q], t)]``:

    offset(q, t) = position(k_in^-1[m(k_out[q], t)]) - (where an ordinary layer at q puts tap t)

in pixels, ``(dy, dx)`` interleaved per tap: the layout of ``torchvision.ops.deform_conv2d``. A tap
in the zero padding is sent to position ``(-1, -1)``, which torchvision samples as 0. Offsets are
whole numbers, so nothing is ever interpolated. Geometry arguments are ints or ``(y, x)`` pairs.
"""

import torch
from torch import Tensor

from operators.permutation import check_permutation, invert

PADDED = -1  # the index of a tap that falls in the padding
Size = int | tuple[int, int]


def pair(value: Size, name: str, minimum: int) -> tuple[int, int]:
    """``value`` as a ``(y, x)`` pair of ints, or ValueError naming it and the minimum."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    whole = all(isinstance(v, int) and not isinstance(v, bool) for v in values)
    if len(values) != 2 or not whole or min(values) < minimum:
        raise ValueError(
            f"{name} must be a whole number >= {minimum} or a pair of them, got {value!r}"
        )
    return values


def output_size(
    image_size: Size,
    kernel_size: Size,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> tuple[int, int]:
    """``(H_out, W_out)`` of an ordinary convolution or pooling, by torch's rule.

    Args:
        image_size: ``(H, W)`` of the input map.
        ceil_mode: round up as torch's pooling does; a last window that would start in the far
            padding is dropped.

    Raises:
        ValueError: an argument out of range, or a window that does not fit into the padded map.

    Example:
        >>> output_size((32, 48), kernel_size=3, stride=2, padding=1)
        (16, 24)
    """
    image_size = pair(image_size, "image_size", minimum=1)
    kernel_size = pair(kernel_size, "kernel_size", minimum=1)
    stride = pair(stride, "stride", minimum=1)
    padding = pair(padding, "padding", minimum=0)
    dilation = pair(dilation, "dilation", minimum=1)
    sizes = []
    for n, k, s, p, d in zip(image_size, kernel_size, stride, padding, dilation, strict=True):
        room = n + 2 * p - d * (k - 1) - 1
        size = (room + (s - 1 if ceil_mode else 0)) // s + 1
        if ceil_mode and (size - 1) * s >= n + p:
            size -= 1
        if size < 1:
            raise ValueError(
                f"kernel_size {kernel_size} with dilation {dilation} does not fit into image_size "
                f"{image_size} with padding {padding}"
            )
        sizes.append(size)
    return sizes[0], sizes[1]


def ordinary_taps(
    image_size: Size,
    kernel_size: Size,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> tuple[Tensor, Tensor]:
    """Where an ordinary layer puts its taps: rows and columns, padding included.

    Returns:
        ``y`` and ``x``, int64, each of shape ``(Q, K)`` with ``Q = H_out * W_out`` output positions
        and ``K = kh * kw`` taps, both row-major. A tap in the padding has ``y`` or ``x`` outside
        the map.
    """
    out_size = output_size(image_size, kernel_size, stride, padding, dilation, ceil_mode)
    kernel_size = pair(kernel_size, "kernel_size", minimum=1)
    stride = pair(stride, "stride", minimum=1)
    padding = pair(padding, "padding", minimum=0)
    dilation = pair(dilation, "dilation", minimum=1)
    y, x = (
        (torch.arange(n) * s - p)[:, None] + torch.arange(k) * d  # (n, k): window start + tap
        for n, k, s, p, d in zip(out_size, kernel_size, stride, padding, dilation, strict=True)
    )
    shape = (*out_size, *kernel_size)  # (H_out, W_out, kh, kw)
    taps = kernel_size[0] * kernel_size[1]
    return (
        y[:, None, :, None].expand(shape).reshape(-1, taps),
        x[None, :, None, :].expand(shape).reshape(-1, taps),
    )


def keyed_taps(
    in_key: Tensor,
    out_key: Tensor,
    image_size: Size,
    kernel_size: Size,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """``k_in^-1[m(k_out[q], t)]``: scrambled input position of each tap.

    Args:
        in_key: permutation of the input map, ``(H*W,)``.
        out_key: permutation of the output map, ``(H_out*W_out,)``.

    Returns:
        int64 ``(Q, K)``, ``PADDED`` where the tap falls in the padding.

    Raises:
        ValueError: bad geometry, or a ``key`` that is no permutation of its map's positions.
    """
    height, width = image_size = pair(image_size, "image_size", minimum=1)
    geometry = (image_size, kernel_size, stride, padding, dilation, ceil_mode)
    in_key = check_permutation(in_key, image_size, "in_key")
    out_key = check_permutation(out_key, output_size(*geometry), "out_key")
    y, x = ordinary_taps(*geometry)
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    natural = torch.where(inside, y * width + x, PADDED)  # m(q, t)
    # PADDED is -1, so an extra last entry keeps padded taps padded without a second pass.
    inverse = torch.cat([invert(in_key), torch.tensor([PADDED])])
    return inverse[natural[out_key]]


def sampling_offsets(
    in_key: Tensor,
    out_key: Tensor,
    image_size: Size,
    kernel_size: Size,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
) -> Tensor:
    """The offset tensor of a keyed convolution, for ``torchvision.ops.deform_conv2d``.

    Returns:
        float32 ``(2*kh*kw, H_out, W_out)`` in pixels, ``(dy, dx)`` interleaved per tap. Exact:
        whole numbers below 2**24.

    Raises:
        ValueError: as ``keyed_taps``.

    Example:
        >>> identity = torch.arange(16)
        >>> sampling_offsets(identity, identity, 4, kernel_size=1).abs().max()
        tensor(0.)
    """
    image_size = pair(image_size, "image_size", minimum=1)
    geometry = (image_size, kernel_size, stride, padding, dilation)
    taps = keyed_taps(in_key, out_key, *geometry)
    target = torch.stack([taps // image_size[1], taps % image_size[1]], dim=-1)  # (Q, K, 2): y, x
    target[taps == PADDED] = -1
    offset = target - torch.stack(ordinary_taps(*geometry), dim=-1)
    return offset.permute(1, 2, 0).reshape(-1, *output_size(*geometry)).to(torch.float32)


def disjoint_tiles(
    in_key: Tensor,
    out_key: Tensor,
    image_size: Size,
    kernel_size: Size,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Tensor | None:
    """The one reordering that serves a layer whose windows share no input position and skip none.

    Laid side by side as tiles of ``(kh, kw)``, the window of output position ``q`` at tile ``q``,
    such windows fill the input plane; the ordinary layer with ``stride=kernel_size`` and no padding
    then computes the keyed layer, output key included. Poolings of VGG16 and all 1x1 convolutions
    of stride 1 are such layers.

    Returns:
        ``i``, int64 ``(H*W,)``: tiled position ``p`` holds scrambled input position ``i[p]``; None
        for a layer with other windows.
    """
    height, width = pair(image_size, "image_size", minimum=1)
    kernel_size = pair(kernel_size, "kernel_size", minimum=1)
    geometry = (image_size, kernel_size, stride, padding, dilation, ceil_mode)
    out_size = output_size(*geometry)
    if out_size[0] * kernel_size[0] != height or out_size[1] * kernel_size[1] != width:
        return None
    taps = keyed_taps(in_key, out_key, *geometry)
    tiles = taps.view(*out_size, *kernel_size).permute(0, 2, 1, 3).flatten()  # (H_out*kh*W_out*kw,)
    fills = torch.equal(tiles.sort().values, torch.arange(height * width))
    return tiles if fills else None
