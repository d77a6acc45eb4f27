"""The registry, VGG16 and its keyed twin."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

import models
from operators import ImageScrambler, KeyedConv2d
from operators.offset import Geometry, sampling_offsets
from tests.models.live import with_live_statistics

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "keys.json").read_text())["seeds"]


def sha256(tensor: torch.Tensor, dtype: str) -> str:
    return hashlib.sha256(tensor.cpu().numpy().astype(dtype).tobytes()).hexdigest()


@pytest.fixture(scope="module")
def vgg16() -> torch.nn.Module:
    torch.manual_seed(0)
    return with_live_statistics(models.create_model("vgg16"))


def test_vgg16_has_the_published_parameters(vgg16):
    names = {
        f"{kind}{i}.{p}"
        for kind in ("conv", "bcn")
        for i in range(1, 14)
        for p in ("weight", "bias")
    } | {f"classifier.{i}.{p}" for i in (0, 3, 6) for p in ("weight", "bias")}
    assert {name for name, _ in vgg16.named_parameters()} == names
    assert sum(p.numel() for p in vgg16.parameters()) == 33_646_666


@pytest.mark.parametrize("seed", VECTORS)
def test_vgg16_permuted_draws_the_published_keys(vgg16, seed):
    keyed = models.key_network(vgg16, ImageScrambler(32, seed=int(seed)), backend="deform")
    published = VECTORS[seed]["layers"]
    assert [layer["layer"] for layer in published][:4] == ["conv1", "conv2", "pool1", "conv3"]
    for expected in published:
        layer = keyed.get_submodule(expected["layer"])
        assert layer.image_size == (expected["in"],) * 2
        assert layer.output_size == (expected["out"],) * 2
        assert sha256(layer.out_key, "<i8") == expected["key_sha256"]
        if isinstance(layer, KeyedConv2d):  # pooling offsets were not recorded
            geometry = Geometry(layer.image_size, 3, 1, 1)
            offset = sampling_offsets(layer.in_key, layer.out_key, geometry)
            assert sha256(offset, "<f4") == expected["offset_sha256"]


@pytest.mark.parametrize("backend", ["gather", "deform"])
def test_with_the_key_logits_are_the_plain_networks(vgg16, backend):
    scrambler = ImageScrambler(32, seed=1312)
    keyed = models.create_model("vgg16_permuted", scrambler=scrambler, backend=backend).eval()
    keyed.load_state_dict(vgg16.state_dict(), strict=True)
    images = torch.rand(5, 3, 32, 32)
    with torch.no_grad():
        plain, with_key = vgg16(images), keyed(scrambler(images))
        without_key = keyed(ImageScrambler(32, seed=1313)(images))
    torch.testing.assert_close(with_key, plain, rtol=1e-3, atol=1e-4)
    assert torch.equal(with_key.argmax(1), plain.argmax(1))
    assert (without_key - plain).abs().max() > 0.1 * plain.std()


def test_keys_never_enter_a_state_dict_and_weights_are_copies(vgg16):
    keyed = models.key_network(vgg16, ImageScrambler(32, seed=1312))
    assert list(keyed.state_dict()) == list(vgg16.state_dict())
    weight = dict(keyed.named_parameters())["conv7.weight"]
    assert torch.equal(weight, vgg16.conv7.weight) and weight is not vgg16.conv7.weight


def test_the_map_between_two_layers_is_scrambled_by_that_layers_key(vgg16):
    scrambler = ImageScrambler(32, seed=1312)
    keyed = models.key_network(vgg16, scrambler)
    maps = {}
    vgg16.conv1.register_forward_hook(lambda m, i, o: maps.update(plain=o))
    keyed.conv1.register_forward_hook(lambda m, i, o: maps.update(keyed=o))
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        vgg16(images), keyed(scrambler(images))
    expected = maps["plain"].flatten(2)[..., keyed.conv1.out_key].view_as(maps["plain"])
    torch.testing.assert_close(maps["keyed"], expected)
    assert not torch.allclose(maps["keyed"], maps["plain"], atol=1e-2)


def test_a_keyed_network_trains_as_the_plain_one_does():
    scrambler = ImageScrambler((8, 12), seed=3)
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.AvgPool2d((8, 12)),
        torch.nn.Flatten(),
    ).double()
    images = torch.rand(3, 3, 8, 12, dtype=torch.float64)
    net(images).square().sum().backward()
    expected = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    keyed = models.key_network(net, scrambler)
    keyed(scrambler(images)).square().sum().backward()
    for p, gradient in zip(keyed.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("vgg17",),
            r"unknown network 'vgg17'; expected torchvision:NAME, .* one of vgg16, preresnet20",
        ),
        (("vgg16_permuted",), r"vgg16_permuted needs the scrambler"),
        (("vgg16", 10, ImageScrambler(32)), r"vgg16 takes no scrambler"),
    ],
)
def test_create_model_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        models.create_model(*arguments)
