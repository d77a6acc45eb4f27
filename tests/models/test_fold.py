"""Inference transforms, torch.compile and torch.export of keyed networks: the logits stay."""

import copy
import functools
import io
import shutil

import pytest
import torch
from torch import nn

from models import create_model, key_network
from models.fold import fold_batch_norm, fold_keys
from operators import ImageScrambler, KeyedConv2d
from operators.gather import Reorder


def randomise(net: nn.Module) -> nn.Module:
    """Batch-norm statistics as of a trained network; the initial ones hide mistakes."""
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight, 0.5, 2.0),
                (module.bias, -0.5, 0.5),
            ):
                if tensor is not None:
                    tensor.data.uniform_(low, high, generator=generator)
    return net.eval()


def small_net() -> nn.Sequential:
    """Overlapping, pointwise and strided convolutions and both poolings, on 8x12 images."""
    torch.manual_seed(0)
    return randomise(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 6, 1, bias=False),
            nn.BatchNorm2d(6, affine=False),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 6, (3, 2), stride=(1, 2), padding=(1, 0), groups=2),
            nn.ReLU(),
            nn.AvgPool2d((4, 3)),
            nn.Flatten(),
            nn.Linear(6, 10),
        )
    )


@functools.cache
def vgg16(backend: str) -> tuple[ImageScrambler, nn.Module, nn.Module]:
    scrambler, plain = ImageScrambler(32, seed=0), randomise(create_model("vgg16"))
    return scrambler, plain, key_network(plain, scrambler, backend=backend)


def keyed_pair(name: str, backend: str = "gather"):
    """A plain network, its keyed twin, and one batch of images and scrambled images for them.

    The tests change no VGG16, so one serves them all.
    """
    generator = torch.Generator().manual_seed(1)
    if name == "small":
        scrambler, plain = ImageScrambler((8, 12), seed=0), small_net()
        keyed = key_network(plain, scrambler, backend=backend)
    else:
        scrambler, plain, keyed = vgg16(backend)
    x = torch.randn(3, 3, *scrambler.image_size, generator=generator)
    return plain, keyed, x, scrambler(x)


def modules(net: nn.Module, kind: type) -> int:
    return sum(isinstance(module, kind) for module in net.modules())


@pytest.mark.parametrize("backend", ["deform", "gather"])
@pytest.mark.parametrize("name", ["small", "vgg16"])
@torch.no_grad()
def test_folding_keys_keeps_the_logits_and_leaves_one_reordering(name, backend):
    plain, keyed, x, scrambled = keyed_pair(name, backend)
    before = keyed(scrambled)
    folded = fold_keys(keyed)
    torch.testing.assert_close(folded(scrambled), plain(x), atol=1e-5, rtol=1e-5)
    assert modules(folded, Reorder) == 1 and modules(folded, KeyedConv2d) == 0
    assert list(folded.state_dict()) == list(keyed.state_dict())
    assert all(map(torch.equal, folded.parameters(), keyed.parameters()))
    assert torch.equal(keyed(scrambled), before)  # the given network is as it was
    assert not torch.allclose(folded(x), plain(x), atol=1e-3)  # it still takes scrambled images


def test_folding_keys_keeps_gradients_and_the_mode():
    _, keyed, _, scrambled = keyed_pair("small")
    keyed.train()
    folded = fold_keys(keyed)
    assert folded.training and all(m.training for m in folded.modules())
    leaves = [scrambled.clone().requires_grad_() for _ in range(2)]
    for net, leaf in zip((keyed, folded), leaves, strict=True):
        net(leaf).square().sum().backward()
    torch.testing.assert_close(leaves[1].grad, leaves[0].grad, atol=1e-5, rtol=1e-4)


FOLDS = {
    "keys": lambda plain, keyed: (keyed, fold_keys(keyed)),
    "batch norm": lambda plain, keyed: (keyed, fold_batch_norm(keyed)),
    "batch norm of the plain network": lambda plain, keyed: (
        plain,
        fold_batch_norm(plain, (8, 12)),
    ),
    "twice": lambda plain, keyed: ((once := fold_keys(keyed)), fold_batch_norm(once)),
}


