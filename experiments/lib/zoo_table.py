"""What was keyed, in Markdown, from what ``key_zoo.py`` wrote."""

import statistics

from experiments.lib.tables import markdown_table

SOURCES = {
    "torchvision": "torchvision",
    "timm": "timm",
    "smp": "segmentation_models_pytorch",
    "transformers": "transformers",
}
LOW = 0.9  # shares below it are listed


def markdown(rows: list[dict]) -> str:
    """The rows as a table, one line for each network."""
    headings = ["network", "H x W", "parameters", "exact", "scrambled", "to key, s", "cost"]
    return markdown_table(headings, map(_cells, rows), left=2)


def _cells(row: dict) -> tuple:
    side, millions = row["settings"]["side"], row["parameters"] / 1e6
    start = (row["net"], f"{side} x {side}", f"{millions:.1f} M")
    if "reason" in row:
        return (*start, f"no: {row['reason'].replace('|', ' ')}", "", "", "")
    exact = "yes" if row["exact"] else "**no**"
    return (*start, exact, f"{row['share']:.1%}", f"{row['build_s']:.1f}", f"{row['cost']:.2f}x")


def summary(record: dict) -> str:
    """Counts, shares and costs of each source in a table; then the networks that stand out."""
    lines, rows = [], record["rows"]
    for source, package in SOURCES.items():
        group = [row for row in rows if row["net"].startswith(f"{source}:")]
        keyed = [row for row in group if row["exact"]]
        if keyed:
            shares, costs = [r["share"] for r in keyed], [r["cost"] for r in keyed]
            share = f"{statistics.median(shares):.1%}, {min(shares):.1%}"
            cost = f"{statistics.median(costs):.2f}x, {max(costs):.2f}x"
            lines.append((package, len(group), len(keyed), share, cost))
    headings = ["networks of", "tried", "exact", "scrambled: median, least", "cost: median, most"]
    missing = record["listed"] - len(rows)
    left = f"{missing} networks of the list are not measured yet.\n\n" if missing > 0 else ""
    return f"{markdown_table(headings, lines, left=1)}\n{left}{_exceptions(rows)}".rstrip() + "\n"


def _exceptions(rows: list[dict]) -> str:
    refused = [f"- {row['net']}: {row['reason']}" for row in rows if "reason" in row]
    low = sorted((r for r in rows if r["exact"] and r["share"] < LOW), key=lambda r: r["share"])
    shown = ", ".join(f"{row['net']} {row['share']:.0%}" for row in low)
    parts = [f"Less than {LOW:.0%} stays scrambled in: {shown}.\n"] if low else []
    return "\n".join([*parts, *(["Not keyed:\n", *refused, ""] if refused else [])])


def sentence(rows: list[dict]) -> str:
    """How many networks were keyed, how much stays scrambled, and at what cost."""
    keyed = [row for row in rows if row["exact"]]
    shares, costs = [row["share"] for row in keyed], [row["cost"] for row in keyed]
    return (
        f"Of {len(rows)} networks of torchvision, timm and others, {len(keyed)} were keyed and "
        f"give the plain output up to rounding; {statistics.median(shares):.0%} of the bytes "
        f"of their maps stay scrambled in the median, and a forward pass takes "
        f"{statistics.median(costs):.2f} times as long.\n"
    )
