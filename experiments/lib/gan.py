"""A generative adversarial network that learns to decipher from ciphertexts and unrelated pictures.

The attacker has ciphertexts under one key and pictures of his own, but no picture in both forms: a
generator makes pictures of ciphertexts, and a discriminator learns to tell them from the others.
(The attack of Madono, Tanaka, Onishi and Ogawa, "SIA-GAN: scrambling inversion attack using
generative adversarial network", IEEE Access 2021, with small networks of our own.)

The generator can express the inverse of LE and ELE, and of any cipher that moves blocks of 4x4 and
changes them one by one; it is linear, and the discriminator sees how pictures look around a place.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

BLOCK = 4
WIDTH = 16
BATCH = 64
LR_GENERATOR, LR_DISCRIMINATOR = 1e-3, 4e-4
BETAS = (0.5, 0.9)


class Generator(nn.Module):
    """Blocks mixed across the picture, then each through a matrix: a common one and its own part.

    Shape: ``(N, C, H, W)`` -> ``(N, 3, H, W)``.
    """

    def __init__(self, channels: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        blocks = image_size[0] * image_size[1] // BLOCK**2
        inside, outside = channels * BLOCK**2, 3 * BLOCK**2
        self.grid = (image_size[0] // BLOCK, image_size[1] // BLOCK)
        self.mix = nn.Parameter(torch.eye(blocks))
        self.common = nn.Parameter(torch.randn(inside, outside) / inside**0.5)
        self.own = nn.Parameter(torch.zeros(blocks, inside, outside))
        self.bias = nn.Parameter(torch.zeros(blocks, outside))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.pixel_unshuffle(x, BLOCK).flatten(2)  # (N, inside, blocks)
        x = x @ self.mix
        y = torch.einsum("nib,bio->nob", x, self.common + self.own) + self.bias.T
        return F.pixel_shuffle(y.unflatten(2, self.grid), BLOCK)


def discriminator() -> nn.Module:
    """How real each place of a picture looks: ``(N, 3, H, W)`` -> ``(N, 1, h, w)``."""

    def conv(inside: int, outside: int, side: int, stride: int) -> nn.Module:
        return spectral_norm(nn.Conv2d(inside, outside, side, stride, padding=1))

    return nn.Sequential(
        *(conv(3, WIDTH, 3, 1), nn.LeakyReLU(0.2)),
        *(conv(WIDTH, 2 * WIDTH, 4, 2), nn.LeakyReLU(0.2)),
        *(conv(2 * WIDTH, 4 * WIDTH, 4, 2), nn.LeakyReLU(0.2)),
        conv(4 * WIDTH, 1, 3, 1),
    )


def fit(
    seen: torch.Tensor, pictures: torch.Tensor, steps: int
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Train both networks, with the hinge loss, on inputs and ``values`` of unrelated pictures.

    Args:
        seen: inputs made of ciphertexts, ``(N, C, H, W)``.
        pictures: ``values`` of the attacker's own, ``(M, 3, H, W)``.
        steps: of both.

    Returns:
        What makes ``values`` of pictures from inputs.
    """
    torch.manual_seed(0)
    generator = Generator(seen.shape[1], tuple(seen.shape[2:]))
    judge = discriminator().to(memory_format=torch.channels_last)
    learn = torch.optim.Adam(generator.parameters(), LR_GENERATOR, BETAS)
    learn_judge = torch.optim.Adam(judge.parameters(), LR_DISCRIMINATOR, BETAS)

    def judged(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu"):
            return judge(images.contiguous(memory_format=torch.channels_last)).float()

    def some(of: torch.Tensor) -> torch.Tensor:
        return of[torch.randint(len(of), (BATCH,))]

    for _ in range(steps):
        made = generator(some(seen))
        loss = F.relu(1 - judged(some(pictures))).mean() + F.relu(1 + judged(made.detach())).mean()
        learn_judge.zero_grad(set_to_none=True)
        loss.backward()
        learn_judge.step()
        learn.zero_grad(set_to_none=True)
        (-judged(made).mean()).backward()
        learn.step()
    return torch.inference_mode()(generator)
