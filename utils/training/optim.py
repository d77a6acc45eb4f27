"""Optimizers: SGD, AdamW, or Muon for the convolutions beside SGD for everything else.

Muon (Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024) replaces the
momentum of a weight matrix by the nearest orthogonal matrix, which needs far fewer epochs on
CIFAR-10. PyTorch's implementation takes matrices only; a convolution weight is handed to it as the
matrix ``(out_channels, kh * kw * in_channels)`` that shares its storage.

Before each step the matrix is scaled to a Frobenius norm of ``sqrt(out_channels)``, filters of norm
1 on average, so that ``muon_lr`` is the relative length of a step (Jordan, "94% on CIFAR-10 in 3.29
seconds on a single GPU", 2024, does so too). Batch-norm after the convolution undoes the scaling.
Where none follows, as before the sum of a PreResNet's block, loaded weights compute something else.
"""

import torch
from torch import nn

from utils.training.muon import Float32Muon
from utils.training.recipe import Recipe

NEWTON_SCHULZ_STEPS = 3  # of 5 by default; as accurate here, at less cost
STEM_CHANNELS = 3  # a layer that reads the image itself stays with SGD, as Muon's authors advise


class Optimizer:
    """The optimizer of one run behind the four calls that training needs.

    Args:
        net: the network; its parameters must be on their device and in their memory format already.
        recipe: ``optimizer``, ``lr``, ``muon_lr``, ``momentum``, ``nesterov``, ``weight_decay``.
        bfloat16: whether Muon computes in bfloat16, as torch's does, or in float32.
    """

    def __init__(self, net: nn.Module, recipe: Recipe, bfloat16: bool = True) -> None:
        self.parameters = [p for p in net.parameters() if p.requires_grad]
        muon = recipe.optimizer == "muon"
        self._kernels = [p for p in self.parameters if muon and _is_hidden_kernel(p)]
        self._matrices = [nn.Parameter(_as_matrix(p.detach(), like=p)) for p in self._kernels]
        hidden = {id(p) for p in self._kernels}
        others = [p for p in self.parameters if id(p) not in hidden]
        rates = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
        if recipe.optimizer == "adamw":
            first = torch.optim.AdamW(others, **rates)
        else:
            sgd = {"momentum": recipe.momentum, "nesterov": recipe.nesterov}
            first = torch.optim.SGD(others, **rates, **sgd)
        self._parts: list[torch.optim.Optimizer] = [first]
        if self._matrices:
            kind = torch.optim.Muon if bfloat16 else Float32Muon
            self._parts.append(
                kind(
                    self._matrices,
                    lr=recipe.muon_lr,
                    weight_decay=0.0,  # the norms are fixed
                    ns_steps=NEWTON_SCHULZ_STEPS,
                )
            )
        self._peaks = [part.param_groups[0]["lr"] for part in self._parts]

    def set_lr(self, factor: float) -> float:
        """Set every learning rate to ``factor`` times its peak; returns the first."""
        for part, peak in zip(self._parts, self._peaks, strict=True):
            part.param_groups[0]["lr"] = peak * factor
        return self._parts[0].param_groups[0]["lr"]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for p in self.parameters:
            p.grad = None

    def step(self) -> None:
        """Update every parameter from its gradient."""
        for matrix, p in zip(self._matrices, self._kernels, strict=True):
            if p.grad is None:
                matrix.grad = None  # took no part in the step, as torch's optimizers see it
                continue
            matrix.grad = _as_matrix(p.grad, like=p)
            matrix.detach().mul_(len(p) ** 0.5 / matrix.detach().norm())
        for part in self._parts:
            part.step()

    def state_dict(self) -> list[dict]:
        """The states of the parts, for a checkpoint."""
        return [part.state_dict() for part in self._parts]

    def load_state_dict(self, states: list[dict]) -> None:
        """Restore what ``state_dict`` returned."""
        for part, state in zip(self._parts, states, strict=True):
            part.load_state_dict(state)


def _is_hidden_kernel(p: torch.Tensor) -> bool:
    return p.ndim == 4 and p.shape[1] > STEM_CHANNELS


def _as_matrix(t: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """``(out, in, kh, kw)`` as ``(out, in*kh*kw)``, columns in the order of ``like``'s memory."""
    if like.is_contiguous():
        return t.flatten(1)
    return t.permute(0, 2, 3, 1).flatten(1)  # channels_last
