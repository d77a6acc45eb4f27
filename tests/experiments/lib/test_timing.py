"""The measuring instruments: counts of rounds, ratios, peak memory, and the chart. No timings."""

import torch
from PIL import Image

from experiments.lib.charts import bar_chart
from experiments.lib.timing import peak_memory, time_side_by_side

CPU = torch.device("cpu")


def test_candidates_take_turns_and_slow_ones_stop_early():
    calls = []
    names = ("a", "b", "slow")
    candidates = {name: lambda name=name: calls.append(name) for name in names}
    timings = time_side_by_side(candidates, dict.fromkeys(names, "a"), 5, CPU, slow=("slow",))
    assert calls == ["a", "b", "slow"] * 4 + ["a", "b"] * 2  # the first round warms up
    assert [timings[name].rounds for name in names] == [5, 5, 3]
    assert timings["a"].ratio == 1
    assert all(t.low <= t.median <= t.high for t in timings.values())


def test_one_round_is_enough():
    timings = time_side_by_side({"a": lambda: None}, {"a": "a"}, 1, CPU)
    assert timings["a"].low == timings["a"].median == timings["a"].high


def test_peak_memory_sees_what_a_call_needs_and_frees():
    size = 64 * 2**20

    def call() -> None:
        torch.ones(size, dtype=torch.uint8)

    peak = peak_memory(call, CPU)
    assert peak is None or 0.8 * size < peak < 3 * size


def test_chart_is_a_png(tmp_path):
    path = tmp_path / "chart.png"
    bar_chart(path, "title", {"one": {"a": 0.5, "b": 12.0}, "two": {"b": 1.0}})
    with Image.open(path) as image:
        assert image.format == "PNG" and image.width > 600
        assert len(image.getcolors(2**16)) > 3
