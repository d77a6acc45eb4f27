"""Learning rates against the published schedules, written out epoch by epoch."""

from dataclasses import asdict, replace

import pytest

from utils.training.recipe import PRESETS, from_saved, lr_factor, side_of_epoch

PUBLISHED, PRERESNET = PRESETS["published"], PRESETS["preresnet"]
STEPS = 391


def moments(epoch):
    """Where the first, a middle and the last step of an epoch begin."""
    return [epoch + step / STEPS for step in (0, 200, STEPS - 1)]


def test_published_milestones():
    for epoch in range(1, 200):
        passed = (epoch >= 60) + (epoch >= 120) + (epoch >= 160)
        for moment in moments(epoch):
            assert lr_factor(PUBLISHED, moment) == pytest.approx(0.2**passed)


def test_preresnet_milestones():
    for epoch in range(164):
        passed = (epoch >= 81) + (epoch >= 122)
        for moment in moments(epoch):
            assert lr_factor(PRERESNET, moment) == pytest.approx(0.1**passed)


def test_milestones_scale_with_the_number_of_epochs():
    short = replace(PUBLISHED, epochs=20)
    factors = [lr_factor(short, epoch) for epoch in range(1, 20)]
    assert factors == pytest.approx([1.0] * 5 + [0.2] * 6 + [0.04] * 4 + [0.008] * 4)


def test_warm_up_is_linear():
    assert [lr_factor(PUBLISHED, m / 4) for m in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    assert lr_factor(replace(PUBLISHED, warm=0), 0.0) == 1


@pytest.mark.parametrize(("schedule", "half"), [("linear", 0.5), ("cosine", pytest.approx(0.5))])
def test_linear_and_cosine_end_at_zero(schedule, half):
    recipe = replace(PUBLISHED, schedule=schedule, epochs=10, warm=2)
    assert lr_factor(recipe, 2) == 1
    assert lr_factor(recipe, 6) == half
    assert lr_factor(recipe, 10) == 0
    falling = [lr_factor(recipe, 2 + i / 10) for i in range(81)]
    assert falling == sorted(falling, reverse=True)


@pytest.mark.parametrize("preset", PRESETS.values())
def test_a_saved_recipe_comes_back(preset):
    assert from_saved(asdict(preset)) == preset
    older = asdict(preset) | {"amp": True, "gone": 1}
    del older["init"]  # a field of later versions
    assert from_saved(older) == replace(preset, amp="on", init="default")
    assert from_saved(older | {"amp": False}).amp == "off"
    assert from_saved(older | {"schedule": "onecycle"}).schedule == "linear"


@pytest.mark.parametrize(
    ("epochs", "sides"),
    [(6, [16, 16, 24, 24, 32, 32]), (4, [16, 24, 32, 32]), (2, [24, 32]), (1, [32])],
)
def test_sizes_have_equal_parts_and_the_last_epoch_the_largest(epochs, sides):
    recipe = replace(PUBLISHED, epochs=epochs, sizes=(16, 24, 32))
    assert [side_of_epoch(recipe, epoch) for epoch in range(epochs)] == sides
    assert side_of_epoch(PUBLISHED, 0) is None
