"""Whether a keyed network does what the plain one does, tried on random images in float64.

The promise of ``key_network`` and of ``PerImageNetwork`` rests on it: what is keyed wrongly raises,
and is never returned.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from models.keying.plan import KeyingError
from models.keying.trace import mode

TOLERANCE = 1e-6  # of the largest difference between the outputs of two images, in float64
ROUNDING = 1e-11  # of the largest output: what float64 may do to a deep network


def image_channels(net: nn.Module) -> int:
    """Channels of the images that a network takes: those of its first convolution, or 3."""
    convolutions = (m for m in net.modules() if isinstance(m, nn.Conv2d))
    return getattr(next(convolutions, None), "in_channels", 3)


def random_images(in_channels: int, image_size: tuple[int, int]) -> Tensor:
    """The two images of the comparison, always the same: ``(2, in_channels, H, W)``, float64."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, in_channels, *image_size, generator=generator).double()


def check_equal(expected: list[Tensor], found: list[Tensor]) -> None:
    """Compare the outputs of the plain network with those of the keyed one, in natural order.

    Raises:
        KeyingError: if one differs by more than ``TOLERANCE`` and ``ROUNDING`` allow.
    """
    for a, b in zip(expected, found, strict=True):
        # Not relative to the outputs alone: those of a fresh network hardly depend on the image.
        varies = (a[0] - a[1]).abs().max().item()
        allowed = max(TOLERANCE * varies, ROUNDING * a.abs().max().item())
        if not torch.allclose(a, b, rtol=0.0, atol=allowed, equal_nan=True):
            raise KeyingError(
                f"forward: the keyed network differs from the plain one by "
                f"{(a - b).abs().max().item():.3g}, its outputs between two images by "
                f"{varies:.3g}; one of its operations is keyed wrongly"
            )


def evaluate(net: nn.Module, *inputs: object) -> list[Tensor]:
    """Outputs of ``net`` in eval mode, with its weights as float64 on the CPU."""
    state = {
        name: t.cpu().double() if t.is_floating_point() else t.cpu()
        for name, t in (*net.named_parameters(), *net.named_buffers())
    }
    with mode(net, training=False), torch.no_grad():
        return leaves(functional_call(net, state, inputs))


def leaves(output: object) -> list:
    """What a nest of dictionaries and sequences holds, in order."""
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, (tuple, list)):
        return [leaf for part in output for leaf in leaves(part)]
    return [output]
