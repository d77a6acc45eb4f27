"""Figures and words of the tables."""

from experiments.lib.tables import counted


def test_one_is_singular():
    shown = [counted(n, "minute") for n in (0, 0.6, 1.4, 1.6, 85)]
    assert shown == ["1 minute" if n == 1 else f"{n} minutes" for n in (0, 1, 1, 2, 85)]
