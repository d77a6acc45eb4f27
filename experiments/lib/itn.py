"""Inverse transformation networks (ITN): learn from pairs of pictures and ciphertexts to go back.

Two networks. The published one (Sirichotedumrong and Kiya, "Visual security evaluation of learnable
image encryption methods against ciphertext-only attacks", APSIPA 2020) is local: it makes each 4x4
block of the picture from the block in the same place. What moves pixels or blocks across the
picture is beyond it, whatever the key, so that it flatters such schemes. The global one is a dense
layer from all values to all values, and no training is needed to find its best weights: they are
those of least squares.
"""

from collections.abc import Callable

import torch
from torch import nn

BLOCK = 4  # side of the local network's blocks, in pixels
HIDDEN = 256
BATCH = 32
LR, MOMENTUM = 0.01, 0.9
HELD_OUT = 0.1  # share of the pairs by which the dense layer's ridge is chosen
RIDGES = (1e-6, 1e-4, 1e-2, 1e0, 1e2)  # times the mean of the inputs' squared sums
TRIED_OUTPUTS = 64  # for each ridge


def values(images: torch.Tensor) -> torch.Tensor:
    """uint8 images about zero, float32 of the same shape."""
    return images.float() / 64 - 2


def halves(images: torch.Tensor) -> torch.Tensor:
    """The high and low halves of each byte about zero: ``(N, C, H, W)`` -> ``(N, 2*C, H, W)``."""
    return torch.cat([images >> 4, images & 15], 1).float() / 4 - 2


def to_images(outputs: torch.Tensor) -> torch.Tensor:
    """The uint8 images of which these are the ``values``."""
    return (outputs.float() * 64 + 128).round().clamp(0, 255).to(torch.uint8)


def local_network(channels: int) -> nn.Module:
    """Each 4x4 block from that of the input in its place: ``(N, C, H, W)`` -> ``(N, 3, H, W)``."""
    return nn.Sequential(
        *(nn.Conv2d(channels, HIDDEN, BLOCK, stride=BLOCK), nn.ReLU()),
        *(nn.Conv2d(HIDDEN, HIDDEN, 1), nn.ReLU(), nn.Conv2d(HIDDEN, 3 * BLOCK**2, 1)),
        nn.PixelShuffle(BLOCK),
    )


def fit_local(
    seen: torch.Tensor, plain: torch.Tensor, epochs: int, seed: int = 0
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Train the local network by SGD on inputs ``(N, C, H, W)`` and ``values`` of pictures.

    Returns:
        What makes ``values`` of pictures from inputs.
    """
    torch.manual_seed(seed)
    net = local_network(seen.shape[1])
    optimizer = torch.optim.SGD(net.parameters(), lr=LR, momentum=MOMENTUM)
    for _ in range(epochs):
        for chosen in torch.randperm(len(seen)).split(BATCH):
            with torch.autocast("cpu"):
                loss = nn.functional.mse_loss(net(seen[chosen]), plain[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return torch.inference_mode()(lambda x: torch.cat([net(part) for part in x.split(500)]))


def fit_dense(seen: torch.Tensor, plain: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """The dense layer of least squares from inputs ``(N, ...)`` to ``values`` of pictures.

    Of several ridges, which keep it from learning its pairs by heart, that is taken which serves
    pairs best that were held out.

    Returns:
        What makes ``values`` of pictures from inputs.
    """
    held = max(1, int(HELD_OUT * len(seen)))
    x, y = seen.flatten(1).double(), plain.flatten(1).double()  # rounding would hide faint inputs
    mean_x, mean_y = x[held:].mean(0), y[held:].mean(0)
    x, y = x - mean_x, y - mean_y
    gram, target = x[held:].T @ x[held:], x[held:].T @ y[held:]
    few = torch.linspace(0, y.shape[1] - 1, min(TRIED_OUTPUTS, y.shape[1])).long()
    scale = gram.diagonal().mean()
    eye = torch.eye(len(gram), dtype=gram.dtype)

    def solved(ridge: float, outputs: torch.Tensor) -> torch.Tensor:
        factor = torch.linalg.cholesky(gram + ridge * scale * eye)
        return torch.cholesky_solve(target[:, outputs], factor)

    def error(ridge: float) -> float:
        return float((x[:held] @ solved(ridge, few) - y[:held, few]).square().mean())

    weight = solved(min(RIDGES, key=error), torch.arange(y.shape[1]))
    shape = plain.shape[1:]

    def back(inputs: torch.Tensor) -> torch.Tensor:
        made = (inputs.flatten(1).double() - mean_x) @ weight + mean_y
        return made.float().unflatten(1, shape)

    return back
