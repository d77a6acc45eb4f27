"""Progress is shown in time, on a terminal or not, and says how long the rest takes."""

from itertools import pairwise

import pytest

from utils.runtime import progress
from utils.runtime.progress import ProgressBar, pace


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when told to."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def count(clock, bar, steps, seconds, images=10):
    for _ in range(steps):
        clock[0] += seconds
        bar.update(images)


def test_a_line_at_the_start_and_then_at_least_every_twenty_seconds(clock, capsys):
    with ProgressBar("epoch 1/2", total=1000, later=1000) as bar:
        bar.note = "loss 2.000"
        shown, times = 0, []
        for _ in range(99):
            count(clock, bar, steps=1, seconds=1)
            lines = capsys.readouterr().err.splitlines()
            shown += len(lines)
            times += [clock[0] - 100] * len(lines)
    assert times[0] <= 5 and shown == len(times) > 4
    assert all(after - before <= 20 for before, after in pairwise(times))


def test_the_estimate_counts_what_comes_later(clock, capsys):
    with ProgressBar("epoch 1/2", total=1000, done=500, later=1000) as bar:
        bar.note = "loss 2.000"
        count(clock, bar, steps=1, seconds=5, images=50)
    line = capsys.readouterr().err.strip()
    assert line == "epoch 1/2: 550/1000 images, 10 images/s, 2 min left, loss 2.000"


def test_few_images_a_second_are_told_apart():
    assert [pace(n, 10.0) for n in (1, 4, 10, 24, 99, 101, 12345)] == [
        *("10.0 s/image", "2.5 s/image", "1.0 images/s", "2.4 images/s"),
        *("9.9 images/s", "10 images/s", "1234 images/s"),
    ]


def test_quiet_is_quiet(clock, capsys):
    with ProgressBar("test", total=100, quiet=True) as bar:
        count(clock, bar, steps=9, seconds=30)
    assert capsys.readouterr().err == ""
