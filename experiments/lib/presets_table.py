"""The presets of training side by side: a row for each flag, a column for each preset."""

from experiments.lib.tables import markdown_table
from utils.cli.flags.run import READ_WHERE, RECIPE_FLAGS
from utils.training.recipe import PRESETS, Recipe


def markdown(
    presets: dict[str, Recipe] = PRESETS, overrides: dict[str, tuple] = RECIPE_FLAGS
) -> str:
    """The table in Markdown; a cell is empty where the preset does not read the value.

    Args:
        presets: by name.
        overrides: as for ``flags.add_recipe``.
    """
    lines = [
        [f"`{flag}`", *(_cell(recipe, name) for recipe in presets.values())]
        for name, (flag, *_) in overrides.items()
    ]
    return markdown_table(["flag", *(f"`{name}`" for name in presets)], lines)


def _cell(recipe: Recipe, name: str) -> str:
    value = getattr(recipe, name)
    if name in READ_WHERE:
        owner, needed = READ_WHERE[name]
        if getattr(recipe, owner) != needed:
            return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    if name == "crop_size" and value is not None:
        return "x".join(map(str, value))
    if isinstance(value, tuple):
        return ",".join(f"{v:.3g}" for v in value)
    return value if isinstance(value, str) else f"{value:g}"
