"""The second table in Markdown, from what ``table2.py`` wrote; published apart from measured."""

from experiments.lib.rivals import BUDGETS
from experiments.lib.tables import counted, markdown_table

PUBLISHED = {row.name: row.published for row in BUDGETS["full"]}  # of networks of full size


def markdown(table: dict) -> str:
    """The table in Markdown, from what ``table2_BUDGET.json`` holds; its command as recorded."""
    return f"{rows(table)}\n`{table['command']}`.\n{how(table)}"


def rows(table: dict) -> str:
    """The rows that were run; those of this budget that were not are named."""
    headings = ["CIFAR-10", "network", "pictures", "parameters", "published, full size"]
    headings += [f"measured here, budget {table['budget']}", "keyed / plain"]
    lines = [
        (
            row["name"],
            row["settings"]["net"],
            row["settings"]["cipher"] or "plain",
            f"{row['parameters']:,}",
            "" if (published := PUBLISHED.get(row["name"])) is None else f"{published:.2%}",
            f"{row['accuracy']:.2%}",
            "" if row["cost"] is None else f"{row['cost']:.2f}x",
        )
        for row in table["rows"]
    ]
    missing = table["not_run"]
    note = f"\nNot run yet: {'; '.join(missing)}.\n" if missing else ""
    return markdown_table(headings, lines, left=3) + note


# what the paper compares, and what else says most
SHORT = (
    *("plain images", "ours, with the key", "ours on EtC's pictures, with the key"),
    *("ours, without the key", "ELE", "EtC as published", "EtC", "PrivConv (inferred)"),
)


def short(table: dict, line: str, accuracy: dict[str, float]) -> str:
    """The methods side by side: published figures above those that were measured.

    Of a rival with and without the adaptation network, the better one counts.

    Args:
        table: what ``table2_BUDGET.json`` holds.
        line, accuracy: the name and the accuracies, by row, of a network trained elsewhere.
    """
    found = {row["name"]: row["accuracy"] for row in table["rows"]}

    def best(accuracy: dict[str, float | None], name: str) -> str:
        figures = (accuracy.get(name), accuracy.get(f"{name}, adapted"))
        known = [figure for figure in figures if figure is not None]
        return f"{max(known):.2%}" if known else ""

    lines = [
        (text, *(best(accuracy, name) for name in SHORT))
        for text, accuracy in (
            ("published, networks of full size", PUBLISHED),
            (line, accuracy),
            (_budget(table), found),
        )
    ]
    return markdown_table(["CIFAR-10, accuracy", *SHORT], lines, left=1)


def _budget(table: dict) -> str:
    recipe = table["rows"][0]["settings"]["recipe"]
    return f"here, small networks, epochs: {recipe['epochs']}"


def how(table: dict) -> str:
    """How each network was trained, and how far a keyed one answers as the plain one."""
    lines = [f"- {_training(row)}" for row in table["rows"] if "record" in row]
    lines += [
        f"- {row['name']}: {row['same_predictions']} of {row['images']} predictions are the plain "
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
        f"{record['images']['train']}, {counted(minutes, 'minute')} on {hardware}."
    )
