"""``key_network`` on small networks, one per kind of operation, and on what it must refuse."""

import copy
import gc
import os
import subprocess
import sys
import textwrap
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import KeyingError, key_network, keying
from operators import ImageScrambler, KeyedConv2d, KeyedMaxPool2d

SIZE = (8, 12)


class Net(nn.Module):
    """A stem, some function of its map, and a head that sees where things are."""

    def __init__(self, function, stem=None, **layers) -> None:
        super().__init__()
        self.stem = stem or nn.Conv2d(3, 4, 3, padding=1)
        self.layers = nn.ModuleDict(layers)
        self.function = function

    def forward(self, x):
        return self.function(self.stem(x), self.layers)


def conv(**options) -> nn.Conv2d:
    return nn.Conv2d(4, 4, 3, padding=1, **options)


def heads(x, heads=2):
    """``(N, C, H, W)`` -> ``(N, heads, H*W, C / heads)``, as hand-written attention does."""
    n, c, h, w = x.shape
    return x.flatten(2).reshape(n, heads, c // heads, h * w).transpose(2, 3)


def attention(x, layers):
    q, k, v = heads(x), heads(layers["k"](x)), heads(layers["v"](x))
    weights = (q @ k.transpose(-2, -1) * 0.5).softmax(dim=-1)
    return (weights @ v).transpose(2, 3).flatten(1)


def tokens(x, layers):
    t = x.flatten(2).transpose(1, 2)
    t = torch.cat([layers["token"](t.mean(1, keepdim=True)), t], dim=1)
    t = t + layers["position"].weight
    t = layers["norm"](t)
    t = t + layers["attention"](t, t, t, need_weights=False)[0]
    return layers["encoder"](t)[:, 0]


def shuffle(x, layers):
    n, c, h, w = x.size()
    x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
    a, b = x.chunk(2, dim=1)
    return torch.cat([a, torch.relu(b)], dim=1).flatten(1)


def squeeze_excite(x, layers):
    scale = torch.sigmoid(layers["fc"](F.adaptive_avg_pool2d(x, 1)))
    return layers["conv"](x * scale).flatten(1)


def single(**layers):
    def run(x, layers):
        for layer in layers.values():
            x = layer(x)
        return x.flatten(1)

    return Net(run, **layers)


def net(function, **layers):
    return Net(function, **layers)


CASES = {
    "flatten": lambda: single(),
    "stride": lambda: single(a=nn.Conv2d(4, 6, 3, stride=2), b=nn.Conv2d(6, 4, (1, 3))),
    "dilation": lambda: single(a=nn.Conv2d(4, 4, 3, dilation=2, padding=2, groups=2)),
    "depthwise": lambda: single(a=conv(groups=4), b=nn.Conv2d(4, 8, 1)),
    "same": lambda: single(a=conv(), b=nn.Conv2d(4, 4, (3, 2), padding="same")),
    "valid": lambda: single(a=nn.Conv2d(4, 4, 3, padding="valid")),
    "reflect": lambda: single(a=conv(padding_mode="reflect"), b=conv(padding_mode="circular")),
    "transposed": lambda: single(a=nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1)),
    "pooling": lambda: single(
        a=nn.MaxPool2d(3, 1, 1), b=nn.AvgPool2d(2, ceil_mode=True), c=nn.LPPool2d(2, 2)
    ),
    "adaptive": lambda: single(a=nn.AdaptiveAvgPool2d((5, 7)), b=nn.AdaptiveMaxPool2d(3)),
    "normalisation": lambda: single(
        a=nn.BatchNorm2d(4), b=nn.GroupNorm(2, 4), c=nn.InstanceNorm2d(4, affine=True)
    ),
    "layer norm over a map": lambda: single(a=nn.LayerNorm((4, *SIZE))),
    "interpolation": lambda: single(
        a=nn.Upsample(scale_factor=2), b=nn.Upsample(size=(5, 9), mode="bilinear"), c=conv()
    ),
    "one row": lambda: single(
        a=nn.AdaptiveAvgPool2d((1, 6)), b=nn.Flatten(2), c=nn.Unflatten(2, (1, 6)), d=conv()
    ),
    "pixel shuffle": lambda: single(a=nn.PixelShuffle(2), b=nn.PixelUnshuffle(2), c=conv()),
    "padding": lambda: single(a=nn.ReflectionPad2d(2), b=nn.ZeroPad2d((0, 1, 2, 0)), c=conv()),
    "unflatten": lambda: single(a=nn.Flatten(2), b=nn.Unflatten(2, SIZE), c=conv()),
    "residual": lambda: net(lambda x, m: torch.relu(x + m["a"](x)).flatten(1), a=conv()),
    "in place": lambda: net(
        lambda x, m: m["b"](m["a"](x).add_(x).relu_()).mean((2, 3)), a=conv(), b=conv()
    ),
    "dense": lambda: net(
        lambda x, m: m["b"](torch.cat([x, m["a"](x)], 1)).flatten(1), a=conv(), b=nn.Conv2d(8, 2, 3)
    ),
    "called twice": lambda: net(lambda x, m: m["a"](torch.relu(m["a"](x))).flatten(1), a=conv()),
    "functional pools": lambda: net(
        lambda x, m: F.avg_pool2d(F.max_pool2d(x, 2), 3, 1, 1).flatten(1)
    ),
    "global mean": lambda: net(lambda x, m: x.mean((2, 3))),
    "mean of rows": lambda: net(lambda x, m: (x * x.mean(2, keepdim=True)).mean(3).flatten(1)),
    "coordinates": lambda: net(lambda x, m: (x + torch.arange(12.0).to(x)).flatten(1)),
    "slices": lambda: net(lambda x, m: m["a"](x[:, :, 1::2, :-3]).flatten(1), a=conv()),
    "roll": lambda: net(lambda x, m: m["a"](torch.roll(x, (1, 2), (2, 3))).flatten(1), a=conv()),
    "map transposed": lambda: net(lambda x, m: m["a"](x.transpose(2, 3)).flatten(1), a=conv()),
    "channels last": lambda: net(
        lambda x, m: m["b"](m["a"](x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2).flatten(1),
        a=nn.LayerNorm(4), b=nn.Linear(4, 3),
    ),
    "mixer": lambda: net(lambda x, m: m["a"](x.flatten(2)).relu().flatten(1), a=nn.Linear(96, 40)),
    "shuffle": lambda: net(shuffle),
    "squeeze and excite": lambda: net(squeeze_excite, fc=nn.Conv2d(4, 4, 1), conv=conv()),
    "attention by hand": lambda: net(attention, k=conv(), v=conv()),
    "tokens": lambda: net(
        tokens,
        token=nn.Linear(4, 4),
        position=nn.Embedding(97, 4),
        norm=nn.LayerNorm(4),
        attention=nn.MultiheadAttention(4, 2, batch_first=True),
        encoder=nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
    ),
    "decoder": lambda: net(
        lambda x, m: m["b"](F.interpolate(m["a"](F.adaptive_avg_pool2d(x, 1)), size=(6, 6))),
        a=nn.Conv2d(4, 4, 1), b=conv(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("backend", ["deform", "gather"])
@pytest.mark.parametrize("name", CASES)
def test_keyed_network_gives_the_plain_outputs(name, backend):
    torch.manual_seed(0)
    plain = CASES[name]().eval()
    scrambler = ImageScrambler(SIZE, seed=3)
    keyed = key_network(plain, scrambler, backend=backend).eval()
    assert list(keyed.state_dict()) == list(plain.state_dict())
    x = torch.rand(3, 3, *SIZE)  # another batch size than the one it was traced with
    expected = plain(x)
    torch.testing.assert_close(keyed(scrambler(x)), expected, rtol=1e-4, atol=1e-5)


RESTORED = {
    "sort": lambda x, m: torch.sort(x, dim=2).values.flatten(1),
    "positions": lambda x, m: x.flatten(2).argmax(2).float(),
    "indices": lambda x, m: F.max_pool2d(x, 2, return_indices=True)[1].float().flatten(1),
    "positions in the batch": lambda x, m: x.flatten(0, 2).sum(1).view(-1, 32),
    "axes apart": lambda x, m: m["a"](x.permute(0, 2, 1, 3).flatten(2)).flatten(1),
    "parts": lambda x, m: torch.cat(x.chunk(2, dim=3)[::-1], 1).flatten(1),
    "unfold": lambda x, m: F.unfold(x, 3, padding=1).flatten(1),
    "written into": lambda x, m: _cleared(x).flatten(1),
    "repeated": lambda x, m: x.repeat(1, 1, 2, 1).flatten(1),
}


def _cleared(x):
    x = x.clone()
    x[:, :, 1:3] = 0
    return x


@pytest.mark.parametrize("name", RESTORED)
def test_operations_of_every_kind_are_exact(name):
    torch.manual_seed(0)
    plain = Net(RESTORED[name], a=nn.Linear(48, 8)).eval()
    scrambler, x = ImageScrambler(SIZE, seed=3), torch.rand(3, 3, *SIZE)
    keyed = key_network(plain, scrambler)
    torch.testing.assert_close(keyed(scrambler(x)), plain(x), rtol=1e-4, atol=1e-5)


def test_what_has_no_rule_is_restored_and_reported_or_refused():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.linalg.matrix_exp(x)

    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.ReLU(), Odd()), nn.Conv2d(4, 4, 1))
    scrambler = ImageScrambler(8, seed=0)
    report = key_network(net.eval(), scrambler).report()
    assert [(row.module, row.operator) for row in report.restored] == [("1.1", "Odd")]
    results = [(row.module, row.rule, row.result) for row in report.rows]
    assert results == [
        ("0", "conv2d", "scrambled"),
        ("1.0", "pointwise", "scrambled"),
        ("1.1", "restored", "natural"),
        ("2", "conv2d", "scrambled"),
    ]
    assert report.share == 0.75 and str(report).endswith("75.0% of the maps' bytes stay scrambled")
    with pytest.raises(KeyingError, match=r"^1\.1: Odd: has no rule"):
        key_network(net, scrambler, strict=True)


def test_the_report_names_modules_that_are_no_longer_called():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.conv, self.act = nn.Conv2d(3, 4, 1), conv(), nn.ReLU()
            self.pool, self.attention = nn.MaxPool2d(2), nn.MultiheadAttention(4, 2)

        def forward(self, x):
            x = self.pool(self.act(self.conv(self.pool(self.act(self.first(x))))))
            t = x.flatten(2).permute(2, 0, 1)
            return self.attention(t, t, t)[0]

    net, scrambler = Twice().eval(), ImageScrambler(SIZE, seed=0)
    keyed, seen = key_network(net, scrambler), []
    for name, module in keyed.named_modules():
        if hasattr(net, name):
            module.register_forward_hook(lambda *_, name=name: seen.append(name))
    keyed(scrambler(torch.rand(2, 3, *SIZE)))
    assert keyed.report().lost == ("pool", "attention")
    assert sorted(seen) == ["act", "act", "conv", "first"]
    assert "attention: is no longer called" in str(keyed.report())


FIRST = {
    "a layer": lambda: nn.Conv2d(3, 4, 3),
    "an operator": lambda: nn.Conv2d(3, 4, 3, padding_mode="reflect", padding=1),
    "behind a view": lambda: nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 4, 3)),
}


