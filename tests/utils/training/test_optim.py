"""Optimizers: Muon's matrices are the kernels themselves, and states survive a round trip."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from utils.training.optim import Optimizer
from utils.training.recipe import PRESETS

MUON = PRESETS["fast"]
SGD = PRESETS["published"]
FORMATS = [torch.contiguous_format, torch.channels_last]


def network(memory_format=torch.contiguous_format):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(8, 8, (3, 2)),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 4, 1),
        nn.Flatten(),
        nn.LazyLinear(2),
    )
    net(torch.zeros(2, 3, 7, 7))
    return net.to(memory_format=memory_format)


def step(net, optimizer, seed):
    torch.manual_seed(seed)
    optimizer.zero_grad()
    net(torch.randn(4, 3, 7, 7)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("memory_format", FORMATS)
def test_muon_trains_the_hidden_kernels_in_place(memory_format):
    net = network(memory_format)
    optimizer = Optimizer(net, MUON)
    assert [m.shape for m in optimizer._matrices] == [(8, 48), (4, 8)]
    for matrix, kernel in zip(optimizer._matrices, (net[1].weight, net[3].weight), strict=True):
        assert matrix.untyped_storage().data_ptr() == kernel.untyped_storage().data_ptr()
    before = [p.clone() for p in net.parameters()]
    step(net, optimizer, 1)
    for old, p in zip(before, net.parameters(), strict=True):
        assert not torch.equal(old, p)


def test_memory_format_does_not_change_the_result():
    results = []
    for memory_format in FORMATS:
        net = network(memory_format)
        optimizer = Optimizer(net, MUON)
        optimizer.set_lr(0.1)
        for seed in range(3):
            step(net, optimizer, seed)
        results.append(net.state_dict())
    for name in results[0]:
        assert torch.allclose(results[0][name], results[1][name], atol=1e-2), name


def test_muon_makes_an_orthogonal_step():
    net = network()
    optimizer = Optimizer(net, replace(MUON, muon_lr=1.0))
    before = net[1].weight.detach().flatten(1).clone()
    before *= 8**0.5 / before.norm()
    step(net, optimizer, 1)
    singular = torch.linalg.svdvals(before - net[1].weight.detach().flatten(1))
    assert singular.max() / singular.min() < 3


@pytest.mark.parametrize("memory_format", FORMATS)
def test_muon_in_float32_steps_alike(memory_format):
    results = []
    for bfloat16 in (True, False):
        net = network(memory_format)
        optimizer = Optimizer(net, replace(MUON, muon_lr=1.0), bfloat16)
        step(net, optimizer, 1)
        results.append(net.state_dict())
    for name in results[0]:
        assert torch.allclose(results[0][name], results[1][name], atol=0.05), name


@pytest.mark.parametrize("recipe", [SGD, MUON, PRESETS["convmixer"]], ids=["sgd", "muon", "adamw"])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_state_round_trip_is_exact(recipe, memory_format, tmp_path):
    def steps(net, optimizer, seeds):
        for seed in seeds:
            optimizer.set_lr(0.1)
            step(net, optimizer, seed)

    net = network(memory_format)
    optimizer = Optimizer(net, recipe)
    steps(net, optimizer, range(3))
    torch.save([net.state_dict(), optimizer.state_dict()], tmp_path / "state.pt")
    steps(net, optimizer, range(3, 6))

    weights, state = torch.load(tmp_path / "state.pt", weights_only=True)
    again = network(memory_format)
    resumed = Optimizer(again, recipe)
    again.load_state_dict(weights)
    resumed.load_state_dict(state)
    steps(again, resumed, range(3, 6))
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_muon_scales_kernels_before_it_steps():
    big, small = network(), network()
    big[1].weight.data.mul_(5)
    for net in (big, small):
        optimizer = Optimizer(net, replace(MUON, muon_lr=1e-6))
        step(net, optimizer, 1)
        assert net[1].weight.detach().norm() == pytest.approx(8**0.5, rel=1e-4)
    assert torch.allclose(big[1].weight, small[1].weight, atol=1e-5)


def test_a_kernel_without_a_gradient_stays_as_it_is():
    net = network()
    optimizer = Optimizer(net, MUON)
    before = net[3].weight.detach().clone()
    optimizer.zero_grad()
    net[1](torch.randn(2, 8, 5, 5)).square().sum().backward()
    optimizer.step()
    assert torch.equal(net[3].weight, before)


def test_set_lr_scales_every_peak():
    optimizer = Optimizer(network(), replace(MUON, lr=0.4, muon_lr=0.2))
    assert optimizer.set_lr(0.5) == 0.2
    assert [part.param_groups[0]["lr"] for part in optimizer._parts] == [0.2, 0.1]


def test_sgd_as_torch():
    ours, theirs = network(), network()
    optimizer = Optimizer(ours, SGD)
    reference = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for seed in range(3):
        step(ours, optimizer, seed)
        step(theirs, reference, seed)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


def test_adamw_as_torch():
    recipe = replace(SGD, optimizer="adamw", lr=0.01, weight_decay=0.1)
    ours, theirs = network(), network()
    optimizer = Optimizer(ours, recipe)
    reference = torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.1)
    for seed in range(3):
        step(ours, optimizer, seed)
        step(theirs, reference, seed)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
