"""The presets of training side by side: a row for each flag, a column for each preset."""

from experiments.lib.tables import markdown_table
from utils.cli.flags import READ_WHERE, RECIPE_FLAGS, shown
from utils.training.recipe import PRESETS, Recipe


def markdown() -> str:
    """The table in Markdown; a cell is empty where the preset does not read the value."""
    lines = [
        [f"`{flag}`", *(_cell(recipe, name) for recipe in PRESETS.values())]
        for name, (flag, *_) in RECIPE_FLAGS.items()
    ]
    return markdown_table(["flag", *(f"`{name}`" for name in PRESETS)], lines)


def _cell(recipe: Recipe, name: str) -> str:
    owner, needed = READ_WHERE.get(name, (name, getattr(recipe, name)))
    return shown(getattr(recipe, name)) if getattr(recipe, owner) == needed else ""