@pytest.mark.parametrize("name", FIRST)
def test_the_first_map_and_its_key(name):
    net, scrambler, seen = FIRST[name]().eval(), ImageScrambler(SIZE, seed=0), []
    x = torch.rand(2, 3, *SIZE)
    keyed = key_network(net, scrambler)
    module, key = keyed.first_map
    module.register_forward_hook(lambda *call: seen.append(call[2]))
    keyed(scrambler(x))
    torch.testing.assert_close(seen[0].flatten(2), net(x).flatten(2)[..., key])
    linear = nn.Sequential(nn.Flatten(), nn.Linear(288, 2))
    assert key_network(linear, scrambler).first_map is None


def test_what_cannot_be_exported_names_the_module_and_the_reason():
    class Odd(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    class Fixed(nn.Module):
        def forward(self, x):
            return x.reshape(2, -1)

    scrambler = ImageScrambler(SIZE, seed=0)
    line = Fixed.forward.__code__.co_firstlineno + 1
    fixed = rf"size of the batch \(test_key_network.py, line {line}\)"
    for odd, reason in ((Odd(), "depends on the values"), (Fixed(), fixed)):
        with pytest.raises(KeyingError, match=reason):
            key_network(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.ReLU(), odd)), scrambler)
    with pytest.raises(KeyingError, match=r"^1: BatchNorm2d: cannot be exported: "):
        key_network(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(3)), scrambler)


