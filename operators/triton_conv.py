"""The keyed convolution as one Triton kernel: an implicit matrix product that looks pixels up.

An ordinary convolution is a matrix product: each output pixel has a row of ``kh*kw*C`` numbers, the
channel vectors that its window covers. Where those vectors lie is a matter of an index, and the key
is folded into that index (``operators.offset.keyed_taps``), so that no map is ever reordered. In
channels_last a pixel is one contiguous vector, and the lookup costs one integer per vector.

Forwards in the kernel; the gradient is that of an ordinary convolution between two reorderings.
Its results are right under Triton's interpreter and on an NVIDIA H100, where its tests were run;
its speed has no record in this repository. ``experiments/benchmark/speed.py -gpu`` times it beside
the others.
"""

import torch
from torch import Tensor

from operators.gather import reorder
from operators.permutation import invert

try:
    import triton
    from triton import language as tl
except ImportError:  # PyTorch comes without Triton on some systems
    triton = None

INTERPRETED = triton is not None and triton.knobs.runtime.interpret
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def keyed_conv2d_triton(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    taps: Tensor,
    in_key: Tensor,
    out_key: Tensor,
    output_size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """Keyed convolution by the kernel; sums in float32, casts its inputs as autocast asks.

    Float32 is multiplied as such, or as TF32 where PyTorch allows it to convolutions
    (``torch.backends.cudnn.conv.fp32_precision``).

    Shape: ``x`` ``(N, C, H, W)``, ``weight`` ``(O, C, kh, kw)``, ``bias`` ``(O,)``, ``taps`` int32
    ``(H_out*W_out, kh*kw)`` from ``operators.offset.keyed_taps``, ``in_key`` ``(H*W,)``,
    ``out_key`` ``(H_out*W_out,)``; result ``(N, O, H_out, W_out)``, channels_last.

    Args:
        in_key, out_key, stride, padding, dilation: those that ``taps`` were made of.

    Raises:
        ValueError: ``x`` is not on a CUDA device and Triton's interpreter is off, or dtypes differ
            or are none of ``DTYPES``.
    """
    if not (x.is_cuda or INTERPRETED):
        raise ValueError(
            f"backend triton needs input on a CUDA device, or TRITON_INTERPRET=1, got {x.device}"
        )
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = (t if t is None else t.to(dtype) for t in (x, weight, bias))
    dtypes = [t.dtype for t in (x, weight, bias) if t is not None]
    if x.dtype not in DTYPES or len(set(dtypes)) > 1:
        raise ValueError(f"backend triton needs one dtype out of {DTYPES}, got {dtypes}")
    return _keyed_conv2d(
        x, weight, bias, taps, in_key, out_key, output_size, stride, padding, dilation
    )


@torch.library.custom_op("privdl::keyed_conv2d", mutates_args=())
def _keyed_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    taps: Tensor,
    in_key: Tensor,
    out_key: Tensor,
    output_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    """One operator to autograd and the compiler, which need not look into the kernel."""
    x = x.contiguous(memory_format=torch.channels_last)  # (N, H*W, C) in memory
    matrix = weight.permute(2, 3, 1, 0).flatten(0, 2)  # (kh*kw*C, O), a view if channels_last
    y = _result(x, weight, output_size)
    images, channels, height, width = x.shape
    outputs, (positions, window) = len(weight), taps.shape
    rows = images * positions
    if y.numel() == 0:
        return y

    def grid(block: dict) -> tuple[int]:
        return (triton.cdiv(rows, block["BLOCK_ROWS"]) * triton.cdiv(outputs, block["BLOCK_OUT"]),)

    with torch.cuda.device_of(x):
        _kernel[grid](
            x,
            matrix,
            bias,
            taps,
            y,
            rows,
            positions,
            height * width,
            channels,
            outputs,
            window,
            *matrix.stride(),
            HAS_BIAS=bias is not None,
            PRECISION="tf32" if torch.backends.cudnn.conv.fp32_precision == "tf32" else "ieee",
            WIDEN=INTERPRETED,
        )
    return y


@_keyed_conv2d.register_fake
def _(x, weight, bias, taps, in_key, out_key, output_size, stride, padding, dilation):
    return _result(x, weight, output_size)


def _result(x: Tensor, weight: Tensor, output_size: list[int]) -> Tensor:
    shape = (x.shape[0], weight.shape[0], *output_size)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _save(ctx, inputs, output) -> None:
    x, weight, _, _, in_key, out_key, _, *geometry = inputs
    ctx.save_for_backward(x, weight, in_key, out_key)
    ctx.geometry = geometry


def _gradient(ctx, grad: Tensor):
    """The ordinary convolution's gradients, between the reorderings of the gather backend."""
    x, weight, in_key, out_key = ctx.saved_tensors
    in_inverse = invert(in_key)
    restored = reorder(x, in_inverse, in_key)
    natural = reorder(grad, invert(out_key), out_key)
    of_x, of_weight, of_bias = torch.ops.aten.convolution_backward(
        *(natural, restored, weight, [len(weight)], *ctx.geometry, False, [0, 0], 1),
        output_mask=ctx.needs_input_grad[:3],
    )
    of_x = None if of_x is None else reorder(of_x, in_key, in_inverse)
    return of_x, of_weight, of_bias, *[None] * 7


_keyed_conv2d.register_autograd(_gradient, setup_context=_save)


if triton is not None:

    def _configurations() -> list:
        """Tile sizes to choose from, on each GPU and for each layer by measuring."""
        # Two stages for each tile in flight: the pixel is looked up in one, loaded in the next.
        sizes = [(128, 128, 64, 8, 5), (128, 64, 64, 4, 5), (64, 64, 32, 4, 5), (128, 32, 32, 4, 3)]
        if INTERPRETED:  # nothing to measure; small, so that small maps have several tiles
            sizes = [(16, 16, 16, 1, 1)]
        return [
            triton.Config(
                {"BLOCK_ROWS": rows, "BLOCK_OUT": out, "BLOCK_IN": channels},
                num_warps=warps,
                num_stages=stages,
            )
            for rows, out, channels, warps, stages in sizes
        ]

    @triton.autotune(_configurations(), key=["positions", "channels", "outputs", "window"])
    @triton.jit
    def _kernel(
        x,  # (N, H*W, C)
        weight,  # (T*C, O) with the strides below; T taps
        bias,  # (O,)
        taps,  # (Q, T): scrambled input position, -1 in the padding; Q output positions
        y,  # (N*Q, O)
        rows,  # N*Q
        positions,  # Q
        pixels,  # H*W
        channels,  # C
        outputs,  # O
        window,  # T
        weight_stride_in,
        weight_stride_out,
        HAS_BIAS: tl.constexpr,
        PRECISION: tl.constexpr,
        WIDEN: tl.constexpr,
        BLOCK_ROWS: tl.constexpr,
        BLOCK_OUT: tl.constexpr,
        BLOCK_IN: tl.constexpr,
    ):
        # Programs that share their rows of x run one after the other, so that x stays in the cache.
        tiles = tl.cdiv(outputs, BLOCK_OUT)
        row = tl.program_id(0) // tiles * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        out = tl.program_id(0) % tiles * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
        image = (row // positions).to(tl.int64)  # offsets into a large batch exceed 32 bits
        tap_row = taps + row % positions * window
        total = tl.zeros((BLOCK_ROWS, BLOCK_OUT), tl.float32)
        parts = tl.cdiv(channels, BLOCK_IN)
        for step in range(window * parts):  # one loop, which the compiler can pipeline
            tap = step // parts
            channel = step % parts * BLOCK_IN + tl.arange(0, BLOCK_IN)
            pixel = tl.load(tap_row + tap, mask=row < rows, other=-1)
            a = tl.load(
                x + ((image * pixels + pixel) * channels)[:, None] + channel,
                mask=(pixel >= 0)[:, None] & (channel < channels),
                other=0.0,
            )
            b = tl.load(
                weight
                + ((tap * channels + channel) * weight_stride_in)[:, None]
                + out * weight_stride_out,
                mask=(channel < channels)[:, None] & (out < outputs),
                other=0.0,
            )
            if WIDEN:  # the interpreter would multiply the bits of bfloat16 as whole numbers
                a, b = a.to(tl.float32), b.to(tl.float32)
            total = tl.dot(a, b, total, input_precision=PRECISION)
        if HAS_BIAS:
            total += tl.load(bias + out, mask=out < outputs, other=0.0).to(tl.float32)
        tl.store(
            y + (row.to(tl.int64) * outputs)[:, None] + out,
            total.to(y.dtype.element_ty),
            mask=(row < rows)[:, None] & (out < outputs),
        )
