"""Muon with float32 arithmetic, for processors that only emulate the bfloat16 of ``torch.optim``'s.

The update is that of ``torch.optim.Muon``: momentum, then a few steps of the quintic Newton-Schulz
iteration ``X <- a X + (b G + c G^2) X`` with ``G = X X^T``. A step multiplies ``X`` from the left
by ``P = a + b G + c G^2``, and ``G`` becomes ``P G P``. So the product of all ``P`` is found from
the small ``G`` alone, and the wide ``X`` is multiplied twice in all instead of twice a step.
"""

import torch
from torch import Tensor


def orthogonalise(
    matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly: ``torch.optim.Muon``'s iteration in float32.

    Args:
        matrix: ``(R, C)``.
        coefficients: ``(a, b, c)`` of the iteration.
        steps: how many.
        eps: least Frobenius norm that the matrix is divided by.

    Returns:
        ``(R, C)``, singular values near 1.
    """
    a, b, c = coefficients
    tall = len(matrix) > matrix.shape[1]
    x = matrix.float().T if tall else matrix.float()
    x = x / x.norm().clamp(min=eps)
    gram = x @ x.T  # (min(R, C), min(R, C))
    identity = torch.eye(len(gram), device=gram.device)
    product = identity
    for step in range(steps):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c) + a * identity
        product = factor @ product
        if step < steps - 1:
            gram = factor @ gram @ factor
    x = product @ x
    return x.T if tall else x


class Float32Muon(torch.optim.Muon):
    """``torch.optim.Muon`` (default ``adjust_lr_fn``), its state too, with ``orthogonalise``."""

    @torch.no_grad()
    def step(self, closure=None):
        """Update every parameter from its gradient; ``closure`` recomputes the loss, or None."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            momentum, lr = group["momentum"], group["lr"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(p.grad)
                buffer = state["momentum_buffer"].lerp_(p.grad, 1 - momentum)
                update = p.grad.lerp(buffer, momentum) if group["nesterov"] else buffer
                update = orthogonalise(
                    update, group["ns_coefficients"], group["ns_steps"], group["eps"]
                )
                p.mul_(1 - lr * group["weight_decay"])
                p.add_(update, alpha=-lr * max(1, p.shape[0] / p.shape[1]) ** 0.5)
        return loss
