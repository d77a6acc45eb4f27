"""Reordering the positions of a map: the one operation that a permutation asks for.

Convention: positions of an ``(H, W)`` plane are numbered row-major, ``p = y * W + x``. Reordering
by an index ``i`` means ``out[..., p] = in[..., i[p]]``, the same for every channel. The gradient of
a reordering by a permutation is the reordering by its inverse; autograd's own rule would be a
scatter-add, which is many times slower, so the rule is written out here.

A keyed layer needs at most two reorderings: restore the input, compute natively, scramble the
output. ``operators.offset.disjoint_tiles`` says for which layers one is enough; a 1x1 convolution
has it where there are fewer channels, before or after.

What that costs is memory traffic: each reordering reads a map and writes one, at random places.
In channels_last a place holds all channels of a pixel, which are copied at once; in a contiguous
map every number is looked up by itself, which takes longer where maps are large.
"""

from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.forward_ad import unpack_dual
from torch.func import debug_unwrap

from operators.permutation import invert

BACKENDS = ("auto", "deform", "gather", "triton")


def resolve_backend(backend: str) -> str:
    """``backend`` itself; for ``auto`` the one that measures fastest, ``gather`` everywhere.

    ``experiments/benchmark/speed.py`` measures them all: on processors with AVX2 and with AVX-512
    ``gather`` is many times faster than ``deform``. Of GPUs there is no record yet.

    Raises:
        ValueError: ``backend`` is not one of ``BACKENDS``, or Triton is asked for and missing.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "triton" and find_spec("triton") is None:
        raise ValueError("backend triton needs the package triton, which is not installed")
    return "gather" if backend == "auto" else backend


def transformed(*tensors: Tensor | None) -> bool:
    """Whether a transform of ``torch.func``, or forward-mode differentiation, is at work on one.

    There ``out=`` and memory formats are not to be had, and an operator without rules of its own
    may lose the tangent in silence.
    """
    return any(
        debug_unwrap(t) is not t or unpack_dual(t).tangent is not None
        for t in tensors
        if t is not None
    )


def _select(x: Tensor, index: Tensor) -> Tensor:
    """``out[..., p] = x[..., index[p]]`` by the fastest exact route for the layout of ``x``.

    The result is no view of another tensor: autograd would forbid a network to write into it, as
    an in-place ReLU after a convolution does.

    Shape: ``x`` ``(..., H, W)``, ``index`` ``(H*W,)``, or ``(N, H*W)`` with one for each image of
    an ``x`` of ``(N, C, H, W)``; result as ``x``.
    """
    if torch.compiler.is_compiling():  # one standard operator; the compiler picks the loops
        planes = x.flatten(-2)
        if index.dim() == 1:
            return planes.index_select(-1, index).reshape(x.shape)
        return planes.gather(-1, index[:, None].expand(planes.shape)).reshape(x.shape)
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        # A pixel is one contiguous vector here: copy rows of a (N*H*W, C) view. Selecting along
        # dim 1 of (N, H*W, C) would say the same, but runs on a single thread on the CPU.
        n, c, h, w = x.shape
        rows = index.flatten()
        if n != 1:  # of a single image at a time there are many, and small ones
            first = torch.arange(0, n * h * w, h * w, device=x.device)
            rows = (first[:, None] + index).flatten()  # (N*H*W,)
        pixels = x.permute(0, 2, 3, 1).reshape(n * h * w, c)
        out = torch.empty_like(x, memory_format=torch.channels_last)
        torch.index_select(pixels, 0, rows, out=out.permute(0, 2, 3, 1).view(n * h * w, c))
        return out
    # Not index_select: along the last dimension it is ten times slower on the CPU.
    planes = x.flatten(-2)  # (..., H*W)
    index = index if index.dim() == 1 else index[:, None]  # (N, 1, H*W)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    torch.gather(planes, -1, index.expand(planes.shape), out=out.flatten(-2))
    return out


class _Reorder(Function):
    """``_select`` by a permutation, with the inverse as its gradient; twice differentiable."""

    @staticmethod
    def forward(x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        return _select(x, index)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        _, index, inverse = inputs
        ctx.save_for_backward(index, inverse)
        ctx.save_for_forward(index, inverse)

    @staticmethod
    def backward(ctx, grad: Tensor):
        index, inverse = ctx.saved_tensors
        return reorder(grad, inverse, index), None, None


class _TransformedReorder(_Reorder):
    """The same with rules for ``torch.func``, which the compiler does not take."""

    @staticmethod
    def jvp(ctx, tangent: Tensor, *_: None) -> Tensor:
        return reorder(tangent, *ctx.saved_tensors)

    @staticmethod
    def vmap(info, in_dims: tuple, x: Tensor, *permutation: Tensor) -> tuple[Tensor, int]:
        size, (dim, *key_dims) = info.batch_size, in_dims
        x = x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)  # (B, ..., H, W)
        if any(d is not None for d in key_dims):  # networks with a permutation each, stacked
            keys = [
                p.expand(size, -1) if d is None else p.movedim(d, 0)
                for p, d in zip(permutation, key_dims, strict=True)
            ]
            return torch.stack([reorder(*each) for each in zip(x, *keys, strict=True)]), 0
        maps = x.flatten(0, -4) if x.dim() > 4 else x  # (B*N, C, H, W) may be channels_last
        return reorder(maps, *permutation).reshape(x.shape), 0


def reorder(x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
    """Permute the positions of every plane: ``out[..., p] = x[..., index[p]]``.

    Args:
        x: ``(..., H, W)``, any dtype; a channels_last ``(N, C, H, W)`` stays channels_last.
        index: ``(H*W,)`` int64, a permutation; or ``(N, H*W)``, one for each image of an ``x`` of
            ``(N, C, H, W)``.
        inverse: its inverse, of the same shape, used by the gradient.

    Returns:
        A new tensor of the shape of ``x``.
    """
    if not torch.compiler.is_compiling() and transformed(x, index):
        return _TransformedReorder.apply(x, index, inverse)
    if x.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_exporting():
        return _Reorder.apply(x, index, inverse)
    return _select(x, index)


class Reorder(nn.Module):
    """``reorder`` with its index as non-persistent buffers; the identity costs nothing.

    Shape: ``(..., H, W)`` -> the same.

    Args:
        index: as ``reorder`` takes it.
    """

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        # A 1x1 map has no other permutation, so VGG16 meets this case in its last pooling.
        self.identity = index.shape[-1] == 1 or torch.equal(
            index, torch.arange(index.numel(), device=index.device)
        )
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("inverse", invert(index), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x if self.identity else reorder(x, self.index, self.inverse)
