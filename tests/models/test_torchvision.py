"""Networks of torchvision, keyed: a quick choice always, all of them with ``-m slow``."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
import torchvision

import models
from operators import ImageScrambler

SCRIPTS = Path(__file__).parents[2] / "experiments" / "keying"
sys.path.insert(0, str(SCRIPTS))  # as running a script there would
key_torchvision = importlib.import_module("key_torchvision")

QUICK = ("resnet18", "squeezenet1_1", "shufflenet_v2_x0_5", "mobilenet_v3_small", "mnasnet0_5")


def check(name: str, image_size: tuple[int, int]) -> None:
    net = key_torchvision.build(name, image_size)
    scrambler = ImageScrambler(image_size, seed=7)
    keyed = models.key_network(net, scrambler, verify=False)
    assert list(keyed.state_dict()) == list(net.state_dict())
    assert key_torchvision.difference(net, keyed, scrambler, image_size) < key_torchvision.EXACT


@pytest.mark.parametrize("name", QUICK)
def test_quick(name):
    check(name, (32, 64))


@pytest.mark.slow
@pytest.mark.parametrize("name", key_torchvision.NETS)
def test_all(name):
    for image_size in key_torchvision.NETS[name]:
        check(name, image_size)


@pytest.mark.parametrize(
    "name", ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large", "fcn_resnet50"]
)
def test_create_model_builds_segmentation_networks_that_return_logits(name):
    net = models.create_model(f"torchvision:{name}", num_classes=5).eval()
    published = torchvision.models.get_model(name, num_classes=5, weights_backbone=None)
    assert list(net.state_dict()) == list(published.state_dict())
    scrambler, images = ImageScrambler((32, 48), seed=7), torch.rand(2, 3, 32, 48)
    keyed = models.create_model(f"torchvision:{name}_permuted", 5, scrambler).eval()
    keyed.load_state_dict(net.state_dict(), strict=True)
    with torch.no_grad():
        plain, found = net(images), keyed(scrambler(images))
    assert plain.shape == (2, 5, 32, 48) and keyed.report().share == 1
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)
    assert net.train()(images).shape == keyed.train()(scrambler(images)).shape == plain.shape
