"""Whether a keyed network computes what the plain one does, tried on random images in float64.

The promise of ``key_network`` and of ``PerImageNetwork`` rests on it: what is keyed wrongly raises,
and is never returned.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from models.keying.graph import KeyingError, flatten, mode

# Of the largest difference between the outputs of two images, and of the largest output: what
# rounding may do to a deep network.
TOLERANCE = {torch.float64: (1e-6, 1e-11), torch.float32: (1e-3, 1e-5)}
VISIBLE = 0.1  # what float32 may do at most, of the former: a wrong key changes about all of it


def image_channels(net: nn.Module) -> int:
    """Channels of the images that a network takes: those of its first convolution, or 3."""
    convolutions = (m for m in net.modules() if isinstance(m, nn.Conv2d))
    return getattr(next(convolutions, None), "in_channels", 3)


def random_images(in_channels: int, image_size: tuple[int, int]) -> Tensor:
    """The two images of the comparison, always the same: ``(2, in_channels, H, W)``, float64."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, in_channels, *image_size, generator=generator).double()


def check_equal(expected: list, found: list, precision: torch.dtype = torch.float64) -> None:
    """Compare the outputs of the plain network with those of the keyed one, in natural order.

    Args:
        precision: the lowest that both networks compute with.

    Raises:
        KeyingError: if one differs by more than ``TOLERANCE`` allows.
    """
    for a, b in zip(expected, found, strict=True):
        if not isinstance(a, Tensor):
            if a != b:
                raise KeyingError(f"forward: the keyed network returns {b}, the plain one {a}")
            continue
        if a.shape != b.shape:
            shapes = f"{tuple(b.shape)}, the plain one's {tuple(a.shape)}"
            raise KeyingError(f"forward: an output of the keyed network has shape {shapes}")
        tolerance, rounding = TOLERANCE[precision]
        a, b = a.double(), b.double()
        # Not relative to the outputs alone: those of a fresh network hardly depend on the image.
        varies = (a[0] - a[-1]).abs().max().item() if a.dim() and a.numel() else 0.0
        largest = a.abs().max().item() if a.numel() else 0.0
        rounding *= largest
        if precision == torch.float32:
            rounding = min(rounding, VISIBLE * varies)
        allowed = max(tolerance * varies, rounding)
        if not torch.allclose(a, b, rtol=0.0, atol=allowed, equal_nan=True):
            raise KeyingError(
                f"forward: the keyed network differs from the plain one by "
                f"{(a - b).abs().max().item():.3g}, its outputs between two images by "
                f"{varies:.3g}; one of its operations is keyed wrongly"
            )


def evaluate(net: nn.Module, *inputs: object) -> list:
    """Leaves of the output of ``net`` in eval mode on the CPU, in the dtype of its input."""
    dtype = inputs[0].dtype
    state = {
        name: t.cpu().to(dtype) if t.is_floating_point() else t.cpu()
        for name, t in (*net.named_parameters(), *net.named_buffers())
    }
    with mode(net, training=False), torch.no_grad():
        return flatten(functional_call(net, state, inputs))[0]
