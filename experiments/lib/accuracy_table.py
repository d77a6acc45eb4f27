"""The first table in Markdown, from what ``table1.py`` wrote, with how each row came about."""

from experiments.lib.tables import markdown_table


def markdown(table: dict) -> str:
    """The table in Markdown, from what ``table1.json`` holds."""
    headings = [f"{table['net']} on {table['dataset']}, accuracy", "published", "measured"]
    rows = [
        (
            row["name"],
            "" if row["published"] is None else f"{row['published']:.1%}",
            f"{row['accuracy']:.2%}",
        )
        for row in table["rows"]
    ]
    images = table["rows"][0]["images"]
    lines = [
        markdown_table(headings, rows, left=1),
        f"With the key, {table['same_predictions']} of {images} predictions equal the plain "
        f"network's; the largest difference of a logit is {table['largest_logit_difference']:.1e}.",
        "",
        f"Table: `{table['command']}`, key {table['key']}, weights {table['weights_sha256'][:16]}.",
    ]
    for name in ("training", "fine_tuning"):
        if table[name] is not None:
            lines.append(_provenance(name.replace("_", "-").capitalize(), table[name]))
    return "\n".join(lines) + "\n"


def _provenance(title: str, record: dict) -> str:
    """How a run came by its weights, in one sentence."""
    minutes = sum(epoch["seconds"] for epoch in record["epochs"]) / 60
    threads = "1 thread" if record["threads"] == 1 else f"{record['threads']} threads"
    hardware = record["gpu"] or f"{record['cpu']}, {threads}"
    chosen = {
        "last": "last epoch, the test set chose nothing",
        "test": "epoch chosen on the test set",
    }
    selection = chosen.get(record["select"], "epoch chosen on held-out training images")
    resumed = "".join(f", resumed at {_short(part['commit'])}" for part in record["resumed"])
    return (
        f"{title}: `{record['command']}`, epochs: {len(record['epochs'])}, training seed "
        f"{record['train_seed']}, {minutes:.0f} minutes on {hardware}; {selection}; "
        f"commit {_short(record['commit'])}{resumed}."
    )


def _short(commit: str | None) -> str:
    """A commit by its first digits; where files had changed since, it says so."""
    digits, changed, _ = str(commit).partition("+")
    return digits[:7] + (" with changes" if changed else "")