@pytest.mark.parametrize("fold", FOLDS)
@torch.no_grad()
def test_a_folded_network_and_the_given_one_leave_each_other_alone(fold):
    plain, keyed, x, scrambled = keyed_pair("small")
    pair = FOLDS[fold](plain, keyed)
    images = x if pair[0] is plain else scrambled
    expected = pair[0](images)
    for one, other in (pair, pair[::-1]):
        assert not set(one.modules()) & set(other.modules())
        storages = [{t.data_ptr() for t in net.state_dict().values()} for net in (one, other)]
        assert not storages[0] & storages[1]
        one.train()
        assert not any(m.training for m in other.modules())
        one.eval()
        kept = copy.deepcopy(one.state_dict())
        one.load_state_dict({n: torch.full_like(t, 0.5) for n, t in kept.items()})
        torch.testing.assert_close(other(images), expected, atol=1e-5, rtol=1e-5)
        one.load_state_dict(kept)


def test_every_module_keeps_its_mode():
    _, keyed, _, scrambled = keyed_pair("small")
    keyed.train()
    keyed.get_submodule("1").eval()  # statistics frozen while the rest trains, as in fine-tuning
    folded = fold_keys(keyed)
    assert folded.training and folded.restore.training
    modes = {name: m.training for name, m in folded.named_modules() if name != "restore"}
    assert modes == {name: keyed.get_submodule(name).training for name in modes}
    assert not modes["1"] and modes["4"] and modes["9"]
    torch.testing.assert_close(folded(scrambled), keyed(scrambled), atol=1e-5, rtol=1e-5)
    keyed.eval()
    keyed.get_submodule("4").train()  # normalises by the batch: there is nothing to absorb
    partly = fold_batch_norm(keyed)
    assert modules(partly, nn.BatchNorm2d) == 1 and partly.get_submodule("4").training
    torch.testing.assert_close(partly(scrambled), keyed(scrambled), atol=1e-5, rtol=1e-5)


class Constant(nn.Module):
    def forward(self, x):
        return x + torch.ones(3, 1, 1)


def test_folding_batch_norm_adds_nothing_to_the_given_network():
    net = Constant().eval()
    before = set(vars(net))
    assert torch.equal(
        fold_batch_norm(net, (2, 2))(torch.zeros(1, 3, 2, 2)), torch.ones(1, 3, 2, 2)
    )
    assert set(vars(net)) == before


WITHOUT_BUFFERS = {
    "no layers": nn.Sequential(nn.ReLU(), nn.Flatten()),
    "parameters only": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)),
}


