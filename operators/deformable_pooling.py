"""Keyed max and average pooling: ordinary pooling on scrambled maps (paper, section 3).

Each output position looks up the taps of its window through the permutations
(``operators.offset``). Two backends, as for the convolution: ``deform`` gathers the windows
``(N, C, Q, K)`` and reduces them, ``gather`` reorders the positions around torch's own pooling;
``triton``, a kernel for convolutions, pools as ``gather`` does. Unlike a convolution's, padded taps
count for nothing in a maximum, and in an average as ``count_include_pad`` says.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from operators.keyed_layer import KeyedLayer
from operators.offset import PADDED, Geometry, Size, keyed_taps


def gather_windows(x: Tensor, taps: Tensor, fill: float) -> Tensor:
    """The windows of a scrambled map: ``(N, C, H, W)`` and taps ``(Q, K)`` -> ``(N, C, Q, K)``.

    Padded taps hold ``fill``.
    """
    windows = x.flatten(2)[:, :, taps.clamp(min=0)]
    return windows.masked_fill(taps == PADDED, fill)


def average_divisor(geometry: Geometry, count_include_pad: bool) -> Tensor:
    """What torch divides each window of an average by, at natural positions; int64 ``(Q,)``.

    Taps in the padding count if ``count_include_pad``; the overhang that ceil_mode adds beyond the
    padding never does.
    """
    margin = geometry.padding if count_include_pad else (0, 0)
    row, column = (
        (at >= -p) & (at < n + p)
        for at, n, p in zip(geometry.taps(), geometry.image_size, margin, strict=True)
    )
    return (row & column).sum(1)


class _KeyedPool2d(KeyedLayer):
    """What the two poolings share."""

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        ceil_mode: bool = False,
        *,
        image_size: Size,
        in_key: Tensor,
        out_key: Tensor,
        backend: str = "auto",
    ) -> None:
        stride = kernel_size if stride is None else stride
        geometry = Geometry(image_size, kernel_size, stride, padding, dilation, ceil_mode)
        if any(2 * p > k for p, k in zip(geometry.padding, geometry.kernel_size, strict=True)):
            raise ValueError(
                f"padding must be at most half of kernel_size {geometry.kernel_size}, "
                f"got {geometry.padding}"
            )
        super().__init__(geometry, in_key, out_key, backend)
        self.kernel_size, self.stride = geometry.kernel_size, geometry.stride
        self.padding, self.dilation = geometry.padding, geometry.dilation
        self.ceil_mode = ceil_mode
        if self.backend == "deform":
            taps = keyed_taps(self.in_key, self.out_key, geometry)
            self.register_buffer("taps", taps, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x, "C")
        if self.backend == "deform":
            return self._pool_windows(x).unflatten(2, self.output_size)
        return self.after(self._pool(self.before(x), *self.native))

    def _pool_windows(self, x: Tensor) -> Tensor:
        """Pool the gathered windows: ``(N, C, H, W)`` -> ``(N, C, Q)``."""
        raise NotImplementedError

    def _pool(self, x: Tensor, stride: Size, padding: Size, dilation: Size) -> Tensor:
        """Torch's own pooling."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"ceil_mode={self.ceil_mode}, image_size={self.image_size}, backend={self.backend}"
        )


class KeyedMaxPool2d(_KeyedPool2d):
    """Max pooling between scrambled maps, each under its own permutation.

    Convention: as ``KeyedConv2d``. Padded taps are ignored. Among equal maxima the gradient goes to
    the first in tap order, as in ``nn.MaxPool2d``.

    Shape: ``(N, C, H, W)`` -> ``(N, C, *output_size)``.

    Args:
        image_size, in_key, out_key: as for ``KeyedConv2d``.
        backend: ``deform``, ``gather`` or ``triton``, or ``auto`` for what measures fastest.

    Raises:
        ValueError: as ``KeyedConv2d``; padding above half of kernel_size.
    """

    def _pool_windows(self, x: Tensor) -> Tensor:
        # max, not amax: amax would share the gradient among equal maxima.
        return gather_windows(x, self.taps, fill=-torch.inf).max(-1).values

    def _pool(self, x: Tensor, stride: Size, padding: Size, dilation: Size) -> Tensor:
        return F.max_pool2d(x, self.kernel_size, stride, padding, dilation, self.ceil_mode)

    def plain(self) -> nn.MaxPool2d:
        """The ordinary pooling, for natural maps."""
        geometry = (self.kernel_size, self.stride, self.padding, self.dilation)
        return nn.MaxPool2d(*geometry, ceil_mode=self.ceil_mode)


class KeyedAvgPool2d(_KeyedPool2d):
    """Average pooling between scrambled maps, each under its own permutation.

    Convention: as ``KeyedConv2d``; ``ceil_mode``, ``count_include_pad`` and ``divisor_override`` as
    in ``nn.AvgPool2d``.

    Shape: ``(N, C, H, W)`` -> ``(N, C, *output_size)``.

    Args:
        divisor_override: divide every window's sum by this, not by its number of taps.
        keys: ``image_size``, ``in_key``, ``out_key`` and ``backend``, as for ``KeyedMaxPool2d``.

    Raises:
        ValueError: as ``KeyedMaxPool2d``; ``divisor_override`` of zero.
    """

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        **keys: object,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode=ceil_mode, **keys)
        if divisor_override == 0:
            raise ValueError(f"divisor_override must not be zero, got {divisor_override}")
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override
        if self.backend == "deform":
            divisor = average_divisor(self.geometry, count_include_pad)
            if divisor_override is not None:
                divisor.fill_(divisor_override)
            self.register_buffer("divisor", divisor[self.out_key], persistent=False)

    def _pool_windows(self, x: Tensor) -> Tensor:
        return gather_windows(x, self.taps, fill=0.0).sum(-1) / self.divisor.to(x.dtype)

    def _pool(self, x: Tensor, stride: Size, padding: Size, dilation: Size) -> Tensor:
        del dilation  # an average has none
        counting = (self.ceil_mode, self.count_include_pad, self.divisor_override)
        return F.avg_pool2d(x, self.kernel_size, stride, padding, *counting)

    def plain(self) -> nn.AvgPool2d:
        """The ordinary pooling, for natural maps."""
        counting = (self.ceil_mode, self.count_include_pad, self.divisor_override)
        return nn.AvgPool2d(self.kernel_size, self.stride, self.padding, *counting)
