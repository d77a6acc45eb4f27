"""The paper's network as it is written out, beside what ``key_network`` makes of VGG16."""

import copy
import hashlib
import io
import json
from pathlib import Path

import pytest
import torch
from torch import nn

import models
from models.fold import fold_batch_norm, fold_keys
from models.vgg import VGG16
from models.vgg_deformable import VGG16Deformable
from operators import ImageScrambler, KeyedConv2d, KeyedMaxPool2d, PerImageScrambler, SecretKey
from operators.gather import Reorder
from operators.keyed_layer import KeyedLayer
from operators.offset import Geometry, sampling_offsets
from tests.models.live import with_live_statistics

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "keys.json").read_text())["seeds"]


def sha256(tensor: torch.Tensor, dtype: str) -> str:
    return hashlib.sha256(tensor.numpy().astype(dtype).tobytes()).hexdigest()


@pytest.fixture(scope="module")
def plain() -> VGG16:
    torch.manual_seed(0)
    return with_live_statistics(VGG16()).double()


def keyed_as(plain: VGG16, scrambler: ImageScrambler, backend: str = "auto") -> VGG16Deformable:
    keyed = VGG16Deformable(scrambler, backend=backend).eval().double()
    keyed.load_state_dict(plain.state_dict(), strict=True)
    return keyed


def test_is_what_the_registry_builds():
    net = models.create_model("vgg16_permuted", 7, ImageScrambler(32, seed=1), "deform")
    assert type(net) is VGG16Deformable and net.classifier[6].out_features == 7
    assert {m.backend for m in net.modules() if isinstance(m, KeyedLayer)} == {"deform"}


@pytest.mark.parametrize("seed", VECTORS)
def test_draws_the_published_keys(seed):
    net = VGG16Deformable(ImageScrambler(32, seed=int(seed)))
    assert sha256(net.image_key, "<i8") == VECTORS[seed]["image_key"]["sha256"]
    in_key = net.image_key
    for expected in VECTORS[seed]["layers"]:
        layer = net.get_submodule(expected["layer"])
        assert layer.image_size == (expected["in"],) * 2
        assert layer.output_size == (expected["out"],) * 2
        assert torch.equal(layer.in_key, in_key)
        assert sha256(layer.out_key, "<i8") == expected["key_sha256"]
        if isinstance(layer, KeyedConv2d):
            geometry = Geometry(layer.image_size, 3, 1, 1)
            offset = sampling_offsets(layer.in_key, layer.out_key, geometry)
            assert sha256(offset, "<f4") == expected["offset_sha256"]
        in_key = layer.out_key


@pytest.mark.parametrize("size", [32, (48, 63)])
@pytest.mark.parametrize("backend", ["gather", "deform"])
def test_is_what_key_network_makes_of_vgg16(plain, size, backend):
    scrambler = ImageScrambler(size, secret=SecretKey(bytes(range(32))))
    keyed = keyed_as(plain, scrambler, backend)
    made = models.key_network(plain, scrambler, backend=backend, verify=False)
    assert list(keyed.state_dict()) == list(made.state_dict()) and made.report().share == 1
    layers = {n: m for n, m in keyed.named_modules() if isinstance(m, KeyedLayer)}
    assert len(layers) == 18
    for name, layer in layers.items():
        twin = made.get_submodule(name)
        assert type(twin) is type(layer) and twin.backend == layer.backend
        assert torch.equal(twin.in_key, layer.in_key) and torch.equal(twin.out_key, layer.out_key)
    images = torch.rand(2, 3, *scrambler.image_size).double()
    with torch.no_grad():
        assert torch.equal(keyed(scrambler(images)), made(scrambler(images)))
        torch.testing.assert_close(keyed(scrambler(images)), plain(images))
        assert (keyed(images) - plain(images)).abs().max() > 0.1 * plain(images).std()


def test_has_the_initial_weights_of_the_plain_network():
    nets = []
    for build in (VGG16, lambda: VGG16Deformable(ImageScrambler(32, seed=0))):
        torch.manual_seed(5)
        nets.append(build())
        assert nets[-1].training
    assert [n for n, _ in nets[0].named_parameters()] == [n for n, _ in nets[1].named_parameters()]
    assert all(map(torch.equal, nets[0].parameters(), nets[1].parameters()))


@pytest.mark.parametrize("backend", ["gather", "deform"])
@torch.no_grad()
def test_folds(plain, backend):
    scrambler, images = ImageScrambler(32, seed=3), torch.rand(2, 3, 32, 32).double()
    keyed = keyed_as(plain, scrambler, backend)
    layers, expected = set(map(type, keyed.modules())), plain(images)
    for fold, reorderings in (
        (fold_keys, 1),
        (fold_batch_norm, None),
        (lambda net: fold_batch_norm(fold_keys(net)), 1),
    ):
        folded = fold(keyed)
        torch.testing.assert_close(folded(scrambler(images)), expected)
        if reorderings is not None:
            assert sum(isinstance(m, Reorder) for m in folded.modules()) == reorderings
            assert not any(isinstance(m, KeyedLayer) for m in folded.modules())
    assert {KeyedConv2d, KeyedMaxPool2d} < layers == set(map(type, keyed.modules()))
    assert list(fold_keys(keyed).state_dict()) == list(plain.state_dict())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fold_batch_norm(keyed).modules())


@torch.no_grad()
def test_exports(plain):
    scrambler, images = ImageScrambler(32, seed=3), torch.rand(3, 3, 32, 32).double()
    keyed = keyed_as(plain, scrambler, "gather")
    dynamic = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(keyed, (scrambler(images[:2]),), dynamic_shapes=dynamic)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    found = torch.export.load(file).module()(scrambler(images))
    torch.testing.assert_close(found, plain(images))


@torch.no_grad()
def test_takes_images_with_a_key_each(plain):
    scrambler, images = (
        PerImageScrambler(32, SecretKey(bytes(range(32)))),
        torch.rand(2, 3, 32, 32).double(),
    )
    nonces = [b"a", b"b"]
    received = scrambler.rekey(scrambler.scramble(images, nonces), nonces)
    found = keyed_as(plain, scrambler.fixed)(received)
    torch.testing.assert_close(found, plain(images))


def test_copies_and_keeps_its_keys_out_of_its_state(plain):
    scrambler, images = ImageScrambler(32, seed=3), torch.rand(2, 3, 32, 32).double()
    keyed = keyed_as(plain, scrambler)
    assert list(keyed.state_dict()) == list(plain.state_dict())
    twin = copy.deepcopy(keyed)
    with torch.no_grad():
        expected = twin(scrambler(images))
        nn.init.zeros_(keyed.conv1.weight)
        assert torch.equal(twin(scrambler(images)), expected)


@pytest.mark.parametrize("size", [31, 64, (32, 64)])
def test_images_of_another_size_are_named(size):
    with pytest.raises(ValueError, match=r"images of 32 to 63 pixels a side, got \(\d+, \d+\)"):
        VGG16Deformable(ImageScrambler(size, seed=0))
