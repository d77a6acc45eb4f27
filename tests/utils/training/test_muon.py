"""Muon in float32 beside torch's, whose iteration it repeats."""

import pytest
import torch
from torch import nn

from utils.training.muon import Float32Muon, orthogonalise

COEFFICIENTS = (3.4445, -4.775, 2.0315)


def literally(matrix, steps):
    """The iteration as it is defined, on the wide matrix itself, in float64."""
    a, b, c = COEFFICIENTS
    x = matrix.double()
    x = x.T if len(x) > x.shape[1] else x
    x = x / x.norm()
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if len(matrix) > matrix.shape[1] else x


@pytest.mark.parametrize("shape", [(8, 48), (48, 8), (5, 5), (1, 7)])
@pytest.mark.parametrize("steps", [1, 3, 5])
@pytest.mark.parametrize("rank", [1, 100])
def test_the_iteration_written_out(shape, steps, rank):
    torch.manual_seed(0)
    matrix = torch.randn(shape[0], rank) @ torch.randn(rank, shape[1])
    result, expected = orthogonalise(matrix, COEFFICIENTS, steps, 1e-7), literally(matrix, steps)
    assert result.shape == shape and result.dtype == torch.float32
    assert torch.allclose(result.double(), expected, atol=1e-4)


def test_nothing_becomes_nothing():
    assert torch.equal(orthogonalise(torch.zeros(3, 5), COEFFICIENTS, 3, 1e-7), torch.zeros(3, 5))


@pytest.mark.parametrize("shape", [(6, 20), (20, 6)])
@pytest.mark.parametrize("nesterov", [True, False])
def test_steps_are_those_of_torch_and_states_are_exchanged(shape, nesterov):
    torch.manual_seed(0)
    start = torch.randn(shape)
    options = {"lr": 0.1, "weight_decay": 0.2, "nesterov": nesterov, "ns_steps": 3}
    ours, theirs = (nn.Parameter(start.clone()) for _ in range(2))
    optimizers = Float32Muon([ours], **options), torch.optim.Muon([theirs], **options)
    for _ in range(3):
        ours.grad = theirs.grad = torch.randn(shape)
        for optimizer in optimizers:
            optimizer.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved  # what bfloat16 rounds
    a, b = (optimizer.state_dict() for optimizer in optimizers)
    momenta = [state["state"][0]["momentum_buffer"] for state in (a, b)]
    assert torch.allclose(*momenta)
    optimizers[0].load_state_dict(b)
    optimizers[1].load_state_dict(a)
