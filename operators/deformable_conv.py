"""Keyed convolution: an ordinary convolution that runs on scrambled maps (paper, section 3).

Three backends compute the same thing. ``deform`` is the paper's: ``torchvision.ops.deform_conv2d``
with the offsets of ``operators.offset``. ``gather`` uses that those offsets are whole numbers:
reorder the positions, convolve natively, reorder again. It never interpolates, runs at close to
the speed of an ordinary convolution, and in every dtype that one has. ``triton`` does the same in
one kernel of its own (``operators.triton_conv``, optional).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from operators.gather import transformed
from operators.keyed_layer import KeyedLayer
from operators.offset import Geometry, Size, keyed_taps, sampling_offsets


def keyed_conv2d_deform(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    offset: Tensor,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
) -> Tensor:
    """Keyed convolution by deformable convolution: the reference.

    Runs outside autocast in float32, or float64 for float64 input: whole numbers are exact in
    bfloat16 only to 256 and in float16 to 2048, and offsets exceed that. The result has the dtype
    an ordinary convolution would give.

    Shape: ``x`` ``(N, C_in, H, W)``, ``weight`` ``(C_out, C_in / groups, kh, kw)``, ``bias``
    ``(C_out,)``, ``offset`` ``(2*kh*kw, H_out, W_out)``, result ``(N, C_out, H_out, W_out)``.

    Raises:
        NotImplementedError: under a transform of ``torch.func`` or forward-mode differentiation:
            torchvision's operator has no rules for them, and would lose a tangent in silence.
    """
    if not torch.compiler.is_compiling() and transformed(x, weight, bias):
        raise NotImplementedError(
            "torchvision.ops.deform_conv2d does not take part in torch.func and forward-mode "
            "differentiation; use backend gather"
        )
    device = x.device.type
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    autocast = torch.is_autocast_enabled(device) and exact == torch.float32
    result_dtype = torch.get_autocast_dtype(device) if autocast else x.dtype
    with torch.autocast(device, enabled=False):
        y = deform_conv2d(
            x.to(exact),
            offset.to(exact).expand(x.shape[0], -1, -1, -1),  # one key for the whole batch
            weight.to(exact),
            None if bias is None else bias.to(exact),
            stride,
            padding,
            dilation,
        )
    return y.to(result_dtype)


class KeyedConv2d(KeyedLayer, nn.Conv2d):
    """A convolution whose input and output maps are scrambled, each by its own permutation.

    Convention: with ``x[.., m]`` the natural input, this layer takes ``x[.., in_key[p]]`` at
    position ``p`` and returns ``y[.., out_key[q]]`` at ``q``, where ``y`` is what ``nn.Conv2d``
    with the same parameters makes of ``x``. Zero padding only. Parameters are those of
    ``nn.Conv2d``; permutations and offsets are non-persistent buffers, never in a ``state_dict``.

    Shape: ``(N, C_in, H, W)`` -> ``(N, C_out, *output_size)``, any ``N``, 0 included.

    Args:
        image_size: ``(H, W)`` of the input map, or ``H`` of a square one.
        in_key: that of the input, a permutation of ``0..H*W-1``.
        out_key: that of the output, a permutation of ``0..H_out*W_out-1``.
        backend: ``deform`` (not for ``torch.func``), ``gather``, ``triton`` (on CUDA, or under
            ``TRITON_INTERPRET=1``; on other devices, with groups, in float64 and under
            ``torch.func`` it is ``gather``), or ``auto`` for what measures fastest.
        device, dtype: of the parameters, as in ``nn.Conv2d``; buffers are built on the CPU.

    Raises:
        ValueError: geometry out of range, permutations that do not fit it, an unknown backend, an
            input whose map is not of ``image_size``.

    Example:
        >>> key = torch.randperm(64)
        >>> layer = KeyedConv2d(3, 4, 3, padding=1, image_size=8, in_key=key, out_key=key)
        >>> layer(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 4, 8, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        image_size: Size,
        in_key: Tensor,
        out_key: Tensor,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        window = (kernel_size, stride, padding, dilation)
        ordinary = (in_channels, out_channels, *window, groups, bias, "zeros", device, dtype)
        super().__init__(Geometry(image_size, *window), in_key, out_key, backend, *ordinary)
        if self.backend == "deform":
            # Integers, because .half() and .bfloat16() would round a floating-point buffer.
            offset = sampling_offsets(self.in_key, self.out_key, self.geometry).to(torch.int32)
            self.register_buffer("offset", offset, persistent=False)
        elif self.backend == "triton":
            taps = keyed_taps(self.in_key, self.out_key, self.geometry).to(torch.int32)
            self.register_buffer("taps", taps, persistent=False)
        tiled = self.backend != "deform" and isinstance(self.after, nn.Identity)
        if tiled and self.kernel_size == (1, 1) and self.out_channels < self.in_channels:
            # A window of one position may be moved before or after: where there are fewer channels.
            self.before, self.after = self.after, self.before

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x, self.in_channels)
        window = (self.stride, self.padding, self.dilation)
        if self.backend == "deform":
            return keyed_conv2d_deform(x, self.weight, self.bias, self.offset, *window)
        if self._takes_triton(x):
            from operators import triton_conv

            if x.is_cuda or triton_conv.INTERPRETED:
                keys = (self.taps, self.in_key, self.out_key, self.output_size)
                args = (x, self.weight, self.bias, *keys, *window)
                return triton_conv.keyed_conv2d_triton(*args)
        y = F.conv2d(self.before(x), self.weight, self.bias, *self.native, self.groups)
        return self.after(y)

    def _takes_triton(self, x: Tensor) -> bool:
        if self.backend != "triton" or self.groups > 1 or x.dtype == torch.float64:
            return False
        return torch.compiler.is_compiling() or not transformed(x, self.weight, self.bias)

    def plain(self) -> nn.Conv2d:
        """The ordinary convolution with these very parameters, for natural maps."""
        window = (self.kernel_size, self.stride, self.padding, self.dilation)
        plain = nn.Conv2d(
            *(self.in_channels, self.out_channels, *window, self.groups, self.bias is not None),
            device="meta",  # no storage: its parameters are replaced at once
        )
        plain.weight, plain.bias = self.weight, self.bias
        return plain.train(self.training)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, image_size={self.image_size}, backend={self.backend}"
