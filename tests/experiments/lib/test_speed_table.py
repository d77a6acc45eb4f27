"""The README's table of speeds, from a record of the benchmark."""

from experiments.lib.speed_table import speed_table


def row(mode, candidate, ratio, dtype="float32", median=0.25):
    figures = {"median": median, "ratio": ratio, "rounds": 11}
    return {"mode": mode, "side": 32, "batch": 64, "dtype": dtype, "candidate": candidate} | figures


def record(*rows):
    environment = {"cpu": "A CPU", "gpu": "A GPU", "threads": 2, "torch": "2.14"}
    settings = {"net": "vgg16", "memory_format": "channels_last", "device": "cpu"}
    build = row("build", "gather", 1.0, median=0.0874)
    return settings | {"environment": environment, "rows": [build, *rows]}


def test_one_line_for_each_configuration():
    table = speed_table(
        record(
            *(row("inference", "plain", 1.0), row("inference", "deform", 12.71)),
            *(row("inference", "gather", 1.083), row("inference", "folded", 1.006)),
            row("inference", "plain, bn folded", 1.0),
            row("inference", "gather, bn folded", 9.0),
            *(row("training", "plain", 1.0, median=1.5), row("training", "gather", 1.12)),
        )
    )
    lines = table.splitlines()
    assert lines[0].startswith("| vgg16, time | plain, ms | ")
    assert lines[0].split(" | ")[2:] == [
        *("keyed, x plain", "keyed, then folded, x plain", "keyed, `deform`, x plain |")
    ]
    assert lines[2:4] == [
        "| inference, 32x32, batch 64, float32 | 250 | 1.08 | 1.01 | 12.71 |",
        "| training, 32x32, batch 64, float32 | 1500 | 1.12 |  |  |",
    ]
    assert "takes 0.09 s" in lines[-1] and "A CPU, 2 threads" in lines[-1]
    assert table.endswith("\n") and len(lines) == 6


def test_networks_that_were_not_timed_have_no_column():
    rows = [row("inference", "plain", 1.0), row("inference", "triton", 0.98)]
    table = speed_table(record(*rows) | {"device": "cuda"})
    assert "deform`, x" not in table and "triton" in table and "A GPU" in table
