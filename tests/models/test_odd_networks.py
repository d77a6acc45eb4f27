"""What people write that is not in the textbooks: exact in both modes, or refused with a reason."""

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth, nms

from models import KeyingError, key_network
from models.fold import fold_batch_norm, fold_keys
from models.keying import KeyedNetwork
from models.keying.output import flatten
from models.keying.plain import copied
from operators import ImageScrambler

SIZE = (8, 12)
SCRAMBLER = ImageScrambler(SIZE, seed=3)


def conv(channels: int = 4, **options) -> nn.Conv2d:
    return nn.Conv2d(channels, 4, 3, padding=1, **options)


class Net(nn.Module):
    """A convolution, and what a function makes of its map with other layers and buffers."""

    def __init__(self, function, buffers=(), **layers) -> None:
        super().__init__()
        self.stem, self.function = conv(3), function
        for name, value in dict(buffers).items():
            self.register_buffer(name, value)
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        return self.function(self, self.stem(x))


class OwnStride(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight, self.bias, 2)


class OtherWeight(nn.Conv2d):
    """Computes with another parameter than the one that it is named after."""

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.alternative = nn.Parameter(torch.rand(4, 4, 3, 3))

    def forward(self, x):
        return F.conv2d(x, self.alternative, self.bias)


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


class Weighed(torch.autograd.Function):
    """Two results of a map, a weight and the size of the batch, with gradients of its own."""

    @staticmethod
    def forward(x, weight, count, sign=1.0):
        return x * weight.view(-1, 1, 1) / count, sign * x.mean(1, keepdim=True)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:2])
        ctx.count = inputs[2]

    @staticmethod
    def backward(ctx, first, second):
        x, weight = ctx.saved_tensors
        return -ctx.count * first - second * weight.sum(), (first * x).sum((0, 2, 3)), None, None


