"""The second table in Markdown, from what ``table2.py`` wrote; published apart from measured."""

from experiments.lib.tables import markdown_table


def markdown(table: dict) -> str:
    """The table in Markdown, from what ``table2_BUDGET.json`` holds."""
    headings = ["CIFAR-10", "network", "pictures", "parameters", "published"]
    headings += [f"measured here, budget {table['budget']}", "keyed / plain"]
    rows = [
        (
            row["name"],
            row["settings"]["net"],
            row["settings"]["cipher"] or "plain",
            f"{row['parameters']:,}",
            "" if row["published"] is None else f"{row['published']:.2%}",
            f"{row['accuracy']:.2%}",
            "" if row["cost"] is None else f"{row['cost']:.2f}x",
        )
        for row in table["rows"]
    ]
    lines = [markdown_table(headings, rows, left=3), f"`{table['command']}`."]
    lines += [_training(row) for row in table["rows"] if "record" in row]
    lines += [
        f"{row['name']}: {row['same_predictions']} of {row['images']} predictions are the plain "
        "network's."
        for row in table["rows"]
        if "same_predictions" in row
    ]
    return "\n".join(lines) + "\n"


def _training(row: dict) -> str:
    record, recipe = row["record"], row["settings"]["recipe"]
    minutes = sum(epoch["seconds"] for epoch in record["epochs"]) / 60
    hardware = record["gpu"] or f"{record['cpu']}, threads: {record['threads']}"
    return (
        f"{row['name']}: {recipe['optimizer']}, epochs: {recipe['epochs']}, training images: "
        f"{record['images']['train']}, {minutes:.0f} minutes on {hardware}."
    )
