"""A preset and the flags that change it become one recipe."""

import pytest

from utils import cli
from utils.cli import flags
from utils.cli.flags.run import RECIPE_FLAGS
from utils.runtime.errors import UserError
from utils.training.recipe import PRESETS
from utils.training.segmentation import SEGMENTATION_PRESETS

TASKS = [(PRESETS, RECIPE_FLAGS), (SEGMENTATION_PRESETS, flags.SEGMENTATION_FLAGS)]
EVERY_PRESET = [(*task, name) for task in TASKS for name in task[0]]


def recipe(presets, overrides, *words):
    parser = cli.Parser("")
    flags.add_recipe(parser, next(iter(presets)), presets, overrides)
    return flags.recipe_from(parser.parse_args(words), presets)


@pytest.mark.parametrize(("presets", "overrides", "name"), EVERY_PRESET)
def test_every_preset_can_be_shortened(presets, overrides, name):
    words = ("-preset", name, "-compile", "off", "-epochs")
    assert recipe(presets, overrides, *words, "1").warm <= 1


def test_a_warm_up_keeps_its_share_only_where_it_would_fill_the_run():
    def warm(*words):
        return recipe(*TASKS[1], *words).warm

    assert warm("-epochs", "80") == warm("-epochs", "4") == 3
    assert warm("-epochs", "3") == pytest.approx(0.09)
    assert warm("-epochs", "1") == pytest.approx(0.03)


def test_a_given_warm_up_that_fills_the_run_is_refused():
    for words in (("-warm", "3", "-epochs", "3"), ("-warm", "100")):
        with pytest.raises(UserError, match=f"-warm {words[1]}: the cosine schedule needs"):
            recipe(*TASKS[1], *words)
