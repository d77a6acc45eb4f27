"""What became of scrambled pictures in lossy files, in Markdown, from ``jpeg_channel.py``."""

from experiments.lib.channels import PLAIN, QUALITIES, SCHEMES
from experiments.lib.tables import markdown_table

EIGHTS = ("blocks:8", "blocks:8 per image", "etc:8")  # what moves the squares that JPEG codes


def markdown(record: dict) -> str:
    """All rows, those of a kind of file together."""
    plain = _rows(record, PLAIN.name)
    headings = [
        "file",
        "scrambling",
        "keys, bits",
        "bytes",
        "more",
        "PSNR, dB",
        "score",
        "less plain",
    ]
    lines = []
    for row in record["rows"]:
        same = row["scheme"] == PLAIN.name
        more = row["bytes"] / plain[row["channel"]]["bytes"] - 1
        lines.append(
            (
                row["channel"],
                row["scheme"],
                _bits(row),
                f"{row['bytes']:,.0f}",
                "" if same else f"{more:+.1%}",
                "exact" if row["psnr"] is None else f"{row['psnr']:.2f}",
                _percent(row["score"], row["score_error"]),
                ""
                if same
                else f"{100 * row['difference']:+.2f} ± {100 * row['difference_error']:.2f}",
            )
        )
    return markdown_table(headings, lines, left=2)


def short(record: dict) -> str:
    """A row for each way to scramble: what JPEG at full colour makes of the files and the score."""
    headings = ["scrambling", "keys, bits", "files, quality 85"]
    headings += [f"{record['measure']}, {quality}" for quality in QUALITIES] + ["4:2:0, 85"]
    plain, lines = _rows(record, PLAIN.name), []
    for scheme in SCHEMES:
        rows = _rows(record, scheme.name)
        at = "JPEG 4:4:4, 85"
        more = f"{rows[at]['bytes'] / plain[at]['bytes'] - 1:+.1%}"
        first = f"{rows[at]['bytes']:,.0f} bytes" if scheme is PLAIN else more
        scores = [rows[f"JPEG 4:4:4, {quality}"] for quality in QUALITIES]
        scores.append(rows["JPEG 4:2:0, 85"])
        shown = [f"{row['score']:.1%}" for row in scores]
        lines.append((scheme.name, _bits(rows[at]), first, *shown))
    return markdown_table(headings, lines, left=1)


def sentence(record: dict) -> str:
    """How much 8x8 blocks cost in JPEG files at full colour, at most."""
    plain = _rows(record, PLAIN.name)
    rows = [
        row
        for row in record["rows"]
        if row["scheme"] in EIGHTS and row["channel"].startswith("JPEG 4:4:4")
    ]
    least = min(rows, key=lambda row: row["difference"])
    most = max(row["bytes"] / plain[row["channel"]]["bytes"] - 1 for row in rows)
    return (
        f"In JPEG files at full colour (4:4:4), 8x8 blocks cost at most {most:.1%} of bytes and "
        f"{-100 * least['difference']:.2f} ± {100 * least['difference_error']:.2f} points "
        f"({least['scheme']}, {least['channel']}).\n"
    )


def _rows(record: dict, scheme: str) -> dict[str, dict]:
    """The rows of a way to scramble, by kind of file."""
    return {row["channel"]: row for row in record["rows"] if row["scheme"] == scheme}


def _bits(row: dict) -> str:
    return "" if row["key_bits"] is None else f"{row['key_bits']:,.0f}"


def _percent(value: float, error: float) -> str:
    return f"{value:.2%} ± {100 * error:.2f}"
