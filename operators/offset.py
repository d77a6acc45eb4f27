"""From permutations and a layer's geometry to sampling offsets (paper, section 3).

Notation: ``k_in`` and ``k_out`` are the permutations of a layer's input and output, ``q`` an output
position, ``t`` a kernel tap, ``m(q, t)`` the natural input position of tap ``t`` in the window of
``q``, all row-major. At ``q`` the keyed layer computes what the ordinary one computes at
``k_out[q]``, so it samples scrambled position ``k_in^-1[m(k_out[q], t)]``:

    offset(q, t) = position(k_in^-1[m(k_out[q], t)]) - (where an ordinary layer at q puts tap t)

in pixels, ``(dy, dx)`` interleaved per tap: the layout of ``torchvision.ops.deform_conv2d``. A tap
in the zero padding is sent to position ``(-1, -1)``, which torchvision samples as 0. Offsets are
whole numbers, so nothing is ever interpolated.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from operators.permutation import check_permutation, invert

PADDED = -1  # the index of a tap that falls in the padding
Size = int | tuple[int, int]  # of both axes, or (y, x)


def pair(value: Size, name: str, minimum: int) -> tuple[int, int]:
    """``value`` as a ``(y, x)`` pair of ints, or ValueError naming it and the minimum."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    whole = all(isinstance(v, int) and not isinstance(v, bool) for v in values)
    if len(values) != 2 or not whole or min(values) < minimum:
        raise ValueError(
            f"{name} must be a whole number >= {minimum} or a pair of them, got {value!r}"
        )
    return values


@dataclass
class Geometry:
    """Where the windows of a layer lie on its input map; sizes are kept as ``(y, x)`` pairs.

    Attributes:
        image_size: ``(H, W)`` of the input map.
        ceil_mode: round the output's size up as torch's pooling does; a last window that would
            start in the far padding is dropped.
        output_size: ``(H_out, W_out)``, by torch's rule.

    Raises:
        ValueError: an argument out of range, or a window that does not fit into the padded map.

    Example:
        >>> Geometry((32, 48), kernel_size=3, stride=2, padding=1).output_size
        (16, 24)
    """

    image_size: Size
    kernel_size: Size
    stride: Size = 1
    padding: Size = 0
    dilation: Size = 1
    ceil_mode: bool = False
    output_size: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        for name in ("image_size", "kernel_size", "stride", "padding", "dilation"):
            minimum = 0 if name == "padding" else 1
            setattr(self, name, pair(getattr(self, name), name, minimum))
        sizes = []
        for n, k, s, p, d in self._axes(self.image_size):
            room = n + 2 * p - d * (k - 1) - 1
            size = (room + (s - 1 if self.ceil_mode else 0)) // s + 1
            if self.ceil_mode and (size - 1) * s >= n + p:
                size -= 1
            if size < 1:
                raise ValueError(
                    f"kernel_size {self.kernel_size} with dilation {self.dilation} does not fit "
                    f"into image_size {self.image_size} with padding {self.padding}"
                )
            sizes.append(size)
        self.output_size = sizes[0], sizes[1]

    def taps(self) -> tuple[Tensor, Tensor]:
        """Where an ordinary layer puts its taps: rows and columns, padding included.

        Returns:
            ``y`` and ``x``, int64, each of shape ``(Q, K)`` with ``Q = H_out * W_out`` output
            positions and ``K = kh * kw`` taps, both row-major. A tap in the padding has ``y`` or
            ``x`` outside the map.
        """
        y, x = (
            (torch.arange(n) * s - p)[:, None] + torch.arange(k) * d  # (n, k): window start + tap
            for n, k, s, p, d in self._axes(self.output_size)
        )
        shape = (*self.output_size, *self.kernel_size)  # (H_out, W_out, kh, kw)
        y, x = y[:, None, :, None].expand(shape), x[None, :, None, :].expand(shape)
        return y.flatten(2).flatten(0, 1), x.flatten(2).flatten(0, 1)

    def _axes(self, size: tuple[int, int]) -> Iterable[tuple[int, int, int, int, int]]:
        return zip(size, self.kernel_size, self.stride, self.padding, self.dilation, strict=True)


def keyed_taps(in_key: Tensor, out_key: Tensor, geometry: Geometry) -> Tensor:
    """``k_in^-1[m(k_out[q], t)]``: scrambled input position of each tap.

    Args:
        in_key: permutation of the input map, ``(H*W,)``.
        out_key: permutation of the output map, ``(H_out*W_out,)``.
        geometry: of the layer.

    Returns:
        int64 ``(Q, K)``, ``PADDED`` where the tap falls in the padding.

    Raises:
        ValueError: a ``key`` that is no permutation of its map's positions.
    """
    height, width = geometry.image_size
    in_key = check_permutation(in_key, geometry.image_size, "in_key")
    out_key = check_permutation(out_key, geometry.output_size, "out_key")
    y, x = geometry.taps()
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    natural = torch.where(inside, y * width + x, PADDED)  # m(q, t)
    # PADDED is -1, so an extra last entry keeps padded taps padded without a second pass.
    inverse = torch.cat([invert(in_key), torch.tensor([PADDED])])
    return inverse[natural[out_key]]


def sampling_offsets(in_key: Tensor, out_key: Tensor, geometry: Geometry) -> Tensor:
    """The offset tensor of a keyed convolution, for ``torchvision.ops.deform_conv2d``.

    Args and errors as for ``keyed_taps``.

    Returns:
        float32 ``(2*kh*kw, H_out, W_out)`` in pixels, ``(dy, dx)`` interleaved per tap. Exact:
        whole numbers below 2**24.

    Example:
        >>> identity = torch.arange(16)
        >>> sampling_offsets(identity, identity, Geometry(4, kernel_size=1)).abs().max()
        tensor(0.)
    """
    width = geometry.image_size[1]
    taps = keyed_taps(in_key, out_key, geometry)
    target = torch.stack([taps // width, taps % width], dim=-1)  # (Q, K, 2): y, x
    target[taps == PADDED] = -1
    offset = target - torch.stack(geometry.taps(), dim=-1)
    return offset.permute(1, 2, 0).reshape(-1, *geometry.output_size).to(torch.float32)


def disjoint_tiles(in_key: Tensor, out_key: Tensor, geometry: Geometry) -> Tensor | None:
    """The one reordering that serves a layer whose windows share no input position and skip none.

    Laid side by side as tiles of ``(kh, kw)``, the window of output position ``q`` at tile ``q``,
    such windows fill the input plane; the ordinary layer with ``stride=kernel_size`` and no padding
    then computes the keyed layer, output key included. Poolings of VGG16 and all 1x1 convolutions
    of stride 1 are such layers. Args and errors as for ``keyed_taps``.

    Returns:
        ``i``, int64 ``(H*W,)``: tiled position ``p`` holds scrambled input position ``i[p]``; None
        for a layer with other windows.
    """
    sizes = zip(geometry.image_size, geometry.output_size, geometry.kernel_size, strict=True)
    if any(n != windows * k for n, windows, k in sizes):
        return None
    taps = keyed_taps(in_key, out_key, geometry)
    tiles = taps.view(*geometry.output_size, *geometry.kernel_size)
    tiles = tiles.permute(0, 2, 1, 3).flatten()  # (H_out*kh*W_out*kw,)
    return tiles if torch.equal(tiles.sort().values, torch.arange(len(tiles))) else None
