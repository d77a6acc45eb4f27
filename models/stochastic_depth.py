"""Stochastic depth: a step of training leaves out some residual blocks, and does not compute them.

Block ``l`` of ``L`` takes part with probability ``1 - (1 - kept) * l / L``, falling linearly to
``kept`` at the last block. The draw is one a block and step, for the whole batch, so that a skipped
block costs nothing, forward or backward. A branch that takes part is divided by its probability:
its expectation is what evaluation computes, where every block takes part as it is.

Source: Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016, section 3; there evaluation
multiplies instead.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """``branch(x) + x``, or ``branch(x) + shortcut(x)``, whose branch a training step may skip.

    Attributes:
        shortcut: a module, or None for the identity.
        scale: of the branch, in training; 0 skips it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shortcut: nn.Module | None = None
        self.scale = 1.0

    def branch(self, x: Tensor) -> Tensor:
        """The part that may be skipped."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        scale = self.scale if self.training else 1.0
        y = self.branch(x) if scale else None
        x = x if self.shortcut is None else self.shortcut(x)
        if y is None:
            return x
        return y + x if scale == 1.0 else torch.add(x, y, alpha=scale)


def residual_blocks(net: nn.Module) -> list[ResidualBlock]:
    """The blocks of a network that can be skipped, in order."""
    return [m for m in net.modules() if isinstance(m, ResidualBlock)]


@contextmanager
def random_depth(net: nn.Module, kept: float, generator: torch.Generator) -> Iterator[None]:
    """While entered, training skips the blocks of ``net`` that a draw leaves out.

    Args:
        net: a network with ``residual_blocks``.
        kept: probability that the last block takes part, in (0, 1].
        generator: on the CPU; one number is drawn for each block.
    """
    blocks = residual_blocks(net)
    draws = torch.rand(len(blocks), generator=generator).tolist()
    for number, (block, draw) in enumerate(zip(blocks, draws, strict=True), start=1):
        chance = 1 - (1 - kept) * number / len(blocks)
        block.scale = 1 / chance if draw < chance else 0.0
    try:
        yield
    finally:
        for block in blocks:
            block.scale = 1.0
