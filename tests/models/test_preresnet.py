"""PreResNet: its published sizes, and its keyed twin."""

import pytest
import torch

import models
from models.preresnet import PreResNet
from operators import ImageScrambler, KeyedConv2d


@pytest.mark.parametrize(
    ("name", "parameters"), [("preresnet110", 1_703_258), ("preresnet110_basic", 1_730_522)]
)
def test_has_the_published_parameters(name, parameters):
    net = models.create_model(name)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert all(m.bias is None for m in net.modules() if isinstance(m, torch.nn.Conv2d))


def test_preresnet110_has_164_weighted_layers_with_bottlenecks_and_110_without():
    for name, layers in (("preresnet110", 164), ("preresnet110_basic", 110)):
        net = models.create_model(name)
        weighted = [
            path
            for path, m in net.named_modules()
            if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear)) and "shortcut" not in path
        ]
        assert len(weighted) == layers


@pytest.mark.parametrize("name", ["preresnet20", "preresnet20_basic"])
def test_keyed_twin_gives_the_same_logits(name):
    torch.manual_seed(0)
    net = models.create_model(name).eval()
    scrambler, images = ImageScrambler(32, seed=1312), torch.rand(3, 3, 32, 32)
    keyed = models.create_model(f"{name}_permuted", scrambler=scrambler).eval()
    keyed.load_state_dict(net.state_dict(), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(keyed(scrambler(images)), net(images), rtol=1e-4, atol=1e-4)
    trunk = [
        keyed.layer1[i].conv3 if "basic" not in name else keyed.layer1[i].conv2 for i in (0, 2)
    ]
    assert all(isinstance(layer, KeyedConv2d) for layer in trunk)
    assert torch.equal(trunk[0].out_key, trunk[1].out_key)  # they meet in the residual sums


def test_refuses_other_depths():
    with pytest.raises(ValueError, match=r"depth must be 6n \+ 2, 8 at least, got 21"):
        PreResNet(21)