def test_verification_finds_a_wrong_rule(monkeypatch):
    from models.keying import rules  # noqa: F401
    from models.keying.registry import RULES

    aten = torch.ops.aten
    monkeypatch.setitem(RULES, aten.roll, RULES[torch.Tag.pointwise])
    with pytest.raises(KeyingError, match="differs from the plain one"):
        key_network(Net(lambda x, m: torch.roll(x, 1, 3)), ImageScrambler(SIZE, seed=0))


def test_every_rule_says_what_it_makes_of_which_shape():
    from models.keying import rules  # noqa: F401
    from models.keying.registry import RULES

    for rule in RULES.values():
        first = rule.__doc__.splitlines()[0]
        assert "(" in first and "->" in first, rule


def test_the_worked_example_says_what_happens():
    text = keying.__doc__.partition(":\n\n")[2]
    code, _, rest = text.partition("\n\n**Exporting**")
    names = {"nn": nn, "F": F, "torch": torch}
    exec(textwrap.dedent(code), names)
    net, scrambler = names["Small"]().eval(), ImageScrambler(SIZE, seed=0)
    keyed, x = key_network(net, scrambler), torch.rand(2, 3, *SIZE)
    torch.testing.assert_close(keyed(scrambler(x)), net(x))
    table = [line.split()[0] for line in rest.splitlines() if "(N, " in line and line[:4] == "    "]
    rows = [(row.operator, row.module, row.result) for row in keyed.report().rows]
    assert ["x", *(m if m != "forward" else name for name, m, _ in rows)] == table
    results = [result for *_, result in rows]
    assert results == ["scrambled"] * 5 + ["features"] * 2
    assert torch.equal(keyed.conv.out_key, scrambler.key)  # k1 is fixed to k0
    pool = next(m for m in keyed.keying.modules() if isinstance(m, KeyedMaxPool2d))
    assert torch.equal(pool.in_key, scrambler.key)
    assert torch.equal(pool.out_key, scrambler.layer_keys().draw(24))  # k2 is the first drawn


