"""Keys of blocks are keys like any other: offsets, any network, folding, a key for each image."""

import copy

import pytest
import torch
from torch import nn

from models import key_network
from models.fold import fold_keys
from models.per_image import PerImageNetwork
from operators import ImageScrambler, KeyedConv2d, PerImageScrambler, SecretKey, make_scrambler
from operators.block_ciphers import BlockCipher, keyed_parts
from operators.key import new_nonces

SECRET = SecretKey(bytes(range(32)))
SIZE = (16, 24)
KEYS = ({"seed": 1312}, {"secret": SECRET})


class Residual(nn.Module):
    """Convolutions, a branch, pooling and a head that sees where things are; no two maps alike."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.last = nn.Conv2d(8, 5, (8, 12))

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.last(self.pool(x + self.second(x))).flatten(1)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return Residual().double().eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, *SIZE, dtype=torch.double)


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["deform", "gather"])
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("block", [1, 4, 8])
def test_any_network(net, images, block, key, backend):
    scrambler = ImageScrambler(SIZE, block=block, **key)
    keyed = key_network(net, scrambler, backend=backend)
    same(keyed(scrambler(images)), net(images))
    assert (net(scrambler(images)) - net(images)).abs().max() > 1e-3
    same(fold_keys(copy.deepcopy(keyed))(scrambler(images)), net(images))


@pytest.mark.parametrize("key", KEYS)
def test_the_layers_keys_are_those_without_blocks(net, key):
    blocks, pixels = ImageScrambler(SIZE, block=8, **key), ImageScrambler(SIZE, **key)
    first, second = (
        [m for m in key_network(net, scrambler).modules() if isinstance(m, KeyedConv2d)]
        for scrambler in (blocks, pixels)
    )
    assert len(first) > 1
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.out_key, b.out_key)
    assert not torch.equal(first[0].in_key, second[0].in_key)
    assert torch.equal(first[0].in_key, blocks.key)


def test_a_key_for_each_image(net, images):
    scrambler, nonces = PerImageScrambler(SIZE, SECRET, block=8), new_nonces(2)
    received = scrambler.scramble(images, nonces)
    same(key_network(net, scrambler.fixed)(scrambler.rekey(received, nonces)), net(images))
    same(PerImageNetwork(net, scrambler)(received, nonces), net(images))


@pytest.mark.parametrize("key", KEYS)
def test_etc_is_a_block_key_and_what_is_undone_at_the_input(net, key):
    images = torch.randint(256, (2, 3, *SIZE), dtype=torch.uint8)
    scrambler = make_scrambler("etc:8", SIZE, **key)
    assert isinstance(scrambler, BlockCipher)
    pixels, undo = keyed_parts(scrambler)
    same(key_network(net, pixels)(undo(scrambler(images)).double()), net(images.double()))
