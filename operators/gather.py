"""Reordering the positions of a map: the one operation that a key asks for.

Convention: positions of an ``(H, W)`` plane are numbered row-major, ``p = y * W + x``. Reordering
by an index ``i`` means ``out[..., p] = in[..., i[p]]``, the same for every channel. The gradient of
a reordering by a permutation is the reordering by its inverse; autograd's own rule would be a
scatter-add, which is many times slower, so the rule is written out here.

A keyed layer needs at most two reorderings: restore the input, compute natively, scramble the
output. ``operators.offset.disjoint_tiles`` says for which layers one is enough.
"""

from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.autograd import Function

from operators.offset import disjoint_tiles, invert

BACKENDS = ("auto", "deform", "gather", "triton")


def resolve_backend(backend: str) -> str:
    """``backend`` itself; for ``auto`` the one that measures fastest, ``gather`` everywhere.

    Raises:
        ValueError: ``backend`` is not one of ``BACKENDS``, or Triton is asked for and missing.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "triton" and find_spec("triton") is None:
        raise ValueError("backend triton needs the package triton, which is not installed")
    return "gather" if backend == "auto" else backend


def _select(x: Tensor, index: Tensor) -> Tensor:
    """``out[..., p] = x[..., index[p]]`` by the fastest exact route for the layout of ``x``.

    The result is no view of another tensor: autograd would forbid a network to write into it, as
    an in-place ReLU after a convolution does.
    """
    if torch.compiler.is_compiling():  # one standard operator; the compiler picks the loops
        return x.flatten(-2).index_select(-1, index).reshape(x.shape)
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        # A pixel is one contiguous vector here: copy rows of a (N*H*W, C) view. Selecting along
        # dim 1 of (N, H*W, C) would say the same, but runs on a single thread on the CPU.
        n, c, h, w = x.shape
        first = torch.arange(0, n * h * w, h * w, device=x.device)
        rows = (first[:, None] + index).flatten()  # (N*H*W,)
        pixels = x.permute(0, 2, 3, 1).reshape(n * h * w, c)
        out = torch.empty_like(x, memory_format=torch.channels_last)
        torch.index_select(pixels, 0, rows, out=out.permute(0, 2, 3, 1).view(n * h * w, c))
        return out
    # Not index_select: along the last dimension it is ten times slower on the CPU.
    planes = x.flatten(-2)  # (..., H*W)
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

    @staticmethod
    def backward(ctx, grad: Tensor):
        index, inverse = ctx.saved_tensors
        return reorder(grad, inverse, index), None, None


def reorder(x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
    """Permute the positions of every plane: ``out[..., p] = x[..., index[p]]``.

    Args:
        x: ``(..., H, W)``, any dtype; a channels_last ``(N, C, H, W)`` stays channels_last.
        index: ``(H*W,)`` int64, a permutation.
        inverse: ``(H*W,)`` int64, its inverse, used by the gradient.

    Returns:
        A new tensor of the shape of ``x``.
    """
    if x.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_exporting():
        return _Reorder.apply(x, index, inverse)
    return _select(x, index)


class Reorder(nn.Module):
    """``reorder`` with its index as non-persistent buffers; the identity costs nothing.

    Shape: ``(..., H, W)`` -> the same.

    Args:
        index: ``(H*W,)`` int64, a permutation.
    """

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        # The only key of a 1x1 map is the identity, so VGG16 meets this case in its last pooling.
        self.identity = torch.equal(index, torch.arange(index.numel(), device=index.device))
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("inverse", invert(index), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x if self.identity else reorder(x, self.index, self.inverse)


def reorder_around(
    in_key: Tensor, out_key: Tensor, *geometry: object
) -> tuple[nn.Module, nn.Module, bool]:
    """The reorderings before and after a native layer that make it the keyed one.

    Args:
        in_key, out_key, geometry: as ``operators.offset.keyed_taps``.

    Returns:
        ``before``, ``after``, and whether the input is laid out as disjoint tiles, in which case
        the native layer's stride is its kernel_size, without padding or dilation.
    """
    tiles = disjoint_tiles(in_key, out_key, *geometry)
    if tiles is None:
        return Reorder(invert(in_key)), Reorder(out_key), False
    return Reorder(tiles), nn.Identity(), True
