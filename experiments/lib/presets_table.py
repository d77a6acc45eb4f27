"""The presets of training side by side: a row for each flag, a column for each preset."""

from experiments.lib.tables import markdown_table
from utils.cli.flags.run import READ_WHERE, RECIPE_FLAGS
from utils.training.recipe import PRESETS, Recipe


def markdown() -> str:
    """The table in Markdown; a cell is empty where the preset does not read the value."""
    lines = [
        [f"`{flag}`", *(_cell(recipe, name) for recipe in PRESETS.values())]
        for name, (flag, *_) in RECIPE_FLAGS.items()
    ]
    return markdown_table(["flag", *(f"`{name}`" for name in PRESETS)], lines)


def _cell(recipe: Recipe, name: str) -> str:
    value = getattr(recipe, name)
    if name in READ_WHERE:
        owner, needed = READ_WHERE[name]
        if getattr(recipe, owner) != needed:
            return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(f"{v:.3g}" for v in value)
    return value if isinstance(value, str) else f"{value:g}"
