"""models/per_image.py: every map under a key of each image, and the plain network's logits."""

import pytest
import torch
from torch import nn

from models.per_image import PerImageNetwork
from operators import Key, PerImageScrambler
from operators.key import new_nonces

SECRET = Key(bytes(range(32)))


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
    net.second.register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0]), prepend=True)
    received = keyed(scrambler.forward(images, nonces), nonces)
    torch.testing.assert_close(received, expected, rtol=1e-12, atol=1e-12)
    for seen, plain, nonce in zip(maps[0].flatten(2), natural, nonces, strict=True):
        key = SECRET.permutation(64, index=1, nonce=nonce)
        torch.testing.assert_close(seen, plain[:, key])


def test_refuses_single_values():
    with pytest.raises(ValueError, match="single values"):
        PerImageNetwork(nn.Identity(), PerImageScrambler(8, SECRET, values=True))
