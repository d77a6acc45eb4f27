"""The presets side by side."""

from experiments.lib.presets_table import markdown
from utils.cli.flags.run import RECIPE_FLAGS


def rows():
    lines = [[c.strip(" `") for c in line.split("|")[1:-1]] for line in markdown().splitlines()]
    presets = lines[0][1:]
    return {flag: dict(zip(presets, values, strict=True)) for flag, *values in lines[2:]}


def test_every_flag_has_a_row_and_values_are_those_that_flags_take():
    table = rows()
    assert list(table) == [flag for flag, *_ in RECIPE_FLAGS.values()]
    assert table["-epochs"]["published"] == "200" and table["-lr"]["published"] == "0.1"
    assert table["-milestones"]["published"] == "0.3,0.6,0.8"
    assert table["-nesterov"]["fast"] == "on" and table["-nesterov"]["published"] == "off"
    assert table["-sizes"]["preresnet-cpu"] == "16,24,32"


def test_a_value_that_is_not_read_has_an_empty_cell():
    table = rows()
    assert table["-muon_lr"]["published"] == "" and table["-muon_lr"]["fast"] == "0.025"
    assert table["-gamma"]["fast"] == "" and table["-gamma"]["published"] == "0.2"
    assert table["-sizes"]["published"] == ""
