"""Every network of the registry, keyed, on the pictures of the block ciphers it can take."""

import pytest
import torch

import models
from operators import keyed_parts, make_scrambler

PLAIN = [name for name in models.names() if not models.is_keyed(name)]


def pictures(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)


def network_input(images: torch.Tensor) -> torch.Tensor:
    return (images.double() - 120) / 60


@pytest.fixture(scope="module", params=PLAIN)
def net(request) -> torch.nn.Module:
    """A network in float64, with batch-norm statistics of real activations."""
    torch.manual_seed(0)
    net = models.create_model(request.param).double()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
            torch.nn.init.normal_(module.bias, 0, 0.3)
    with torch.no_grad():
        net.train()(network_input(pictures(8)))
    return net.eval()


def test_takes_blocks_and_etc_exactly(net):
    images = pictures(2)
    with torch.no_grad():
        plain = net(network_input(images))
        for cipher in ("blocks:8", "etc:4"):
            scrambler = make_scrambler(cipher, 32, seed=30)
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
