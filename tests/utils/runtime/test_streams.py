"""Named streams: every name and every number counts."""

import itertools

import torch

from utils.data.augment import plan_epoch
from utils.runtime.streams import derive_seed, generator
from utils.training.recipe import PRESETS


def test_every_name_and_every_number_counts():
    numbers = [n for size in range(5) for n in itertools.product((0, 1, 10), repeat=size)]
    seeds = {derive_seed(name, *n) for name in ("order", "dropout") for n in numbers}
    assert len(seeds) == 2 * len(numbers)
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_a_stream_is_repeated_by_its_name_and_numbers():
    draws = [torch.rand(4, generator=generator("crop", 1, e)) for e in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_dropout_shares_no_stream_with_the_plan_of_an_epoch():
    """The first numbers of (seed, epoch) were once those of dropout in step 0 of process 0."""
    plan = plan_epoch(50, PRESETS["published"], seed=3, epoch=0)
    dropout = torch.Generator().manual_seed(derive_seed("dropout", 3, 0, 0, 0))
    assert not torch.equal(plan.order, torch.randperm(50, generator=dropout))
