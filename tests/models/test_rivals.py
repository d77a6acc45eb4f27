"""The networks of the paper's second table: counts, and slow twins of what is new in them."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

import models
from models.adaptation import BlockAdaptation, SharedAdaptation
from models.convmixer import ConvMixer
from models.pyramidnet import PyramidNet, ShakeDrop
from operators import BlockCipher, ImageScrambler

COUNTS = {
    "pyramidnet110": 28_485_493,
    "pyramidnet110_adapted": 29_310_661,
    "pyramidnet110_adapted_le": 28_487_365 + 12_288 + 512,
    "convmixer512_16": 5_345_306,
}


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("name", COUNTS)
def test_parameters(name):
    assert count(models.create_model(name)) == COUNTS[name]


def test_parameters_of_the_parts():
    assert count(PyramidNet(in_channels=16)) == 28_487_365
    assert count(BlockAdaptation()) == 819_200 + 4_096
    assert count(ConvMixer().matrix) == 196**2
    plain, adapted = (models.create_model(n) for n in ("preresnet20", "preresnet20_adapted"))
    assert [p.shape for p in adapted.classifier.parameters()][1:] == [
        p.shape for p in plain.parameters()
    ][1:]  # they differ in the first convolution only


def test_networks_behind_an_adaptation_have_no_keyed_twin():
    adapted = [name for name in models.names() if "adapted" in name]
    assert len(adapted) == 4 and not any(models.is_keyed(name) for name in adapted)
    with pytest.raises(ValueError, match="preresnet20_adapted has no keyed twin"):
        models.create_model("preresnet20_adapted_permuted")


def test_pyramid_widths_and_shortcuts():
    net = PyramidNet(depth=14, alpha=10)  # ceil(10 i / 6) more channels after block i
    widths = [block.branch[4].out_channels for block in net.blocks]
    assert widths == [18, 20, 21, 23, 25, 26]
    block, x = net.blocks[2].eval(), torch.rand(2, 20, 8, 6)
    shortcut = block(x) - block.branch(x)
    torch.testing.assert_close(shortcut[:, :20], F.avg_pool2d(x, 2))
    assert shortcut.shape == (2, 21, 4, 3) and not shortcut[:, 20:].any()
    assert [block.branch[-1].p for block in net.blocks] == pytest.approx(
        [i / 12 for i in range(1, 7)]
    )


def test_shakedrop_scales_each_sample_forth_and_back():
    torch.manual_seed(0)
    shake, shut = ShakeDrop(0.5), 0
    for _ in range(200):
        x = torch.rand(4, 2, 3, 3, dtype=torch.float64, requires_grad=True)
        y = shake(x)
        y.sum().backward()
        forth, back = (y / x).flatten(1), x.grad.flatten(1)
        torch.testing.assert_close(forth, forth[:, :1].expand_as(forth))
        torch.testing.assert_close(back, back[:, :1].expand_as(back))
        if torch.equal(y, x):
            assert torch.equal(back, torch.ones_like(back))
            continue
        shut += 1
        assert forth.abs().max() < 1 and back.min() >= 0 and back.max() < 1
        assert len(set(forth[:, 0].tolist())) == len(set(back[:, 0].tolist())) == 4
    assert 70 < shut < 130
    x = torch.rand(2, 1, 2, 2)
    assert torch.equal(ShakeDrop(0.25).eval()(x), 0.75 * x)


def test_adaptation_is_a_convolution_for_each_block_under_torchs_spectral_norm():
    torch.manual_seed(0)
    net = BlockAdaptation(image_size=8)
    convolutions = [spectral_norm(nn.Conv2d(3, 256, 4, 4, bias=False)) for _ in range(4)]
    norms = [nn.BatchNorm2d(256) for _ in range(4)]
    ours = net.parametrizations.weight
    with torch.no_grad():
        for b, convolution in enumerate(convolutions):
            theirs = convolution.parametrizations.weight
            theirs.original.copy_(ours.original[b].view(256, 3, 4, 4))
            theirs[0]._u.copy_(ours[0].u[b])
            theirs[0]._v.copy_(ours[0].v[b])
    x = torch.rand(5, 3, 8, 8)
    for training in (True, True, False):
        net.train(training)
        features = []
        for b, (convolution, norm) in enumerate(zip(convolutions, norms, strict=True)):
            row, column = b // 2 * 4, b % 2 * 4
            block = x[:, :, row : row + 4, column : column + 4]
            y = norm.train(training)(convolution.train(training)(block))
            features.append(F.leaky_relu(y, 0.2).flatten(1))
        mixed = torch.stack(features, 2) @ net.matrix.weight.T  # (N, 256, 4)
        expected = torch.zeros(5, 16, 8, 8)
        for b in range(4):
            for feature in range(256):
                channel, place = divmod(feature, 16)
                row, column = b // 2 * 4 + place // 4, b % 2 * 4 + place % 4
                expected[:, channel, row, column] = mixed[:, feature, b]
        torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)
    largest = torch.linalg.matrix_norm(net.weight, 2)
    assert (largest > 0.9).all() and (largest < 1.1).all()


def test_penalty_of_the_adaptation():
    torch.manual_seed(0)
    net = models.create_model("preresnet20_adapted")
    adapted = torch.rand(3, 16, 32, 32, dtype=torch.float64)
    matrix = net.adaptation.matrix.weight.detach().double()
    unlike = sum(
        line.abs().sum().item() - line.square().sum().sqrt().item()
        for lines in (matrix, matrix.T)
        for line in lines
    )
    rough = 0.0
    for image in adapted[:, :3].flatten(0, 1).tolist():
        for i in range(31):
            for j in range(31):
                rough += (image[i][j] - image[i + 1][j]) ** 2 + (image[i][j] - image[i][j + 1]) ** 2
    expected = 0.001 * unlike / 64**2 + 0.1 * rough / (31 * 32 * 16) / 3
    penalty = net.double().adaptation.penalty(adapted)
    assert penalty.item() == pytest.approx(expected, rel=1e-6)
    net.adaptation.matrix.weight.data = torch.eye(64).double()  # a permutation, and a flat picture
    assert net.adaptation.penalty(torch.ones_like(adapted)).item() == 0


def test_the_penalty_is_that_of_the_last_training_pass_and_had_once():
    net = models.create_model("preresnet20_adapted")
    net(torch.rand(2, 3, 32, 32))
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(net)
    penalty = net.take_penalty()
    penalty.backward()
    assert penalty > 0 and net.adaptation.matrix.weight.grad.abs().sum() > 0
    assert copy.deepcopy(net).take_penalty() is None
    net.eval()(torch.rand(2, 3, 32, 32))
    assert net.take_penalty() is None
    shared = models.create_model("preresnet20_adapted_le")
    shared(torch.rand(2, 3, 32, 32))
    assert shared.take_penalty() == 0


def test_the_shared_adaptation_keeps_blocks_in_place():
    net = SharedAdaptation().eval()
    x = torch.rand(1, 3, 8, 12)
    whole = net(x)
    assert whole.shape == (1, 16, 8, 12)
    torch.testing.assert_close(whole[..., 4:, 8:], net(x[..., 4:, 8:]))


def test_the_matrix_can_undo_the_cipher_of_convmixer():
    torch.manual_seed(0)
    net = models.create_model("convmixer256_8").double()
    for module in net.modules():  # statistics of real activations, lest the signal dies out
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    cipher = BlockCipher("privconv", 32, seed=0)
    with torch.no_grad():
        net.matrix.weight.copy_(torch.eye(64))
        net(torch.rand(8, 3, 32, 32, dtype=torch.float64))
    net.eval()
    keyed = copy.deepcopy(net)
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    # Where the patches and the values in them came from, by looking at numbered ones.
    state = torch.arange(64, dtype=torch.uint8).view(1, 8, 8)
    number = cipher(state.repeat_interleave(4, 1).repeat_interleave(4, 2).repeat(3, 1, 1))
    order = number[0, ::4, ::4].flatten().long()  # patch i is patch order[i]
    inside = cipher(torch.arange(48, dtype=torch.uint8).view(3, 4, 4).repeat(1, 8, 8))
    inside = inside[:, :4, :4].flatten().long()
    with torch.no_grad():
        keyed.matrix.weight.copy_(torch.eye(64)[order].T)
        keyed.embedding.weight.copy_(net.embedding.weight.flatten(1)[:, inside].view(-1, 3, 4, 4))
        plain = net(images.double() / 255)
        torch.testing.assert_close(keyed(cipher(images).double() / 255), plain)
        assert (net(cipher(images).double() / 255) - plain).abs().max() > 0.01


def test_bad_geometry_is_named():
    with pytest.raises(ValueError, match="6n \\+ 2, 8 at least, got 12"):
        PyramidNet(depth=12)
    with pytest.raises(ValueError, match="patch must divide image_size 32, got 5"):
        ConvMixer(image_size=32, patch=5)


def test_a_pyramid_is_keyed_in_evaluation_and_in_training():
    torch.manual_seed(0)
    net, scrambler = PyramidNet(depth=8, alpha=6).double().eval(), ImageScrambler(32, seed=1)
    keyed = models.key_network(net, scrambler, strict=True)
    x = torch.rand(4, 3, 32, 32, dtype=torch.float64)
    for training in (False, True):
        results = []
        for network, batch in ((net, x), (keyed, scrambler(x))):
            torch.manual_seed(2)  # of which paths are shaken
            y = network.train(training)(batch)
            results.append((y, *torch.autograd.grad(y.square().sum(), network.parameters())))
        torch.testing.assert_close(*results)
    assert keyed.report().share == 1
