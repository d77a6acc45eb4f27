"""Every network of the registry, keyed, on the pictures of the block ciphers it can take."""

import pytest
import torch

import models
from operators import keyed_parts, make_scrambler

KEYED = [name for name in models.names() if models.is_keyed(name)]


def side(name: str) -> int:
    return 224 if name.startswith("convmixer512_16") else 32


def pictures(count: int, side: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def network_input(images: torch.Tensor) -> torch.Tensor:
    return (images.double() - 120) / 60


@pytest.fixture(scope="module", params=KEYED)
def plain_net(request) -> tuple[torch.nn.Module, int]:
    """A network in float64, with statistics of real activations, and the side of its images."""
    torch.manual_seed(0)
    net = models.create_model(request.param.removesuffix(models.KEYED_SUFFIX)).double()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
            torch.nn.init.normal_(module.bias, 0, 0.3)
    with torch.no_grad():
        net.train()(network_input(pictures(4, side(request.param))))
    return net.eval(), side(request.param)


def test_takes_blocks_and_etc_exactly(plain_net):
    net, side = plain_net
    images = pictures(2, side)
    with torch.no_grad():
        plain = net(network_input(images))
        for cipher in ("blocks:8", "etc:4"):
            scrambler = make_scrambler(cipher, side, seed=30)
            key, undo = keyed_parts(scrambler)
            keyed = models.key_network(net, key, verify=False)
            assert list(keyed.state_dict()) == list(net.state_dict())
            found = keyed(network_input(undo(scrambler(images))))
            torch.testing.assert_close(found, plain, rtol=1e-9, atol=1e-9)
            assert torch.equal(found, keyed(network_input(key(images))))  # no rounding of values
            without = net(network_input(scrambler(images)))
            assert (without - plain).abs().max() > 0.01 * (plain[0] - plain[1]).abs().max()
            if cipher == "etc:4":
                not_undone = keyed(network_input(scrambler(images)))
                assert (not_undone - plain).abs().max() > 1e-3


@pytest.mark.parametrize("cipher", ["le", "ele", "privconv", "etc_published"])
def test_says_why_not(cipher):
    with pytest.raises(ValueError, match=f"a keyed network cannot take {cipher} pictures: it"):
        keyed_parts(make_scrambler(cipher, 32, seed=30))
