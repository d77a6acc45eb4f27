"""The start from the images' statistics: what it decorrelates, and what it leaves alone."""

import copy

import pytest
import torch
from torch import nn

from utils.training.init import whitening_init


def images():
    """Neighbouring pixels and channels that are correlated, as in pictures."""
    noise = torch.randn(40, 1, 12, 10, generator=torch.Generator().manual_seed(0))
    colour = torch.randn(40, 3, 12, 10, generator=torch.Generator().manual_seed(1))
    return nn.functional.avg_pool2d(noise + 0.3 * colour, 3, stride=1) * 4


def network(filters=24):
    return nn.Sequential(
        nn.Conv2d(3, filters, 2, padding=1),
        nn.BatchNorm2d(filters),
        nn.Conv2d(filters, filters + 2, 3, padding=1),
        nn.Conv2d(filters + 2, filters + 2, 3, groups=2),
        nn.Conv2d(filters + 2, 5, 1),
    )


def test_responses_to_patches_are_uncorrelated_and_come_with_their_negatives():
    net, x = network(), images()
    whitening_init(net, x)
    stem = net[0]
    responses = nn.functional.conv2d(x, stem.weight).transpose(0, 1).flatten(1)
    assert torch.allclose(responses[12:], -responses[:12], atol=1e-5)
    covariance = torch.cov(responses[:12].double())
    variances = covariance.diagonal().detach()
    assert (covariance - variances.diag()).abs().max() < 1e-3
    assert variances[0] == pytest.approx(1, abs=1e-2)
    assert variances.max() < 1 and variances.min() > 0.5


def test_few_filters_take_the_directions_of_most_variance():
    many, few = network(24), network(8)
    for net in (many, few):
        whitening_init(net, images())
    assert torch.equal(few[0].weight[:4], many[0].weight[:4])
    assert torch.equal(few[0].weight[4:], -many[0].weight[:4])


def test_other_convolutions_hand_on_what_they_get():
    net, x = network(), torch.randn(2, 24, 4, 5)
    whitening_init(net, images())
    net[2].bias.data.zero_()
    assert torch.equal(net[2](x)[:, :24], x)


def test_all_else_keeps_its_values():
    net = network()
    before = copy.deepcopy(net.state_dict())
    whitening_init(net, images())
    after = net.state_dict()
    assert torch.equal(after["2.weight"][24:], before["2.weight"][24:])
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"0.weight", "2.weight", "4.weight"}  # not the one in groups


def test_another_number_of_channels_is_refused():
    with pytest.raises(ValueError, match=r"3 channels in 1 groups, the images have 1 channels"):
        whitening_init(network(), images()[:, :1])
