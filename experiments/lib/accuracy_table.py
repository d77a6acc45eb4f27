"""The first table in Markdown, from what ``table1.py`` wrote, with how each row came about."""

from collections.abc import Sequence

from experiments.lib.commands import check_seed, pasteable
from experiments.lib.tables import counted, markdown_table

SCRIPTS = "experiments/classification"
WEIGHTS = "$WEIGHTS"  # of the shell: the run that the training printed


def markdown(table: dict) -> str:
    """The table in Markdown, from what ``table1.json`` holds; commands as recorded."""
    lines = [
        rows(table),
        f"Table: `{table['command']}`, key {table['key']}, weights {table['weights_sha256'][:16]}.",
    ]
    for title, record in _runs(table):
        lines.append(f"{title}: `{record['command']}`, {provenance(record)}")
    return "\n".join(lines) + "\n"


def rows(table: dict) -> str:
    """The rows, and how the keyed network compares with the plain one image by image."""
    headings = [f"{table['net']} on {table['dataset']}, accuracy", "published", "measured"]
    lines = [(row["name"], _published(row), f"{row['accuracy']:.2%}") for row in table["rows"]]
    return f"{markdown_table(headings, lines, left=1)}\n{agreement([table])}"


def agreement(tables: Sequence[dict]) -> str:
    """On how many images the keyed networks of tables answer as the plain ones do."""
    same = sum(table["same_predictions"] for table in tables)
    images = sum(table["rows"][0]["images"] for table in tables)
    largest = max(table["largest_logit_difference"] for table in tables)
    by = f" by more than {largest:.1g}" if largest else ""
    return (
        f"With the key, {same} of {images} predictions equal the plain network's; no logit "
        f"differs{by}.\n"
    )


def side_by_side(tables: Sequence[dict], more: tuple[str, dict[str, str]] = ("", {})) -> str:
    """Tables of one data set as one with a column for each network, and how far these agree.

    Args:
        tables: the networks' tables.
        more: the heading of a further column and its cells, by row; none without a heading.
    """
    first, (heading, cells) = tables[0], more
    headings = [
        f"{first['dataset']}, accuracy",
        f"{first['net']}, published",
        *(table["net"] for table in tables),
        *filter(None, [heading]),
    ]
    measured = zip(*(table["rows"] for table in tables), strict=True)
    lines = [
        (
            rows[0]["name"],
            _published(rows[0]),
            *(f"{row['accuracy']:.2%}" for row in rows),
            *([cells.get(rows[0]["name"], "")] if heading else []),
        )
        for rows in measured
    ]
    return f"{markdown_table(headings, lines, left=1)}\n{agreement(tables)}"


def how(table: dict) -> str:
    """How the rows came about, and the commands that repeat them, to be pasted."""
    lines = [f"- Key {table['key']}, weights {table['weights_sha256'][:16]}."]
    lines += [f"- {title}: {provenance(record)}" for title, record in _runs(table)]
    return "\n".join(lines) + "\n"


def commands(table: dict, weights: str, out_dir: str) -> list[str]:
    """The commands that repeat a table, to be pasted at the repository's root.

    Args:
        table: what ``table1.json`` holds.
        weights: where the trained weights lie, for the shell; ``WEIGHTS`` are found first.
        out_dir: folder of the results, from the repository's root.

    Raises:
        UserError: if the key of the table is not the published seed.
    """
    check_seed(table["key"], table["dataset"])
    script = f"{SCRIPTS}/table1.py"
    made = pasteable(table["command"], script, weights=weights, out_dir=out_dir)
    record = table["training"]
    training = pasteable(
        record["command"],
        f"{SCRIPTS}/train_cifar10.py",
        record.get("processes", 1),
        seed=None,  # trained on plain images: its seed was no key of anything
    )
    return [training, *([newest(table["net"])] if weights == WEIGHTS else []), made]


def newest(net: str) -> str:
    """The shell's way to set ``WEIGHTS`` to the weights that were trained last."""
    return f"WEIGHTS=$(ls -t checkpoints/{net}/*/last.pt | head -1)"


def _published(row: dict) -> str:
    return "" if row["published"] is None else f"{row['published']:.1%}"


def _runs(table: dict) -> list[tuple[str, dict]]:
    runs = {"Training": table["training"], "Fine-tuning": table["fine_tuning"]}
    return [(title, record) for title, record in runs.items() if record is not None]


def provenance(record: dict) -> str:
    """How a run came by its weights."""
    epochs = counted(len(record["epochs"]), "epoch")
    minutes = sum(epoch["seconds"] for epoch in record["epochs"]) / 60
    hardware = record["gpu"] or f"{record['cpu']}, {counted(record['threads'], 'thread')}"
    if (processes := record.get("processes", 1)) > 1:
        hardware += f" in each of {processes} processes"
    chosen = {
        "last": "the last epoch is reported, whatever its test accuracy",
        "test": "epoch chosen on the test set",
    }
    selection = chosen.get(record["select"], "epoch chosen on the validation split")
    commits = dict.fromkeys(_short(part["commit"]) for part in record["resumed"])
    resumed = "".join(f", resumed at {commit}" for commit in commits)
    return (
        f"{epochs}, training seed {record['train_seed']}, {counted(minutes, 'minute')} on "
        f"{hardware}; {selection}; commit {_short(record['commit'])}{resumed}."
    )


def _short(commit: str | None) -> str:
    """A commit by its first digits; where files had changed since, it says so."""
    digits, changed, _ = str(commit).partition("+")
    return digits[:7] + (" with changes" if changed else "")
