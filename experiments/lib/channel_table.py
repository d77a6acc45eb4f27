"""What became of scrambled pictures in lossy files, in Markdown, from ``jpeg_channel.py``."""

from experiments.lib import literature_table
from experiments.lib.channels import PLAIN, QUALITIES, SCHEMES
from experiments.lib.tables import markdown_table

EIGHTS = ("blocks:8", "blocks:8 per image", "etc:8")  # what moves the squares that JPEG codes

ATTACKED = {"whole image": "256-bit fixed"}  # names there, where they differ


def markdown(record: dict) -> str:
    """All rows, those of a kind of file together."""
    plain = _rows(record, PLAIN.name)
    headings = ["file", "scrambling", "keys, bits", "bytes", "PSNR, dB"]
    if record["measure"] is not None:
        headings += [record["measure"], "points below plain"]
    lines = []
    for row in record["rows"]:
        psnr = "exact" if row["psnr"] is None else f"{row['psnr']:.2f}"
        size = f"{row['bytes']:,.0f}{_more(row, plain)}"
        line = [row["channel"], row["scheme"], _bits(row), size, psnr]
        if record["measure"] is not None:
            line.append(f"{row['score']:.2%} ± {100 * row['score_error']:.2f}")
            line.append("" if row["scheme"] == PLAIN.name else _loss(row))
        lines.append(line)
    return markdown_table(headings, lines, left=2)


def short(record: dict, attacks: list[dict] | None) -> str:
    """A row for each way to scramble: what JPEG makes of the files and the score, and attackers.

    Args:
        record: of ``jpeg_channel.py``, with a score.
        attacks: the rows of ``literature.py``, whose best attack counts; None for no such column.
    """
    headings = ["scrambling", "keys, bits", "bytes, 85"]
    headings += [f"{record['measure']}, {quality}" for quality in QUALITIES] + ["4:2:0, 85"]
    best = None if attacks is None else literature_table.best(attacks)
    if best is not None:
        headings.append("accuracy on what is recovered (SSIM)")
    plain, lines = _rows(record, PLAIN.name), []
    for scheme in SCHEMES:
        rows = _rows(record, scheme.name)
        middle = rows["JPEG 4:4:4, 85"]
        shown = [*(rows[f"JPEG 4:4:4, {quality}"] for quality in QUALITIES), rows["JPEG 4:2:0, 85"]]
        size = f"{middle['bytes']:,.0f}{_more(middle, plain)}"
        line = [scheme.name, _bits(middle), size, *(f"{row['score']:.1%}" for row in shown)]
        if best is not None:
            found = best.get(ATTACKED.get(scheme.name, scheme.name))
            line.append("" if found is None else f"{found['accuracy']:.1%} ({found['SSIM']:.2f})")
        lines.append(line)
    return markdown_table(headings, lines, left=1)


def sentence(record: dict) -> str:
    """How much 8x8 blocks cost in JPEG files at full colour, at most."""
    plain = _rows(record, PLAIN.name)
    rows = [
        row
        for row in record["rows"]
        if row["scheme"] in EIGHTS and row["channel"].startswith("JPEG 4:4:4")
    ]
    largest = max(row["bytes"] / plain[row["channel"]]["bytes"] for row in rows) - 1
    text = (
        f"Of pictures whose 8x8 blocks moved, JPEG files in 4:4:4 are at most {largest:.1%} larger"
    )
    if record["measure"] is not None:
        worst = min(rows, key=lambda row: row["difference"])
        text += f", and the {record['measure']} is at most {_loss(worst)} points lower"
    return f"{text}.\n"


def _rows(record: dict, scheme: str) -> dict[str, dict]:
    """The rows of a way to scramble, by kind of file."""
    return {row["channel"]: row for row in record["rows"] if row["scheme"] == scheme}


def _bits(row: dict) -> str:
    return "" if row["key_bits"] is None else f"{row['key_bits']:,.0f}"


def _more(row: dict, plain: dict[str, dict]) -> str:
    """How much larger a file is than that of the plain picture."""
    more = row["bytes"] / plain[row["channel"]]["bytes"] - 1
    return "" if row["scheme"] == PLAIN.name else f" ({more:+.1%})"


def _loss(row: dict) -> str:
    points = round(-100 * row["difference"], 2) + 0.0  # no -0.00
    return f"{points:.2f} ± {100 * row['difference_error']:.2f}"
