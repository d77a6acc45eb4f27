"""Reordering the positions of a map: the one operation that a key asks for.

Convention: positions of an ``(H, W)`` plane are numbered row-major, ``p = y * W + x``. Reordering
by an index ``i`` means ``out[..., p] = in[..., i[p]]``, the same for every channel. The gradient of
a reordering by a permutation is the reordering by its inverse; autograd's own rule would be a
scatter-add, which is many times slower, so the rule is written out here.
"""

import torch
from torch import Tensor
from torch.autograd import Function

BACKENDS = ("auto", "deform", "gather")


def resolve_backend(backend: str) -> str:
    """``deform`` or ``gather``; ``auto`` is the one that measures fastest, ``gather`` everywhere.

    Raises:
        ValueError: ``backend`` is not one of ``BACKENDS``.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    return "gather" if backend == "auto" else backend


def invert(key: Tensor) -> Tensor:
    """The inverse permutation: ``invert(k)[k[p]] = p``. Shape ``(n,)``, int64."""
    inverse = torch.empty_like(key)
    inverse[key] = torch.arange(key.numel(), device=key.device)
    return inverse


def check_key(key: Tensor, size: tuple[int, int], name: str = "key") -> Tensor:
    """A copy of ``key`` as int64, or ValueError if it is no permutation of the plane's positions.

    Args:
        key: anything ``torch.as_tensor`` takes, of shape ``(H*W,)``, whole numbers.
        size: ``(H, W)`` of the plane.
        name: what the message calls the key.
    """
    key = torch.as_tensor(key)
    n = size[0] * size[1]
    whole = not (key.is_floating_point() or key.is_complex() or key.dtype == torch.bool)
    if not whole or key.shape != (n,):
        raise ValueError(
            f"{name} must hold {n} whole numbers for a map of {size[0]}x{size[1]}, "
            f"got shape {tuple(key.shape)} of {key.dtype}"
        )
    key = key.detach().to(torch.int64, copy=True)
    outside = key[(key < 0) | (key >= n)]
    if outside.numel():
        raise ValueError(f"{name} must hold 0..{n - 1}, got {outside[0].item()}")
    counts = torch.bincount(key, minlength=n)
    if (counts != 1).any():
        raise ValueError(
            f"{name} must be a permutation of 0..{n - 1}, got {counts.argmax().item()} twice"
        )
    return key


def select(x: Tensor, index: Tensor) -> Tensor:
    """``out[..., p] = x[..., index[p]]`` over the flattened plane of ``x`` ``(..., H, W)``.

    Returns shape ``(..., P)`` for an index of shape ``(P,)``.
    """
    return x.flatten(-2).index_select(-1, index)


class _Reorder(Function):
    """``select`` by a permutation, with the inverse as its gradient; twice differentiable."""

    @staticmethod
    def forward(x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        return select(x, index).reshape(x.shape)

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
        x: ``(..., H, W)``, any dtype.
        index: ``(H*W,)`` int64, a permutation.
        inverse: ``(H*W,)`` int64, its inverse, used by the gradient.

    Returns:
        A new tensor of the shape of ``x``.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        return _Reorder.apply(x, index, inverse)
    return select(x, index).reshape(x.shape)
