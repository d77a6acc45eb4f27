"""models/per_image.py: every map under a key of each image, and the plain network's logits."""

import copy
import pickle

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from models import KeyingError, create_model
from models.per_image import PerImageNetwork
from operators import PerImageScrambler, SecretKey
from operators.key import new_nonces

SECRET = SecretKey(bytes(range(32)))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.last = nn.Conv2d(8, 5, 4)

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.last(self.pool(x + self.second(x))).flatten(1)


def test_logits_and_maps():
    torch.manual_seed(0)
    net, scrambler = Residual().double(), PerImageScrambler(8, SECRET)
    images, nonces = torch.rand(3, 3, 8, 8, dtype=torch.double), new_nonces(3)
    expected, natural = net(images), torch.relu(net.first(images)).flatten(2)
    keyed = PerImageNetwork(net, scrambler)
    maps = []
    keyed.net.second.register_forward_pre_hook(
        lambda _, inputs: maps.append(inputs[0]), prepend=True
    )
    received = keyed(scrambler.scramble(images, nonces), nonces)
    torch.testing.assert_close(received, expected, rtol=1e-12, atol=1e-12)
    for seen, plain, nonce in zip(maps[0].flatten(2), natural, nonces, strict=True):
        key = SECRET.permutation(64, index=1, nonce=nonce)
        torch.testing.assert_close(seen, plain[:, key])


def test_refuses_single_values():
    with pytest.raises(ValueError, match="single values"):
        PerImageNetwork(nn.Identity(), PerImageScrambler(8, SECRET, values=True))


def ready(net: nn.Module, size: int = 8) -> tuple[PerImageNetwork, torch.Tensor, tuple]:
    """The keyed network, images, and the arguments that it takes for them."""
    scrambler = PerImageScrambler(size, SECRET)
    images, nonces = torch.rand(2, 3, size, size), new_nonces(2)
    return PerImageNetwork(net, scrambler), images, (scrambler.scramble(images, nonces), nonces)


@pytest.mark.parametrize("name", ["vgg16", "preresnet20"])
@torch.no_grad()
def test_the_projects_networks(name):
    torch.manual_seed(0)
    net = create_model(name).eval()
    keyed, images, sent = ready(net, 32)
    expected = net(images)
    found, without_key = ((keyed(x, sent[1]) - expected).abs().max() for x in (sent[0], images))
    assert found < 1e-5 * expected.abs().max() and without_key > 1e3 * found


def test_the_given_network_is_left_alone():
    net = Residual()
    keyed, _, sent = ready(net)
    expected = keyed(*sent)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert net.training and not set(net.modules()) & set(keyed.modules())
    nn.init.zeros_(net.first.weight)
    torch.testing.assert_close(keyed(*sent), expected)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_runs_by_itself(copied):
    keyed, _, sent = ready(Residual())
    twin, expected = copied(keyed), keyed(*sent)
    keyed(sent[0].flip(0), new_nonces(2))  # the keys of another batch
    torch.testing.assert_close(twin(*sent), expected)
    nn.init.zeros_(keyed.net.first.weight)
    torch.testing.assert_close(twin(*sent), expected)


def test_gradients_are_the_plain_networks():
    net = Residual().double()
    keyed, images, sent = ready(net)
    net(images.double()).square().sum().backward()
    keyed(sent[0].double(), sent[1]).square().sum().backward()
    for (name, plain), found in zip(net.named_parameters(), keyed.parameters(), strict=True):
        torch.testing.assert_close(found.grad, plain.grad, msg=name)


class Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def small_vgg11_bn() -> nn.Module:
    net = torchvision.models.vgg11_bn(num_classes=5)
    net.classifier = nn.Linear(512 * 7 * 7, 5)  # the three layers in its place are 0.5 GB
    return net


DIFFERENT = {
    "a pooling function": (lambda: Function(lambda x: F.max_pool2d(x, 8).flatten(1)), 16),
    "flattened positions": (lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten()), 8),
    "maps returned": (lambda: nn.Conv2d(3, 2, 3), 8),
    "rolled": (lambda: nn.Sequential(Function(lambda x: x.roll(1, 3)), nn.Conv2d(3, 2, 8)), 8),
    "torchvision's vgg11_bn, adaptive pooling": (small_vgg11_bn, 64),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_refuses_what_it_would_compute_wrongly(name):
    torch.manual_seed(0)
    make, size = DIFFERENT[name]
    with pytest.raises(KeyingError, match="differs from the plain one"):
        PerImageNetwork(make(), PerImageScrambler(size, SECRET))


def test_verification_finds_a_layer_that_was_not_keyed(monkeypatch):
    monkeypatch.setattr("models.per_image.SPATIAL", (nn.Conv2d,))
    with pytest.raises(KeyingError, match="differs from the plain one"):
        PerImageNetwork(Residual(), PerImageScrambler(8, SECRET))
