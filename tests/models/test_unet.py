"""The U-Net: its size, its shapes, and its keyed twin at sizes that are neither square nor even."""

import pytest
import torch

import models
from models.unet import UNet
from operators import ImageScrambler
from tests.models.live import with_live_statistics


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return with_live_statistics(models.create_model("unet", num_classes=11))


def test_it_has_the_stated_parameters(net):
    assert sum(p.numel() for p in net.parameters()) == 1_976_779


@pytest.mark.parametrize("image_size", [(16, 16), (45, 60), (17, 33)])
def test_the_output_has_the_size_of_the_image(net, image_size):
    with torch.no_grad():
        assert net(torch.zeros(2, 3, *image_size)).shape == (2, 11, *image_size)


def test_maps_of_odd_size_shrink_as_documented(net):
    sizes = []
    hooks = [b.register_forward_hook(lambda m, i, o: sizes.append(o.shape[2])) for b in net.down]
    with torch.no_grad():
        net(torch.zeros(1, 3, 180, 16))
    for hook in hooks:
        hook.remove()
    assert sizes == [180, 90, 45, 23, 12]


@pytest.mark.parametrize("backend", ["gather", "deform"])
@pytest.mark.parametrize("image_size", [(20, 28), (45, 60)])
def test_with_the_key_every_map_is_the_plain_networks(net, image_size, backend):
    scrambler, images = ImageScrambler(image_size, seed=5), torch.rand(2, 3, *image_size)
    keyed = models.create_model("unet_permuted", 11, scrambler, backend).eval()
    keyed.load_state_dict(net.state_dict(), strict=True)
    with torch.no_grad():
        plain, found = net(images), keyed(scrambler(images))
        without_key = keyed(ImageScrambler(image_size, seed=6)(images))
    torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-3)
    assert torch.equal(found.argmax(1), plain.argmax(1))
    assert (without_key.argmax(1) == plain.argmax(1)).double().mean() < 0.9


def test_every_map_stays_scrambled(net):
    scrambler = ImageScrambler((20, 28), seed=5)
    keyed = models.key_network(net, scrambler, verify=False, strict=True)
    assert keyed.report().share == 1


def test_it_trains_in_channels_last_and_bfloat16():
    torch.manual_seed(0)
    net = UNet(3).to(memory_format=torch.channels_last)
    images = torch.rand(2, 3, 20, 28).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(images)
    logits.float().square().mean().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in net.parameters())