def test_features_between_layers_are_scrambled_by_their_own_keys():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
    scrambler = ImageScrambler(SIZE, seed=0)
    keyed = key_network(net, scrambler)
    x = torch.rand(1, 3, *SIZE)
    seen = {}
    for name in ("0", "2"):
        layer = keyed.get_submodule(name)
        layer.register_forward_hook(lambda m, i, o, name=name: seen.update({name: o}))
    keyed(scrambler(x))
    for name in ("0", "2"):
        natural = net[: int(name) + 1](x)
        key = keyed.get_submodule(name).out_key
        assert not torch.allclose(seen[name], natural, atol=1e-3)
        torch.testing.assert_close(seen[name].flatten(2), natural.flatten(2)[:, :, key])
    keys = [scrambler.key, *(keyed.get_submodule(n).out_key for n in ("0", "2"))]
    assert len({tuple(key.tolist()) for key in keys}) == 3


def test_maps_that_meet_share_one_key():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))

        def forward(self, x):
            a = self.a(x)
            return (a + self.c(self.b(a))).mean((2, 3))

    keyed = key_network(Residual(), ImageScrambler(SIZE, seed=0))
    assert torch.equal(keyed.a.out_key, keyed.c.out_key)
    assert not torch.equal(keyed.a.out_key, keyed.b.out_key)
    stream = ImageScrambler(SIZE, seed=0).layer_keys()
    assert torch.equal(keyed.a.out_key, stream.draw(96))
    assert torch.equal(keyed.b.out_key, stream.draw(96))


def test_dense_outputs_are_natural_or_under_the_returned_key():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Upsample(scale_factor=2)).eval()
    scrambler, x = ImageScrambler(SIZE, seed=0), torch.rand(2, 3, *SIZE)
    torch.testing.assert_close(key_network(net, scrambler)(scrambler(x)), net(x))
    keyed = key_network(net, scrambler, scramble_output=True)
    y = keyed(scrambler(x))
    assert not torch.allclose(y, net(x))
    torch.testing.assert_close(keyed.output_keys.unscramble(y), net(x))


