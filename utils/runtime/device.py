"""The device that a run computes on, and the arithmetic that it does fast: bfloat16 or float32.

A processor without bfloat16 instructions emulates them, up to a hundred times slower than float32;
one that has them takes about half the time. Names do not tell the two apart, a short trial does.
"""

import timeit
from functools import cache

import torch
from torch.nn import functional as F

from utils.runtime.errors import UserError

AMP = ("auto", "on", "off")
ROUNDS = 3  # timed, after one that does not count


def select_device(gpu: bool) -> torch.device:
    """The device that ``-gpu`` asks for.

    Raises:
        UserError: if a GPU is asked for and PyTorch finds none.
    """
    if gpu and not torch.cuda.is_available():
        raise UserError("-gpu: PyTorch finds no CUDA GPU here; leave -gpu out to use the CPU")
    return torch.device("cuda" if gpu else "cpu")


@cache
def bfloat16_slowdown(device_type: str) -> float:
    """Time of a convolution with its gradient and of a matrix product, bfloat16 over float32.

    Takes a tenth of a second, a few tenths where bfloat16 is emulated. On a GPU nothing is timed:
    0 where it has bfloat16 arithmetic, infinity where it has none.
    """
    if device_type == "cuda":
        return 0.0 if torch.cuda.is_bf16_supported(including_emulation=False) else float("inf")
    return _seconds(torch.bfloat16) / _seconds(torch.float32)


def amp_is_on(amp: str, device: torch.device) -> bool:
    """Whether to run under bfloat16 autocast: as told by ``on`` or ``off``, or where it is fast."""
    return bfloat16_slowdown(device.type) < 1 if amp == "auto" else amp == "on"


def autocast(device: torch.device, enabled: bool) -> torch.autocast:
    """bfloat16 autocast for a device, or nothing when not enabled."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def _seconds(dtype: torch.dtype) -> float:
    """The shortest time of the convolution plus that of the product, on the CPU."""
    images = torch.ones(4, 64, 16, 16, dtype=dtype, requires_grad=True)
    kernel = torch.ones(64, 64, 3, 3, dtype=dtype, requires_grad=True)
    matrix = torch.ones(256, 512, dtype=dtype)

    def convolve() -> None:
        F.conv2d(images, kernel, padding=1).sum().backward()

    calls = (convolve, lambda: matrix @ matrix.T)
    return sum(min(timeit.repeat(call, number=1, repeat=ROUNDS + 1)[1:]) for call in calls)