def binary(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A map and a convolution in one bit."""
    return F.conv2d(StraightThrough.apply(x), StraightThrough.apply(net.a.weight)).flatten(1)


def weighed(net: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    first, second = Weighed.apply(x, net.a.bias, x.shape[0])
    return [net.a(first + second).flatten(1), second]


def recomputed(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return checkpoint(lambda y: binary(net, net.b(y)), x, use_reentrant=True)


class Once(nn.Module):
    """Calls layers a different number of times in the two modes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool, self.stem = conv(), nn.MaxPool2d(3, 1, 1), conv(3)

    def forward(self, x):
        x = self.pool(self.conv(self.stem(x)))
        return x.flatten(1) if self.training else self.pool(self.conv(x)).flatten(1)


class Frozen(nn.Module):
    @torch.no_grad()
    def forward(self, x):
        return x.relu()


def several(net, x):
    for _ in range(3):
        x = F.max_pool2d(net.norm(net.conv(x)), 2, ceil_mode=True)
    return x.flatten(1)


def seen_otherwise(net, x):
    rows = x.flatten(2)
    x += 1
    return rows.softmax(1).flatten(1)


def parts(net, x):
    x[:, :2] += 1
    x[:, :, 0] = 0
    x[:, 1].relu_()
    return net.conv(x).flatten(1)


def running(write):
    """Keeps the mean map of the batches that it trains on."""

    def function(net, x):
        if net.training:
            write(net, 0.1 * x.detach().mean(0))
        return net.conv(x - net.mean).flatten(1)

    return lambda: Net(function, {"mean": torch.zeros(4, *SIZE)}, conv=conv())


def histogram(net, x):
    bins = (x.flatten(1).sigmoid() * 8).long()
    counts = torch.zeros(len(x), 8, dtype=x.dtype)  # of no device: always on the CPU
    return counts.scatter_add(1, bins, x.flatten(1))


@dataclass
class Inner:
    map: torch.Tensor
    note: object = None


def hooked() -> nn.Module:
    net = nn.Sequential(conv(3), nn.ReLU(), conv(), nn.Flatten())
    net[0].register_forward_pre_hook(lambda module, given: (given[0] * 2,))
    net[1].register_forward_hook(lambda module, given, made: made + 1)
    net[3].register_full_backward_hook(lambda module, given, made: (given[0] * 2,))
    net[2].register_forward_hook(lambda module, given, made: made.flip(3))
    return net


def pruned() -> nn.Conv2d:
    layer = conv()
    prune.random_unstructured(layer, "weight", 0.5)
    return layer


def normed(wrap):
    return lambda: Net(lambda net, x: net.conv(x).flatten(1), conv=wrap(conv()))


EXACT = {
    "a stride of its own": lambda: Net(lambda n, x: n.a(x).flatten(1), a=OwnStride(4, 4, 3)),
    "another weight": lambda: Net(lambda n, x: n.a(x).flatten(1), a=OtherWeight(4, 4, 3)),
    "other calls in training": Once,
    "weight_norm": normed(parametrizations.weight_norm),
    "weight_norm by hooks": normed(nn.utils.weight_norm),
    "spectral_norm": normed(parametrizations.spectral_norm),
    "pruned": lambda: Net(lambda net, x: net.conv(x).flatten(1), conv=pruned()),
    "hooks": hooked,
    "a function with its own backward": lambda: Net(binary, a=conv()),
    "a function of several": lambda: Net(weighed, a=conv()),
    "a checkpoint": lambda: Net(recomputed, a=conv(), b=conv()),
    "batch-norm over all batches": lambda: Net(
        lambda n, x: n.a(x).flatten(1), a=nn.BatchNorm2d(4, momentum=None)
    ),
    "no_grad": lambda: Net(lambda n, x: n.b(n.a(x)).flatten(1), a=Frozen(), b=conv()),
    "batch-norm three times": lambda: Net(several, conv=conv(), norm=nn.BatchNorm2d(4)),
    "written into while seen otherwise": lambda: Net(seen_otherwise),
    "written into in parts": lambda: Net(parts, conv=conv()),
    "a mean map in place": running(lambda net, x: net.mean.mul_(0.9).add_(x)),
    "a mean map copied": running(lambda net, x: net.mean.copy_(torch.lerp(net.mean, x, 0.1))),
    "a mean map assigned": running(lambda net, x: setattr(net, "mean", 0.9 * net.mean + x)),
    "histogram": lambda: Net(histogram),
    "random in both modes": lambda: Net(lambda n, x: n.a(F.dropout(x, 0.4)).flatten(1), a=conv()),
    "stochastic depth": lambda: Net(
        lambda n, x: (x + n.b(n.a(x))).flatten(1), a=conv(), b=StochasticDepth(0.5, "row")
    ),
    "random places": lambda: Net(lambda n, x: n.a(x).flatten(1), a=nn.FractionalMaxPool2d(3, 5)),
    "dataclasses in others": lambda: Net(lambda n, x: {"a": [Inner(x.mean(1), Inner(x))], "b": 3}),
    "tokens of an encoder": lambda: Net(
        lambda n, x: n.a(x.flatten(2).mT)[:, 5],
        a=nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 1),
    ),
    "Fourier": lambda: Net(lambda n, x: torch.fft.rfft2(x).abs().flatten(1)),
    "grid": lambda: Net(
        lambda n, x: F.grid_sample(x, n.grid.expand(len(x), -1, -1, -1), align_corners=True).sum(1),
        {"grid": torch.rand(1, 5, 6, 2) * 2 - 1},
    ),
}  # fmt: skip


