"""``torch.func`` on keyed operators and networks: gradients and tangents of the plain ones."""

import pytest
import torch
from torch import nn
from torch.autograd.forward_ad import dual_level, make_dual, unpack_dual
from torch.func import functional_call, grad, hessian, jvp, stack_module_state, vmap
from torch.nn import functional as F

from models import create_model, key_network
from operators import ImageScrambler, KeyedAvgPool2d, KeyedConv2d, KeyedMaxPool2d
from operators.gather import reorder
from operators.permutation import invert
from tests.operators.geometry import key

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def small() -> nn.Module:
    """As VGG: blocks of convolution, batch norm and in-place ReLU; pools whose windows overlap."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 4, 3, stride=(1, 2), padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.AvgPool2d(3, 1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


NETS = {"small": (small, (8, 12)), "preresnet20": (lambda: create_model("preresnet20"), (32, 32))}


def pair(name: str, layout: torch.memory_format) -> tuple[nn.Module, nn.Module, ImageScrambler]:
    """A plain network and its keyed twin, in float64 and evaluation mode."""
    torch.manual_seed(0)
    make, size = NETS[name]
    plain, scrambler = make().eval().double(), ImageScrambler(size, seed=0)
    keyed = key_network(plain, scrambler)
    return plain.to(memory_format=layout), keyed.to(memory_format=layout), scrambler


def parameters(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in net.named_parameters()}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NETS)
def test_gradients_of_each_sample_are_the_plain_networks(name, layout):
    plain, keyed, scrambler = pair(name, layout)
    images = torch.randn(3, 3, *scrambler.image_size).double().contiguous(memory_format=layout)
    labels = torch.tensor([0, 3, 1])

    def gradients(net, images):
        def loss(weights, image, label):
            return F.cross_entropy(functional_call(net, weights, (image[None],)), label[None])

        return vmap(grad(loss), (None, 0, 0))(parameters(net), images, labels)

    expected, found = gradients(plain, images), gradients(keyed, scrambler(images))
    for weight, gradient in expected.items():
        assert gradient.shape[0] == 3 and gradient.abs().max() > 0
        torch.testing.assert_close(found[weight], gradient)
    loss = F.cross_entropy(keyed(scrambler(images[1:2])), labels[1:2])  # and autograd's own
    alone = torch.autograd.grad(loss, list(keyed.parameters()))
    for weight, gradient in zip(expected, alone, strict=True):
        torch.testing.assert_close(found[weight][1], gradient)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")  # torch's own, in jvp
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NETS)
def test_tangents_are_the_plain_networks(name, layout):
    plain, keyed, scrambler = pair(name, layout)
    images, tangent = torch.randn(2, 3, 3, *scrambler.image_size).double()
    results = []
    for net, ready in ((plain, lambda x: x), (keyed, scrambler)):
        weights = parameters(net)
        ones = {name: torch.ones_like(w) for name, w in weights.items()}
        x, t = (ready(i).contiguous(memory_format=layout) for i in (images, tangent))

        def of_weights(weights, net=net, x=x):
            return functional_call(net, weights, (x,))

        results.append((*jvp(net, (x,), (t,)), jvp(of_weights, (weights,), (ones,))[1]))
        with dual_level():
            results[-1] += (unpack_dual(net(make_dual(x, t))).tangent,)
    for expected, found in zip(*results, strict=True):
        assert expected.abs().max() > 0
        torch.testing.assert_close(found, expected)


def layers(backend: str) -> dict[str, tuple[nn.Module, nn.Module]]:
    """Keyed layers by name, each with the ordinary one, on maps of 4x6."""
    keys = {"image_size": (4, 6), "in_key": key(24, 0), "backend": backend}
    wide, tiles, apart = ({"out_key": key(n, 1)} for n in (24, 6, 15))
    made = {
        "conv": KeyedConv2d(2, 3, 3, padding=1, **keys, **wide),
        "pointwise": KeyedConv2d(2, 3, 1, **keys, **wide),
        "grouped": KeyedConv2d(2, 4, 2, groups=2, **keys, **apart),
        "max": KeyedMaxPool2d(2, **keys, **tiles),
        "max, overlapping": KeyedMaxPool2d(2, 1, **keys, **apart),
        "average": KeyedAvgPool2d(2, **keys, **tiles),
        "average, padded": KeyedAvgPool2d(3, 1, 1, **keys, **wide),
    }
    return {name: (layer.double(), layer.plain().double()) for name, layer in made.items()}


CAN = [("gather", name) for name in layers("gather")]
CAN += [("deform", name) for name in layers("deform") if "max" in name or "average" in name]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")
@pytest.mark.parametrize(("backend", "name"), CAN)
def test_layers_under_every_transform(backend, name):
    layer, plain = layers(backend)[name]
    torch.manual_seed(0)
    x, t = torch.randn(2, 3, 2, 4, 6).double()

    def natural(x):
        y = plain(reorder(x, invert(layer.in_key), layer.in_key))
        return reorder(y, layer.out_key, invert(layer.out_key))

    def scalar(function):
        return lambda x: function(x[None]).square().sum()

    for transform in (
        lambda f: vmap(lambda x: f(x[None]))(x),
        lambda f: vmap(grad(scalar(f)))(x),
        lambda f: jvp(f, (x,), (t,)),
        lambda f: vmap(lambda x, t: jvp(scalar(f), (x,), (t,))[1])(x, t),
        lambda f: hessian(scalar(f))(x[0]),
    ):
        torch.testing.assert_close(transform(layer), transform(natural))


@pytest.mark.parametrize("name", ["conv", "pointwise", "grouped"])
def test_torchvisions_deformable_convolution_refuses(name):
    """It has no rules: gradients fail inside, and a tangent would come out as zero."""
    layer, _ = layers("deform")[name]
    x = torch.randn(2, 2, 4, 6).double()
    for call in (
        lambda: vmap(lambda x: layer(x[None]))(x),
        lambda: grad(lambda x: layer(x).sum())(x),
        lambda: jvp(layer, (x,), (x,)),
        lambda: jvp(
            lambda w: functional_call(layer, {"weight": w}, (x,)), (layer.weight,), (layer.weight,)
        ),
    ):
        with pytest.raises(NotImplementedError, match="use backend gather"):
            call()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_networks_with_a_key_each_run_as_one(layout):
    scramblers = [ImageScrambler((8, 12), seed=seed) for seed in (0, 1)]
    torch.manual_seed(0)
    plain = small().eval()
    nets = [key_network(plain, scrambler) for scrambler in scramblers]
    image = torch.randn(2, 3, 8, 12).contiguous(memory_format=layout)
    scrambled = torch.stack([scrambler(image) for scrambler in scramblers])
    weights, buffers = stack_module_state(nets)
    for stacked, dims in ((scrambled, 0), (scrambled[0], None)):
        found = vmap(lambda w, b, x: functional_call(nets[0], (w, b), (x,)), (0, 0, dims))(
            weights, buffers, stacked
        )
        for i, net in enumerate(nets):
            expected = net(scrambled[i if dims == 0 else 0])
            torch.testing.assert_close(found[i], expected, atol=1e-5, rtol=1e-5)