def test_a_client_restores_a_label_map_without_the_network(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Upsample(size=(5, 7))).eval()
    scrambler, x = ImageScrambler(SIZE, seed=9), torch.rand(2, 3, *SIZE)
    labels = key_network(net, scrambler, scramble_output=True)(scrambler(x))
    torch.save(labels, tmp_path / "labels.pt")
    code = (
        "import sys, torch; from operators import ImageScrambler\n"
        "labels = torch.load('labels.pt')\n"
        "key = ImageScrambler((8, 12), seed=9).for_output(labels.shape[-2:])\n"
        "torch.save(key.unscramble(labels), 'restored.pt'); assert 'models' not in sys.modules"
    )
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
    torch.testing.assert_close(torch.load(tmp_path / "restored.pt"), net(x))
    assert not torch.allclose(labels, net(x))


def test_is_an_ordinary_module():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(384, 2)
    )
    scrambler, x = ImageScrambler(SIZE, seed=0), torch.rand(4, 3, *SIZE)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    keyed = key_network(net, scrambler)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert isinstance(keyed.get_submodule("0"), KeyedConv2d) and type(net[0]) is nn.Conv2d
    assert [n for n, _ in keyed.named_parameters()] == [n for n, _ in net.named_parameters()]
    assert keyed.training and not keyed.eval().training and not keyed.get_submodule("1").training
    twin = copy.deepcopy(keyed.train())
    twin(scrambler(x)).sum().backward()
    assert all(p.grad is not None for p in twin.parameters())
    assert all(p.grad is None for p in keyed.parameters())
    twin.load_state_dict(net.state_dict())
    torch.testing.assert_close(twin.eval()(scrambler(x)), net.eval()(x))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(twin(scrambler(x)), net(x), rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(twin.double()(scrambler(x.double())), net.double()(x.double()))


class Caching(nn.Module):
    """Keeps what it made of a parameter, as some attention does with its biases."""

    def __init__(self):
        super().__init__()
        self.conv, self.bias, self.cache = nn.Conv2d(3, 4, 3), nn.Parameter(torch.ones(4)), None

    def forward(self, x):
        if self.cache is None:
            self.cache = self.bias.exp()
        return (self.conv(x).flatten(2).mT * self.cache).mean(1)


def test_a_network_that_keeps_what_it_made_is_left_as_it_is():
    net, scrambler, x = Caching().eval(), ImageScrambler(SIZE, seed=0), torch.rand(2, 3, *SIZE)
    keyed = key_network(net, scrambler)
    assert net.cache is None
    torch.testing.assert_close(keyed(scrambler(x)), net(x))


def test_every_module_is_in_the_mode_of_the_plain_one():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.Upsample(scale_factor=2)
    )
    for training in (True, False):
        net.train(training)[2].train(not training)
        keyed = key_network(net, ImageScrambler(SIZE, seed=0))
        modes = {name: m.training for name, m in keyed.named_modules()}
        assert {on for name, on in modes.items() if name.startswith("2")} == {not training}
        assert {on for name, on in modes.items() if not name.startswith("2")} == {training}
        assert "keying" in modes


def test_weights_are_freed_with_the_network():
    keyed = key_network(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)), ImageScrambler(SIZE, seed=0)
    )
    weight = weakref.ref(keyed.get_submodule("0").weight)
    gc.disable()  # a cycle would wait for the collector, and copies of the weights would pile up
    try:
        del keyed
        assert weight() is None
    finally:
        gc.enable()


class Auxiliary(nn.Module):
    """Another path, another output, and random numbers in training."""

    def __init__(self):
        super().__init__()
        self.conv, self.aux = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.norm, self.fc = nn.BatchNorm2d(4), nn.Linear(4 * 96, 5)

    def forward(self, x):
        y = F.relu(self.norm(self.conv(x)))
        z = self.fc(F.dropout(y.flatten(1), 0.3, self.training))
        return (z, self.aux(y).mean((2, 3))) if self.training else z


def tune(net, x):
    """Five steps of training from fixed seeds; every tensor of the network after them."""
    torch.manual_seed(5)
    optimizer = torch.optim.SGD(net.train().parameters(), lr=0.01, momentum=0.9)
    for _ in range(5):
        optimizer.zero_grad()
        sum(y.square().mean() for y in net(x)).backward()
        optimizer.step()
    return net.state_dict()


