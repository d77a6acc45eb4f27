"""What was keyed of torchvision in Markdown, from what ``key_torchvision.py`` wrote."""

from experiments.lib.tables import markdown_table


def markdown(rows: list[dict]) -> str:
    """The rows as a table, one line per architecture and size."""
    headings = ["architecture", "H x W", "difference with the key", "without", "cost"]
    lines = []
    for row in rows:
        height, width = row["image_size"]
        if "reason" in row:
            cells = (row["reason"], "", "")
        else:
            with_key = f"{row['difference']:.0e}" if row["difference"] else "0"
            with_key += "" if row["exact"] else " **not exact**"
            cells = (with_key, f"{row['difference_without_key']:.0e}", f"{row['cost']:.2f}x")
        lines.append((row["net"], f"{height} x {width}", *cells))
    return markdown_table(headings, lines)


def short(rows: list[dict]) -> str:
    """The rows as a table of one line per architecture, its image sizes side by side."""
    lines = []
    nets: dict[str, list[dict]] = {}
    for row in rows:
        nets.setdefault(row["net"], []).append(row)
    for name, group in nets.items():
        sizes = ", ".join("{} x {}".format(*row["image_size"]) for row in group)
        reasons = [row["reason"] for row in group if "reason" in row]
        if reasons:
            cells = (f"refused: {reasons[0]}", "", "")
        else:
            exact = "yes" if all(row["exact"] for row in group) else "**no**"
            difference = f"{max(row['difference'] for row in group):.0e}"
            cells = (exact, difference, ", ".join(f"{row['cost']:.2f}x" for row in group))
        lines.append((name, sizes, *cells))
    return markdown_table(["architecture", "H x W", "exact", "difference", "cost"], lines, left=3)


def sentence(rows: list[dict]) -> str:
    """How many architectures were keyed, how exactly, and at what cost."""
    nets = {row["net"] for row in rows}
    refused = {row["net"] for row in rows if "reason" in row}
    keyed = [row for row in rows if "reason" not in row]
    inexact = {row["net"] for row in keyed if not row["exact"]}
    costs = [row["cost"] for row in keyed]
    return (
        f"Of {len(nets)} architectures of torchvision, {len(nets - refused)} were keyed and "
        f"{len(nets - refused - inexact)} of these give the plain network's output up to rounding; "
        f"a forward pass takes {min(costs):.2f} to {max(costs):.2f} times as long.\n"
    )
