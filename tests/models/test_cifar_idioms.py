"""Networks in the idioms of public CIFAR repositories: sizes as numbers, ``len``, views."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import key_network
from operators import ImageScrambler

SIZE = (16, 16)


class Idiom(nn.Module):
    """A stem with batch-norm, and what an idiom makes of its map."""

    def __init__(self, function, features: int) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.fc, self.function = nn.Linear(features, 5), function

    def forward(self, x):
        return self.fc(self.function(self, F.relu(self.norm(self.stem(x)))))


def shuffle(x, groups=2):
    n, c, h, w = x.data.size()
    x = x.view(n, groups, c // groups, h, w)
    return torch.transpose(x, 1, 2).contiguous().view(n, -1, h, w)


def functional_norm(net, x):
    norm = net.norm
    x = F.batch_norm(net.conv(x), norm.running_mean, norm.running_var, norm.weight, norm.bias)
    return F.avg_pool2d(x, x.size()[3]).view(x.size(0), -1)


def squeeze(net, x):
    y = x.view(x.size(0), x.size(1), -1).mean(-1)
    return (x * torch.sigmoid(y)[:, :, None, None]).amax((2, 3))


def dense(net, x):
    features = [x]
    for _ in range(2):
        features.append(F.relu(net.conv(torch.cat(features[-1:], 1))))
    return F.adaptive_avg_pool2d(torch.cat(features, 1), 1).squeeze(-1).squeeze(-1)


def padded_shortcut(net, x):
    y = net.conv(x)[:, :, ::2, ::2]
    short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
    return (torch.cat([y, y], 1) + short).mean([2, 3])


def space_to_depth(net, x):
    n, c, h, w = x.shape
    x = x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(n, -1, h // 2, w // 2)
    return x.mean((2, 3))


def attention(net, x):
    n, c = x.shape[:2]
    q = k = v = x.reshape(n, c, -1).transpose(1, 2)
    return F.softmax(q @ k.mT / c**0.5, dim=-1).matmul(v).mean(1)


def patches(net, x):
    n, c, h, w = x.shape
    x = x.unfold(2, 4, 4).unfold(3, 4, 4)
    return x.reshape(n, c, (h // 4) * (w // 4), 16).mean(2).flatten(1)


NETS = {
    "avg_pool2d of the size": (lambda net, x: F.avg_pool2d(x, x.size()[3]).view(len(x), -1), 8),
    "view(x.size(0), -1)": (lambda net, x: F.max_pool2d(x, 4).view(x.size(0), -1), 128),
    "arithmetic of sizes": (lambda net, x: x[:, :, : x.shape[2] // 2].reshape(len(x), -1), 1024),
    "size of the batch by len": (lambda net, x: net.conv(x).reshape(len(x), -1), 2048),
    "functional batch-norm": (functional_norm, 8),
    "channel shuffle": (lambda net, x: net.conv(shuffle(x)).flatten(1), 2048),
    "squeeze and excite": (squeeze, 8),
    "dense": (dense, 24),
    "shortcut padded with zeros": (padded_shortcut, 16),
    "space to depth": (space_to_depth, 32),
    "attention by hand": (attention, 8),
    "patches by unfold": (patches, 128),
    "split": (lambda net, x: torch.cat(torch.split(x, 4, 1)[::-1], 1).mean(-1).mean(-1), 8),
    "max of a dimension": (lambda net, x: x.flatten(2).max(2)[0] * x.size(2) / x.size(3), 8),
    "in place": (lambda net, x: net.conv(x).add_(x).relu_().mean((-2, -1)), 8),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_is_exact_in_both_modes(name):
    torch.manual_seed(0)
    net, scrambler = Idiom(*NETS[name]).eval(), ImageScrambler(SIZE, seed=2)
    keyed, x = key_network(net, scrambler), torch.rand(3, 3, *SIZE)
    torch.testing.assert_close(keyed(scrambler(x)), net(x), rtol=1e-4, atol=1e-5)
    found, expected = keyed.train()(scrambler(x)), net.train()(x)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(keyed.norm.running_var, net.norm.running_var)
    assert keyed.report().share >= 0.7
