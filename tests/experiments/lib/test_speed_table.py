"""The README's table of speeds, from records of the benchmark."""

import pytest

from experiments.lib.speed_table import speed_table


def row(mode, candidate, ratio, dtype="float32", median=0.25):
    figures = {"median": median, "ratio": ratio, "rounds": 11}
    figures |= {"low": 0.9 * median, "high": 1.2 * median}
    return {"mode": mode, "side": 32, "batch": 64, "dtype": dtype, "candidate": candidate} | figures


def record(*rows, kind="avx512", slowdown=0.5):
    environment = {"cpu": f"A CPU with {kind}", "gpu": "A GPU", "threads": 2, "torch": "2.14"}
    settings = {"net": "vgg16", "kind": kind, "device": "cpu", "bfloat16_slowdown": slowdown}
    settings |= {"held_back": {"ATEN_CPU_CAPABILITY": "avx2"} if kind == "avx2" else {}}
    build = row("build", "gather", 1.0, median=0.0874)
    return settings | {"environment": environment, "rows": [build, *rows]}


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


NEW = record(
    *(row("inference", "plain", 1.0), row("inference", "deform", 12.71)),
    *(row("inference", "gather", 1.083), row("inference", "folded", 1.006)),
    row("inference", "plain, contiguous", 1.2, median=0.3),
    row("inference", "gather, contiguous", 1.17),
    row("inference", "plain, bn folded", 1.0),
    row("inference", "gather, bn folded", 9.0),
    *(row("training", "plain", 1.0, median=1.5), row("training", "gather", 1.12)),
    row("training", "plain", 1.0, "bfloat16", median=0.75),
)
OLD = record(
    *(row("inference", "plain", 1.0, median=0.5), row("inference", "gather", 1.04)),
    kind="avx2",
    slowdown=25.0,
)


def test_a_line_for_each_configuration_and_columns_for_each_kind():
    table = speed_table(NEW, OLD, everything=True)
    lines = table.splitlines()
    head = ["vgg16", "AVX2: plain, ms", "AVX2: keyed", "AVX-512: plain, ms", "AVX-512: keyed"]
    assert cells(lines[0]) == [*head, "AVX-512: folded", "AVX-512: `deform`"]
    assert [cells(line) for line in lines[2:6]] == [
        ["inference, 32x32, batch 64, float32", "500", "1.04", "250", "1.08", "1.01", "12.71"],
        [
            "inference, 32x32, batch 64, float32, contiguous",
            *("not measured", "", "300", "1.17", "", ""),
        ],
        ["training, 32x32, batch 64, float32", "not measured", "", "1500", "1.12", "", ""],
        ["training, 32x32, batch 64, bfloat16", "emulated", "", "750", "", "", ""],
    ]
    assert "takes 0.09 s" in lines[-1] and "A CPU with avx2 held to AVX2, threads: 2" in lines[-1]
    assert lines[-2].startswith("- AVX-512") and "half spans 30% of" in lines[-2]
    assert "held" not in lines[-2]
    assert table.endswith("\n") and len(lines) == 11
    short = speed_table(NEW, OLD, everything=False).splitlines()
    assert short == [line for line in lines if ", contiguous" not in line and "bfloat" not in line]


def test_a_kind_without_a_record_was_not_measured():
    lines = speed_table(NEW, everything=True).splitlines()
    assert cells(lines[0])[:3] == ["vgg16", "AVX2", "AVX-512: plain, ms"]
    assert {cells(line)[1] for line in lines[2:6]} == {"not measured"}


def test_networks_that_were_not_timed_have_no_column():
    rows = [row("inference", "plain", 1.0), row("inference", "triton", 0.98)]
    table = speed_table(record(*rows, kind="cuda") | {"device": "cuda"}, everything=True)
    assert "deform" not in table and "GPU: keyed, `triton`" in table and "A GPU" in table
    assert "| not measured | not measured |" in table


def test_records_must_be_of_one_network():
    with pytest.raises(ValueError, match="one network"):
        speed_table(everything=True)
    with pytest.raises(ValueError, match="resnet18"):
        speed_table(NEW, OLD | {"net": "torchvision:resnet18"}, everything=True)
