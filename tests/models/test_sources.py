"""Networks from elsewhere: what their names mean, and what is said where there is none."""

import importlib.util

import pytest
import torch
import torchvision

from models import check_name, create_model, is_keyed, public_name
from operators import ImageScrambler

FILE = """
from torch import nn
from parts import WIDTH  # beside this file

RUNS = open("runs.txt", "a").write("run ")

class Small(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, WIDTH, 3), nn.BatchNorm2d(WIDTH)
        self.fc = nn.Linear(WIDTH, num_classes)

    def forward(self, x):
        return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))

def make(num_classes):
    return Small(num_classes)

def make_list(num_classes):
    return [1]

def make_nothing():
    return Small(2)

def fail(num_classes):
    raise ZeroDivisionError("of layers")

three = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "parts.py").write_text("WIDTH = 4")
    (tmp_path / "nets" / "small.net.py").write_text(FILE)
    (tmp_path / "nets" / "broken.py").write_text("import no_such_module")
    (tmp_path / "nets" / "script.py").write_text("raise SystemExit('usage: ...')")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_network_of_ones_own_plain_and_keyed(folder):
    name = "nets/small.net.py:make"
    torch.manual_seed(0)
    net = create_model(name, 7).eval()
    scrambler, images = ImageScrambler(16, seed=3), torch.rand(2, 3, 16, 16)
    keyed = create_model(name + "_permuted", 7, scrambler).eval()
    keyed.load_state_dict(net.state_dict(), strict=True)
    torch.testing.assert_close(keyed(scrambler(images)), net(images))
    assert is_keyed(name + "_permuted") and not is_keyed(name)
    assert (folder / "runs.txt").read_text() == "run "  # once


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nets/none.py:make", "nets/none.py: no such file"),
        ("nets/small.net.py:no", "nets/small.net.py has no function 'no'"),
        ("nets/small.net.py:three", "nets/small.net.py has no function 'three'"),
        ("nets/small.net.py", "unknown network 'nets/small.net.py.*'; .* PATH.py:FACTORY"),
        ("nets/broken.py:make", "broken.py: raises ModuleNotFoundError: No module .*no_such"),
        ("nets/script.py:make", "script.py: raises SystemExit: usage"),
        ("torchvision:resnet19", "torchvision has no network 'resnet19'; .* such as resnet18"),
        ("elsewhere:resnet18", "unknown network 'elsewhere:resnet18.*'; .* timm:NAME"),
    ],
)
def test_names_that_mean_no_network(folder, name, message):
    for given in (name, name + "_permuted"):
        with pytest.raises(ValueError, match=message):
            check_name(given)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("make_list", "make_list returns a list; expected an nn.Module"),
        ("make_nothing", "make_nothing raises TypeError: .* 'num_classes'"),
        ("fail", "fail raises ZeroDivisionError: of layers"),
    ],
)
def test_factories_that_make_no_network(folder, factory, message):
    with pytest.raises(ValueError, match=f"nets/small.net.py:{message}"):
        create_model(f"nets/small.net.py:{factory}")


def test_records_show_no_folder():
    assert public_name("/home/me/nets/small.py:make_permuted") == "small.py:make_permuted"
    assert public_name("timm:resnet10t.c3_in1k") == "timm:resnet10t.c3_in1k"


def test_any_classifier_of_torchvision():
    net = create_model("torchvision:resnet18", num_classes=7).eval()
    assert net.fc.out_features == 7
    scrambler, images = ImageScrambler(32, seed=7), torch.rand(2, 3, 32, 32)
    keyed = create_model("torchvision:resnet18_permuted", 7, scrambler).eval()
    keyed.load_state_dict(net.state_dict(), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(keyed(scrambler(images)), net(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name", ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large", "fcn_resnet50"]
)
def test_create_model_builds_segmentation_networks_that_return_logits(name):
    net = create_model(f"torchvision:{name}", num_classes=5).eval()
    published = torchvision.models.get_model(name, num_classes=5, weights_backbone=None)
    assert list(net.state_dict()) == list(published.state_dict())
    scrambler, images = ImageScrambler((32, 48), seed=7), torch.rand(2, 3, 32, 48)
    keyed = create_model(f"torchvision:{name}_permuted", 5, scrambler).eval()
    keyed.load_state_dict(net.state_dict(), strict=True)
    with torch.no_grad():
        plain, found = net(images), keyed(scrambler(images))
    assert plain.shape == (2, 5, 32, 48) and keyed.report().share == 1
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)
    assert net.train()(images).shape == keyed.train()(scrambler(images)).shape == plain.shape


def test_networks_are_made_for_the_size_of_the_images():
    net = create_model("torchvision:vit_b_32", image_size=(64, 64))
    assert net.encoder.pos_embedding.shape[1] == 1 + 2 * 2


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is there")
def test_timm_is_asked_for_where_it_is_absent():
    with pytest.raises(ValueError, match="timm:resnet10t needs a package: pip install timm"):
        check_name("timm:resnet10t")


def test_networks_of_timm():
    pytest.importorskip("timm", reason="NO timm: pip install -r requirements-zoo.txt")
    scrambler, images = ImageScrambler(32, seed=7), torch.rand(2, 3, 32, 32)
    for name in ("timm:test_vit", "timm:test_resnet.r160_in1k"):
        torch.manual_seed(0)
        net = create_model(name, 7, image_size=(32, 32)).eval()
        keyed = create_model(f"{name}_permuted", 7, scrambler).eval()
        keyed.load_state_dict(net.state_dict(), strict=True)
        with torch.no_grad():
            torch.testing.assert_close(keyed(scrambler(images)), net(images), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"timm [\d.]+ has no network 'resnet19t'"):
        check_name("timm:resnet19t")
