"""The short tables of speed from what the benchmarks wrote, for each kind of processor.

One line for each configuration and memory format: for each kind the plain network's time, and those
of the keyed ones relative to it. All rows, with their spread and peak memory, are in the tables
that ``speed.py`` writes. Beside it, what ``per_image.py`` measured.
"""

import statistics

from experiments.lib.tables import markdown_table

KINDS = {"avx2": "AVX2", "avx512": "AVX-512", "cuda": "GPU"}  # as recorded -> heading
ALWAYS = ("avx2", "avx512")  # shown as not measured where there is no record
COLUMNS = {  # candidate -> heading; one that was not timed has no column
    "plain": "plain, ms",
    "gather": "keyed",
    "triton": "keyed, `triton`",
    "folded": "folded",
    "deform": "`deform`",
}
CONTIGUOUS = ", contiguous"


def label(row: dict) -> str:
    """What a row of ``speed.py`` measured, network and figures aside."""
    if row["mode"] == "build":
        return "build from a plain network"
    side = row["side"]
    return f"{row['mode']}, {side}x{side}, batch {row['batch']}, {row['dtype']}"


def speed_table(*records: dict, everything: bool) -> str:
    """The records of ``speed.py`` as a short Markdown table, with what they were measured on.

    Args:
        records: the contents of its JSON files, one for each kind of processor. Ratios are medians
            over interleaved rounds; times are in seconds there and in milliseconds here.
        everything: show the lines of bfloat16 and of the contiguous memory format, too.

    Raises:
        KeyError: if one is not such a record.
        ValueError: if there is none, or they are of different networks.
    """
    if len({record["net"] for record in records}) != 1:
        raise ValueError(f"expected records of one network, got {[r['net'] for r in records]}")
    net = records[0]["net"]
    of_kind = {record["kind"]: record for record in records}
    kinds = list(dict.fromkeys([*ALWAYS, *of_kind]))
    lines = {kind: _lines(of_kind[kind]) for kind in of_kind}
    names = dict.fromkeys(name for kind in lines for name in lines[kind])
    names = [name for name in names if everything or name.endswith("float32")]
    columns = {
        kind: [c for c in COLUMNS if any(c in row for row in lines.get(kind, {}).values())]
        for kind in kinds
    }
    headings = [net]
    for kind in kinds:
        name = KINDS.get(kind, kind)
        headings += [f"{name}: {COLUMNS[c]}" for c in columns[kind]] or [name]
    rows = [
        [name, *(cell for kind in kinds for cell in _cells(name, columns[kind], of_kind.get(kind)))]
        for name in sorted(names, key=lambda name: not name.startswith("inference"))
    ]
    notes = ["Columns without a unit are times relative to the plain network of the same line.", ""]
    notes += [_note(KINDS.get(kind, kind), record) for kind, record in of_kind.items()]
    return "\n".join([markdown_table(headings, rows, left=1), *notes, ""])


def _lines(record: dict) -> dict[str, dict[str, dict]]:
    """Rows by line and column of the table: what is contiguous has a line of its own."""
    lines: dict[str, dict[str, dict]] = {}
    for row in record["rows"]:
        if row["mode"] != "build":
            name = row["candidate"].removesuffix(CONTIGUOUS)
            contiguous = CONTIGUOUS if name != row["candidate"] else ""
            lines.setdefault(label(row) + contiguous, {})[name] = row
    return lines


def _cells(name: str, columns: list[str], record: dict | None) -> list[str]:
    """The cells of one line for one kind of processor."""
    if record is None:
        return ["not measured"]
    row = _lines(record).get(name)
    if row is None:
        emulated = "bfloat16" in name and record["bfloat16_slowdown"] >= 1
        return ["emulated" if emulated else "not measured", *[""] * (len(columns) - 1)]
    cells = {column: f"{figures['ratio']:.2f}" for column, figures in row.items()}
    cells["plain"] = f"{1e3 * row['plain']['median']:.0f}"
    return [cells.get(column, "") for column in columns]


def _note(kind: str, record: dict) -> str:
    """Where, how and with what a record was measured."""
    (build,) = (row for row in record["rows"] if row["mode"] == "build")
    net, where = record["net"], record["environment"]
    processor = where["gpu"] if record["device"] == "cuda" else where["cpu"]
    spread = statistics.median((r["high"] - r["low"]) / r["median"] for r in record["rows"])
    held = f" held to {kind}" if record["held_back"] else ""
    return (
        f"- {kind}: medians of up to {build['rounds']} rounds, whose middle half spans "
        f"{spread:.0%} of the median, on {processor}{held}, threads: {where['threads']}, "
        f"channels_last unless said, torch {where['torch']}. Keying a plain {net} takes "
        f"{build['median']:.2f} s."
    )


def per_image_table(record: dict) -> str:
    """The record of ``per_image.py`` as a Markdown table; times in milliseconds."""
    rows = (
        (row["candidate"], f"{1e3 * row['median']:.0f}", f"{row['ratio']:.2f}")
        for row in record["rows"]
    )
    heading = f"keys, inference, 32x32, batch {record['batch']}"
    return markdown_table([heading, "ms", "x fixed"], rows, left=1)