def test_modules_with_two_names_keep_their_weights():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.position = nn.Conv2d(4, 4, 3, padding=1)
            self.stem, self.block = nn.Conv2d(3, 4, 1), nn.Sequential(self.position, nn.ReLU())

        def forward(self, x):
            return self.block(self.position(self.stem(x))).mean((2, 3))

    net, scrambler, x = Shared().eval(), ImageScrambler(SIZE, seed=0), torch.rand(2, 3, *SIZE)
    before = copy.deepcopy(net.state_dict())
    keyed = key_network(net, scrambler)
    for state in (net.state_dict(), keyed.state_dict()):
        assert list(state) == list(before)
        assert all(torch.equal(state[name], before[name]) for name in before)
    torch.testing.assert_close(keyed(scrambler(x)), net(x))
    torch.testing.assert_close(keyed.train()(scrambler(x)), net.train()(x))


class Dropping(nn.Module):
    """Every kind of dropout, on maps and tokens that are scrambled."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.channels, self.places = nn.Dropout2d(0.2), nn.Dropout(0.3, inplace=True)
        self.alpha, self.fc = nn.AlphaDropout(0.1), nn.Linear(4 * 96, 5)
        self.attention = nn.MultiheadAttention(4, 2, dropout=0.2, batch_first=True)
        self.noisy = nn.RReLU()

    def forward(self, x):
        y = self.noisy(self.norm(self.conv(x)))
        y = F.dropout(y, 0.4, self.training) + self.channels(y)
        y = y + 1
        self.places(y)
        t = y.flatten(2).transpose(1, 2)
        t = t + self.attention(t, t, t, need_weights=False)[0]
        t = F.dropout1d(t, 0.1, self.training)
        return (self.fc(self.alpha(t).transpose(1, 2).flatten(1)),)


@pytest.mark.parametrize("make", [Auxiliary, Dropping])
def test_fine_tuning_is_that_of_the_plain_network(make):
    scrambler = ImageScrambler(SIZE, seed=0)
    x = torch.rand(4, 3, *SIZE, dtype=torch.float64)
    torch.manual_seed(0)
    net = make().double()
    keyed = key_network(net.eval(), scrambler)
    conv, keys = keyed.conv, keyed.conv.out_key.clone()
    tuned, expected = tune(keyed, scrambler(x)), tune(net, x)
    assert list(tuned) == list(expected)
    for name in expected:
        torch.testing.assert_close(tuned[name], expected[name], rtol=1e-9, atol=1e-12)
    assert keyed.conv is conv and torch.equal(conv.out_key, keys)  # both modes share the keys
    torch.testing.assert_close(keyed.eval()(scrambler(x)), net.eval()(x))


def test_a_batch_of_one_fails_in_training_as_it_does_in_the_plain_network():
    net = nn.Sequential(nn.Conv2d(3, 4, SIZE), nn.BatchNorm2d(4))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        key_network(net, ImageScrambler(SIZE, seed=0))(torch.rand(1, 3, *SIZE))


def test_arguments_are_checked():
    net = nn.Sequential(nn.Conv2d(1, 2, 3))
    scrambler = ImageScrambler(SIZE, seed=0)
    assert key_network(net, scrambler)(torch.rand(2, 1, *SIZE)).shape[1] == 2
    with pytest.raises(ValueError, match=r"0: Conv2d: .*channels"):
        key_network(net, scrambler, in_channels=3)
    for norm in (nn.BatchNorm2d(3), nn.BatchNorm3d(2)):
        with pytest.raises(ValueError, match=r"1: BatchNorm[23]d: "):
            key_network(nn.Sequential(nn.Conv2d(1, 2, 3), norm), scrambler)
    for net, scrambler, reason in (
        (nn.ReLU(), None, "scrambler: expected ImageScrambler, got NoneType"),
        (None, ImageScrambler(SIZE, seed=0), "net: expected Module, got NoneType"),
    ):
        with pytest.raises(ValueError, match=reason):
            key_network(net, scrambler)
    with pytest.raises(ValueError, match="in_channels must be at least 1, got -3"):
        key_network(nn.ReLU(), ImageScrambler(SIZE, seed=0), in_channels=-3)
    with pytest.raises(ValueError, match="backend must be one of"):
        key_network(net, scrambler, backend="fast")