@pytest.mark.parametrize("name", WITHOUT_BUFFERS)
def test_folding_keys_of_a_network_without_buffers(name):
    plain, scrambler = WITHOUT_BUFFERS[name], ImageScrambler((8, 12), seed=0)
    x = torch.randn(2, 3, 8, 12)
    keyed = key_network(plain, scrambler)
    assert list(keyed.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(fold_keys(keyed)(scrambler(x)), plain(x))
    # The reordering is made of the image key, which lies where the network lies.
    assert keyed.to("meta").image_key.is_meta


@pytest.mark.parametrize("name", ["small", "vgg16"])
@torch.no_grad()
def test_folding_batch_norm_keeps_the_logits(name):
    plain, keyed, x, scrambled = keyed_pair(name)
    expected = plain(x)
    for net, images in ((plain, x), (keyed, scrambled), (fold_keys(keyed), scrambled)):
        folded = fold_batch_norm(net, tuple(x.shape[2:]))
        assert modules(folded, nn.BatchNorm2d) == 0 < modules(net, nn.BatchNorm2d)
        torch.testing.assert_close(folded(images), expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(net(images), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_folding_batch_norm_rounds_once_in_bfloat16():
    plain, _, x, _ = keyed_pair("small")
    folded = fold_batch_norm(plain.bfloat16(), (8, 12))
    assert folded.get_parameter("0.weight").dtype == torch.bfloat16
    exact = small_net()(x)
    torch.testing.assert_close(folded(x.bfloat16()).float(), exact, atol=0.1, rtol=0.1)


class Awkward(nn.Module):
    """Batch norms that no convolution may absorb."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.shared = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.norm = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(3))
        self.stateless = nn.BatchNorm2d(3, track_running_stats=False)

    def forward(self, x):
        y = self.conv(x)
        y = self.norm[0](y) + y  # also used elsewhere
        y = self.norm[1](self.shared(y)) + self.norm[2](self.shared(x))  # used twice
        return self.stateless(y)


@torch.no_grad()
def test_batch_norms_that_cannot_be_absorbed_stay():
    net, x = randomise(Awkward()), torch.randn(2, 3, 4, 4)
    folded = fold_batch_norm(net, (4, 4))
    assert modules(folded, nn.BatchNorm2d) == 4
    torch.testing.assert_close(folded(x), net(x))


def test_errors():
    with pytest.raises(ValueError, match="takes a keyed network, got Sequential"):
        fold_keys(small_net())
    with pytest.raises(ValueError, match="takes a keyed network, got GraphNetwork"):
        fold_keys(fold_batch_norm(small_net(), (8, 12)))
    with pytest.raises(ValueError, match="needs the size of its images"):
        fold_batch_norm(small_net())
    with pytest.raises(ValueError, match="in evaluation mode, got training mode"):
        fold_batch_norm(small_net().train())


@pytest.mark.parametrize("channels_last", [False, True])
def test_compiles_without_a_graph_break_forwards_and_backwards(channels_last):
    _, keyed, _, scrambled = keyed_pair("small")
    if channels_last:
        keyed = keyed.to(memory_format=torch.channels_last)
        scrambled = scrambled.contiguous(memory_format=torch.channels_last)
    torch._dynamo.reset()
    compiled = torch.compile(keyed, backend="aot_eager", fullgraph=True)
    results = []
    for net in (keyed, compiled):
        keyed.zero_grad()
        leaf = scrambled.clone().requires_grad_()
        logits = net(leaf)
        logits.square().sum().backward()
        results.append((logits, leaf.grad, *(p.grad.clone() for p in keyed.parameters())))
    for eager, got in zip(*results, strict=True):
        torch.testing.assert_close(got, eager, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@torch.no_grad()
def test_vgg16_compiles_with_the_default_compiler():
    plain, keyed, x, scrambled = keyed_pair("vgg16")
    torch._dynamo.reset()
    logits = torch.compile(keyed, fullgraph=True)(scrambled)
    torch.testing.assert_close(logits, plain(x), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_vgg16_exports_to_index_operators_and_back():
    plain, keyed, x, scrambled = keyed_pair("vgg16")
    dynamic = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(keyed, (scrambled[:2],), dynamic_shapes=dynamic)
    called = {str(n.target) for n in program.graph.nodes if n.op == "call_function"}
    assert "aten.index_select.default" in called
    assert not any("deform" in name or "scatter" in name for name in called)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for batch in (3, 1):
        torch.testing.assert_close(loaded(scrambled[:batch]), plain(x[:batch]), atol=1e-4, rtol=0)


FUNCTIONAL = {
    "once": lambda norm, conv, x: norm(conv(x)).relu(),
    "behind something else": lambda norm, conv, x: norm(conv(x).relu()),
}


@pytest.mark.parametrize("name", FUNCTIONAL)
@torch.no_grad()
def test_folding_batch_norms_that_are_functions(name):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x):
            norm, call = self.norm, torch.nn.functional.batch_norm
            given = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
            return {"map": FUNCTIONAL[name](lambda y: call(y, *given), self.conv, x)}

    net, x = randomise(Net()), torch.randn(2, 3, 8, 12)
    scrambler = ImageScrambler((8, 12), seed=0)
    keyed, expected = key_network(net, scrambler), net(x)
    for fold, images in (
        (fold_batch_norm(net, (8, 12)), x),
        (fold_batch_norm(keyed), scrambler(x)),
        (fold_keys(keyed), scrambler(x)),
    ):
        torch.testing.assert_close(fold(images), expected, atol=1e-5, rtol=1e-5)
    assert ("norm.weight" in fold_batch_norm(keyed).state_dict()) == (name != "once")


def test_batch_norm_is_folded_on_the_cpu_for_the_gpu_kernel():
    """Folding checks itself in float32, where the kernel cannot run without a GPU."""
    scrambler = ImageScrambler((8, 12), seed=0)
    keyed = key_network(small_net(), scrambler, backend="triton", verify=False)
    folded, x = fold_batch_norm(keyed, (8, 12)), torch.randn(2, 3, 8, 12)
    torch.testing.assert_close(folded(x), keyed(x), atol=1e-5, rtol=1e-5)
