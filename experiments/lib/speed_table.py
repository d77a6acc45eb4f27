"""The short tables of speed from what the benchmarks wrote.

One line for each configuration: the plain network's time, and those of the keyed ones relative to
it. All rows, with their spread and peak memory, are in the table that ``speed.py`` writes. Beside
it, what ``per_image.py`` measured.
"""

from experiments.lib.tables import markdown_table

COLUMNS = {  # candidate -> heading; one that was not timed has no column
    "gather": "keyed",
    "triton": "keyed, `triton`",
    "folded": "keyed, then folded",
    "deform": "keyed, `deform`",
}


def label(row: dict) -> str:
    """What a row of ``speed.py`` measured, network and figures aside."""
    if row["mode"] == "build":
        return "build from a plain network"
    side = row["side"]
    return f"{row['mode']}, {side}x{side}, batch {row['batch']}, {row['dtype']}"


def speed_table(record: dict) -> str:
    """The record of ``speed.py`` as a short Markdown table, with what it was measured on.

    Args:
        record: the content of its JSON file. Ratios are medians over interleaved rounds; times are
            in seconds there and in milliseconds here.

    Raises:
        KeyError: if it is not such a record.
    """
    timed = {row["candidate"] for row in record["rows"] if row["mode"] != "build"}
    columns = [name for name in COLUMNS if name in timed]
    headings = [f"{record['net']}, time", "plain, ms", *(f"{COLUMNS[c]}, x plain" for c in columns)]
    lines = []
    groups: dict[str, dict[str, dict]] = {}
    for row in record["rows"]:
        if row["mode"] != "build":
            groups.setdefault(label(row), {})[row["candidate"]] = row
    for name, rows in groups.items():
        ratios = [f"{rows[c]['ratio']:.2f}" if c in rows else "" for c in columns]
        lines.append((name, f"{1e3 * rows['plain']['median']:.0f}", *ratios))
    (build,) = (row for row in record["rows"] if row["mode"] == "build")
    where = record["environment"]
    processor = where["gpu"] if record["device"] == "cuda" else where["cpu"]
    return "\n".join(
        [
            markdown_table(headings, lines, left=1),
            f"Keying a plain {record['net']} takes {build['median']:.2f} s. Medians of up to "
            f"{build['rounds']} rounds on {processor}, {where['threads']} threads, "
            f"{record['memory_format']}, torch {where['torch']}.",
            "",
        ]
    )


def per_image_table(record: dict) -> str:
    """The record of ``per_image.py`` as a Markdown table; times in milliseconds."""
    rows = (
        (row["candidate"], f"{1e3 * row['median']:.0f}", f"{row['ratio']:.2f}")
        for row in record["rows"]
    )
    heading = f"keys, inference, 32x32, batch {record['batch']}"
    return markdown_table([heading, "ms", "x fixed"], rows, left=1)
