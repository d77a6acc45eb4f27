"""Whether two networks compute the same, tried on random images.

The promises of ``key_network``, of ``PerImageNetwork`` and of the folds rest on it: what is wrong
raises, and is never returned.
"""

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor, nn

from models.keying.graph import KeyingError
from models.keying.output import flatten
from models.keying.plain import copied, lowest

# Of the largest difference between the outputs of two images, and of the largest output: what
# rounding may do to a deep network.
TOLERANCE = {
    torch.float64: (1e-6, 1e-11),
    torch.float32: (1e-3, 1e-5),
    torch.float16: (2e-2, 1e-2),
    torch.bfloat16: (5e-2, 5e-2),
}
VISIBLE = 0.1  # what the others may do at most, of the former: a wrong key changes about all of it


def compare(
    plain: nn.Module,
    other: nn.Module,
    image_shape: tuple[int, int, int],
    precision: torch.dtype = torch.float64,
    send: Callable[[Tensor], tuple] = lambda images: (images,),
    restore: Callable[[list], list] = lambda leaves: leaves,
) -> None:
    """Try whether ``other`` gives for two random images what ``plain`` does, and leave it as it is.

    Then for one of them: the graph of batches of any size does not know that the network's code
    does something else for one image alone.

    Most keyed layers round as the plain ones do, so that float32 already shows what float64 would
    have to; float64, many times slower, is left for the others.

    Args:
        image_shape: ``(C, H, W)``.
        precision: the lowest that they compute with.
        send: what ``other`` takes for the images, scrambled ones.
        restore: the leaves of its output in natural order.

    Raises:
        KeyingError: if an output differs by more than ``TOLERANCE`` allows, or one of them fails.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, *image_shape, generator=generator)
    own = [p.dtype for p in plain.parameters() if p.is_floating_point()]

    def check(computed: torch.dtype, promised: torch.dtype, converted: bool = True) -> None:
        def run(given: Tensor) -> list:
            return restore(evaluate(other, *send(given), converted=converted))

        two = images.to(computed)
        expected = evaluate(plain, two, converted=converted)
        allowed = [_allowed(leaf, promised) for leaf in expected]
        _check_equal(expected, run(two), allowed, "one of its operations is keyed wrongly")
        try:
            alone = evaluate(plain, two[:1], converted=converted)
        except Exception:  # whatever a network raises that takes no image alone
            return
        _check_equal(alone, run(two[:1]), allowed, "its code does otherwise for one image alone")

    with suppress(RuntimeError, KeyingError):
        return check(torch.float32, torch.float64)
    if precision == torch.float64:
        with suppress(RuntimeError):  # some constant of the network is float32
            return check(torch.float64, torch.float64)
        precision = torch.float32
    try:
        if len(set(own)) > 1:  # it says itself where it computes in which
            return check(own[0], lowest(own), converted=False)
        check(torch.float32, precision)
    except RuntimeError as error:
        raise KeyingError(f"forward: the keyed network fails: {error}") from error


def _allowed(leaf: object, precision: torch.dtype) -> tuple[float, float]:
    """How much an output for two images may differ, and how much it does between the two."""
    if not (isinstance(leaf, Tensor) and leaf.numel()):
        return 0.0, 0.0
    leaf = leaf.double()
    tolerance, rounding = TOLERANCE[precision]
    # Not relative to the outputs alone: those of a fresh network hardly depend on the image.
    varies = (leaf[0] - leaf[-1]).abs().max().item() if leaf.dim() else 0.0
    rounding *= leaf.abs().max().item()
    if precision != torch.float64:
        rounding = min(rounding, VISIBLE * varies)
    return max(tolerance * varies, rounding), varies


def _check_equal(expected: list, found: list, limits: list[tuple], otherwise: str) -> None:
    for a, b, (allowed, varies) in zip(expected, found, limits, strict=True):
        if not isinstance(a, Tensor):
            if a != b:
                raise KeyingError(f"forward: the keyed network returns {b}, the plain one {a}")
            continue
        if a.shape != b.shape:
            shapes = f"{tuple(b.shape)}, the plain one's {tuple(a.shape)}"
            raise KeyingError(f"forward: an output of the keyed network has shape {shapes}")
        a, b = a.double(), b.double()
        if not torch.allclose(a, b, rtol=0.0, atol=allowed, equal_nan=True):
            raise KeyingError(
                f"forward: the keyed network differs from the plain one by "
                f"{(a - b).abs().max().item():.3g}, its outputs between two images by "
                f"{varies:.3g}; {otherwise}"
            )


def evaluate(net: nn.Module, *inputs: object, converted: bool = True) -> list:
    """Leaves of the output of ``net`` in eval mode on the CPU, converted to its input's dtype."""
    dtype = inputs[0].dtype

    def convert(t: Tensor) -> Tensor:
        kind = dtype if converted and t.is_floating_point() else t.dtype
        return t.detach().to("cpu", kind, copy=not isinstance(t, nn.Parameter))  # it writes buffers

    # Not functional_call, which leaves a module with two names changed.
    with torch.no_grad(), torch.random.fork_rng([]):
        torch.default_generator.manual_seed(0)  # for a network that draws numbers
        return flatten(copied(net, convert).eval()(*inputs))[0]
