"""Residual blocks that training skips: how often, what is computed, and what stays as it was."""

import pytest
import torch

import models
from models.stochastic_depth import random_depth, residual_blocks

IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return models.create_model("preresnet20")


def test_every_block_of_preresnet110_can_be_skipped_and_parameters_are_as_before():
    net = models.create_model("preresnet110")
    assert len(residual_blocks(net)) == 54
    before = list(net.state_dict())
    with random_depth(net, 0.5, generator()):
        assert sum(p.numel() for p in net.parameters()) == 1_703_258
        assert list(net.state_dict()) == before


def test_the_chance_falls_linearly_and_the_scale_undoes_it(net):
    count, total = 4000, torch.zeros(9)
    scales = [set() for _ in range(9)]
    draws = generator()
    for _ in range(count):
        with random_depth(net, 0.5, draws):
            found = [block.scale for block in residual_blocks(net)]
        total += torch.tensor([float(scale > 0) for scale in found])
        for known, scale in zip(scales, found, strict=True):
            known.add(scale)
    chances = torch.linspace(1, 0.5, 10)[1:]
    assert (total / count - chances).abs().max() < 4 * 0.5 / count**0.5  # 4 deviations
    for known, chance in zip(scales, chances.tolist(), strict=True):
        assert sorted(known) == [0.0, pytest.approx(1 / chance)]


def test_training_computes_the_branches_that_were_drawn(net):
    """Written out: a stem, blocks as sums, and the end of the network."""
    net.train()
    with random_depth(net, 0.5, generator(2)):
        drawn = [block.scale for block in residual_blocks(net)]
        logits = net(IMAGES)
    assert 0.0 in drawn and max(drawn) > 1
    x = net.conv1(IMAGES)
    for block, scale in zip(residual_blocks(net), drawn, strict=True):
        y = scale * block.branch(x) if scale else 0
        x = y + (x if block.shortcut is None else block.shortcut(x))
    expected = net.fc(torch.relu(net.bn(x)).mean((2, 3)))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_a_skipped_block_costs_nothing_and_changes_nothing(net):
    net.train()
    called = []
    blocks = residual_blocks(net)
    for block in blocks:
        block.conv2.register_forward_hook(lambda conv, *_: called.append(conv))
    with random_depth(net, 0.5, generator(2)):
        drawn = [block.scale for block in blocks]
        net(IMAGES).sum().backward()
    assert called == [b.conv2 for b, scale in zip(blocks, drawn, strict=True) if scale]
    for block, scale in zip(blocks, drawn, strict=True):
        assert (block.conv2.weight.grad is not None) == (scale > 0)
        assert int(block.bn1.num_batches_tracked) == (scale > 0)
        if block.shortcut is not None:
            assert block.shortcut.weight.grad is not None


def test_evaluation_is_whole_within_and_training_after(net):
    whole = net.eval()(IMAGES)
    with random_depth(net, 0.1, generator()):
        assert torch.equal(net(IMAGES), whole)
    trained = net.train()(IMAGES)
    with pytest.raises(KeyError), random_depth(net, 0.1, generator()):
        raise KeyError
    assert torch.equal(net(IMAGES), trained)
