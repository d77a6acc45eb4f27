"""models/per_image.py: every map under a key of each image, and the plain network's logits."""

import copy
import pickle

import pytest
import torch
import torchvision
from torch import nn

from models import KeyingError, create_model
from models.per_image import PerImageNetwork
from operators import PerImageScrambler, SecretKey
from operators.key import new_nonces
from tests.models.test_key_network import CASES, SIZE, Auxiliary

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


def ready(net: nn.Module, size=8) -> tuple[PerImageNetwork, torch.Tensor, tuple]:
    """The keyed network, images, and the arguments that it takes for them."""
    scrambler = PerImageScrambler(size, SECRET)
    images, nonces = torch.rand(2, 3, *scrambler.image_size), new_nonces(2)
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


QUICK = ("roll", "tokens", "attention by hand", "pixel shuffle", "decoder", "residual", "mixer")
OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in CASES if name not in QUICK]


@pytest.mark.parametrize("name", [*QUICK, *OTHERS])
@torch.no_grad()
def test_networks_of_every_kind_are_exact(name):
    torch.manual_seed(0)
    net = CASES[name]().eval()
    keyed, images, sent = ready(net, SIZE)
    torch.testing.assert_close(keyed(*sent), net(images), rtol=1e-4, atol=1e-5)
    assert keyed.net.report().share > 0.7
    other = PerImageScrambler(SIZE, SECRET).scramble(images, [b"a", b"b"])
    torch.testing.assert_close(keyed(other, [b"a", b"b"]), net(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["shufflenet_v2_x0_5", pytest.param("swin_t", marks=pytest.mark.slow)]
)
@torch.no_grad()
def test_networks_of_torchvision(name):
    torch.manual_seed(0)
    net = torchvision.models.get_model(name, num_classes=5).eval()
    keyed, images, sent = ready(net, 64)
    torch.testing.assert_close(keyed(*sent), net(images), rtol=1e-3, atol=1e-4)


def test_what_another_path_trains_is_exact_too():
    net = Auxiliary().double()
    for given in (copy.deepcopy(net), copy.deepcopy(net).eval()):
        keyed, images, sent = ready(given, SIZE)
        torch.manual_seed(1)
        found = keyed.train()(sent[0].double(), sent[1])
        torch.manual_seed(1)
        torch.testing.assert_close(found, given.train()(images.double()))
        found = keyed.eval()(sent[0].double(), sent[1])
        torch.testing.assert_close(found, given.eval()(images.double()))


def test_an_empty_batch():
    keyed, images, _ = ready(Residual())
    assert keyed(images[:0], []).shape == (0, 5)


def test_what_cannot_be_exported_is_refused_with_the_reason():
    class Odd(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(KeyingError, match="depends on the values"):
        PerImageNetwork(nn.Sequential(nn.Conv2d(3, 2, 3), Odd()), PerImageScrambler(8, SECRET))


def test_verification_finds_a_wrong_rule(monkeypatch):
    from models.keying import rules  # noqa: F401
    from models.keying.registry import RULES

    monkeypatch.setitem(RULES, torch.ops.aten.roll, RULES[torch.Tag.pointwise])
    with pytest.raises(KeyingError, match="differs from the plain one"):
        PerImageNetwork(CASES["roll"](), PerImageScrambler(SIZE, SECRET))