def hooked_map(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x.register_hook(lambda grad: 0.1 * grad)
    return x


def outputs(net: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    torch.manual_seed(7)  # for those that draw numbers
    return [y for y in flatten(net(x))[0] if isinstance(y, torch.Tensor)]


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
def test_is_exact_in_both_modes_and_only_with_the_key(name):
    torch.manual_seed(0)
    net = EXACT[name]().eval()
    keyed, x = key_network(net, SCRAMBLER), torch.rand(3, 3, *SIZE)
    net, keyed = copied(net, copy.deepcopy).double(), copied(keyed, copy.deepcopy).double()
    x = x.double()
    scrambled = SCRAMBLER(x)
    for training in (False, True, False):
        expected, found = outputs(net.train(training), x), outputs(keyed.train(training), scrambled)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
        if training:
            for made in (expected, found):
                sum(y.square().sum() for y in made if y.requires_grad).backward()
    for (path, p), twin in zip(net.named_parameters(), keyed.parameters(), strict=True):
        grads = (torch.zeros_like(p) if q.grad is None else q.grad for q in (twin, p))
        torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-8, msg=path)
    for path, value in net.state_dict().items():  # after a step of training
        torch.testing.assert_close(keyed.state_dict()[path], value, msg=path)
    without_key = outputs(keyed, x)
    assert any((a - b).abs().max() > 1e-3 for a, b in zip(without_key, expected, strict=True))


def compiled() -> nn.Module:
    return torch.compile(nn.Sequential(conv(3)))


def with_names(**layers) -> nn.Module:
    return Net(lambda net, x: x, **layers)


REFUSED = {
    "a choice of positions": (
        lambda: Net(lambda n, x: x[:, :, n.mask], {"mask": torch.eye(8, 12) > 0}),
        "forward: index: the size of its result depends on data",
    ),
    "detections": (
        lambda: Net(lambda n, x: nms(x[0, 0, :, :4], x[0, 0, :, 4], 0.5)),
        "forward: nms: the size of its result depends on data",
    ),
    "autocast": (
        lambda: Net(lambda n, x: torch.autocast("cpu", torch.bfloat16)(n.a)(x), a=conv()),
        "forward: autocast: it computes under autocast; call the whole network under it",
    ),
    "compiled": (compiled, "OptimizedModule: compile the keyed network"),
    "a Python word": (lambda: with_names(**{"in": conv()}), "^in: 'in' is a word of Python"),
    "two inputs": (lambda: nn.Bilinear(3, 3, 2), "missing 1 required positional argument"),
    "an object": (lambda: Net(lambda n, x: SCRAMBLER), "ImageScrambler.* in output"),
    "a hook on a tensor": (lambda: Net(hooked_map), "hook on a tensor would be lost"),
    "a function of a list": (
        lambda: Net(lambda n, x: Weighed.apply(x, [x], 2)[0]),
        "Weighed takes tensors and numbers by position, got a nested Tensor",
    ),
    "data": (lambda: Net(lambda n, x: 2 * x.data), "write x.detach"),
    "one image alone": (
        lambda: Net(lambda n, x: -x if x.shape[0] == 1 else x),
        "does otherwise for one image alone",
    ),
    "numpy": (lambda: Net(lambda n, x: torch.from_numpy(x.detach().numpy())), "numpy"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_with_the_reason_and_nothing_else_is_shown(name, capfd):
    make, reason = REFUSED[name]
    with pytest.raises(KeyingError, match=reason) as caught:
        key_network(make().eval(), SCRAMBLER)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_names_of_its_own_are_refused_before_they_mix():
    keyed = key_network(nn.Sequential(conv(3)), SCRAMBLER)
    uses = (lambda net: key_network(net, SCRAMBLER), lambda net: fold_batch_norm(net, SIZE))
    own = {*dir(KeyedNetwork), *vars(keyed), *keyed._modules, "image_key", "restore"}
    for name in sorted(own - {*dir(nn.Module()), "0"}):
        net = with_names()
        net._modules[name] = conv()
        for use in uses:
            with pytest.raises(KeyingError, match=rf"attribute '{name}' cannot be keyed"):
                use(net.eval())


def test_statistics_of_a_network_that_counts_are_left_alone():
    """Verifying runs networks; one that writes into its buffers must not notice."""

    def count(net, x):
        net.count += 1
        return (x * net.count).flatten(1)

    net = Net(count, {"count": torch.zeros(())}).eval()
    keyed = key_network(net, SCRAMBLER)
    folded = fold_keys(keyed)
    assert net.count == keyed.count == folded.count == 0
    for _ in range(2):
        torch.testing.assert_close(keyed(SCRAMBLER(x := torch.rand(2, 3, *SIZE))), net(x))
    assert keyed.count == 2


def test_mixed_precision_and_gradients_switched_off():
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = conv(3).half(), nn.Linear(4, 3)

        def forward(self, x):
            return self.fc(self.conv(x.half()).float().amax((2, 3)))

    net, x = Mixed().eval(), torch.rand(2, 3, *SIZE)
    torch.testing.assert_close(key_network(net, SCRAMBLER)(SCRAMBLER(x)), net(x))
    frozen = Net(lambda n, x: n.b(n.a(x)).flatten(1), a=Frozen(), b=conv()).eval()
    for switch in (torch.no_grad, torch.inference_mode):
        with switch():
            keyed = key_network(frozen, SCRAMBLER)
        keyed(SCRAMBLER(x)).sum().backward()
        assert keyed.stem.weight.grad is None and keyed.b.weight.grad.any()
