"""What ``table_segmentation.py`` measured, in Markdown: with and without the key, and the cost."""

from experiments.conf import CHECKPOINT_DIR
from experiments.lib.accuracy_table import provenance
from experiments.lib.commands import check_seed, pasteable
from experiments.lib.tables import markdown_table

SCRIPTS = "experiments/segmentation"
RIGHT_KEY = "keyed network, right key"


def markdown(table: dict) -> str:
    """The rows, each class of them, the cost, and how the weights came about."""
    return "\n".join([short(table), classes(table), cost(table), how(table)])


def how(table: dict) -> str:
    """Where the rows come from."""
    lines = [f"- Key {table['key']}, weights {table['weights_sha256'][:16]}."]
    if table["training"] is not None:
        lines.append(f"- Training: {provenance(table['training'])}")
    machine = table.get("environment")
    if machine is not None:
        rounds = table["cost"][0]["rounds"]
        name = machine["gpu"] or f"{machine['cpu']}, threads: {machine['threads']}"
        lines.append(f"- Time and memory: medians of {rounds} rounds, channels_last, {name}.")
    return "\n".join(lines) + "\n"


def commands(table: dict, out_dir: str) -> list[str]:
    """The commands that repeat the table, to be pasted at the repository's root.

    Args:
        table: what ``table_segmentation.json`` holds.
        out_dir: folder of the results, from the repository's root.

    Raises:
        UserError: if the key of the table is not the published seed.
    """
    check_seed(table["key"], table["dataset"])
    shown = []
    if table["training"] is not None:
        command = table["training"]["command"]
        shown.append(pasteable(command, f"{SCRIPTS}/train_voc.py", data_dir="DIR", resume=None))
    shipped = (CHECKPOINT_DIR / table["weights"]).is_file()
    values = {
        "weights": f"checkpoints/{table['weights']}" if shipped else "PATH",
        "data_dir": "DIR",
        "out_dir": out_dir,
    }
    return [*shown, pasteable(table["command"], f"{SCRIPTS}/table_segmentation.py", **values)]


def short(table: dict) -> str:
    """A row for each way to use the weights."""
    count = len(table["classes"])
    headings = [f"{table['net']} on {table['dataset']}", f"mean IoU, {count} classes"]
    headings += ["pixel accuracy", "maps equal to the plain network's"]
    lines = [
        (
            row["name"],
            f"{row['miou']:.1%}",
            f"{row['pixel_accuracy']:.1%}",
            f"{row['same_maps']} of {table['images']}",
        )
        for row in table["rows"]
    ]
    return markdown_table(headings, lines, left=1)


def column(table: dict) -> tuple[str, dict[str, str]]:
    """The mean IoU of each row, to stand beside the accuracies of classifiers: heading, cells."""
    heading = f"{table['net']} on {table['dataset']}, mean IoU"
    return heading, {row["name"]: f"{row['miou']:.2%}" for row in table["rows"]}


def agreement(table: dict) -> str:
    """How many label maps the key leaves as they are."""
    keyed = next(row for row in table["rows"] if row["name"] == RIGHT_KEY)
    return (
        f"{keyed['same_maps']} of {table['images']} label maps of {table['net']} are equal, too, "
        "pixel for pixel.\n"
    )


def classes(table: dict) -> str:
    """The IoU of each class."""
    lines = zip(table["classes"], *(row["iou"] for row in table["rows"]), strict=True)
    headings = ["IoU", *(row["name"] for row in table["rows"])]
    cells = ([name, *map(_share, values)] for name, *values in lines)
    return markdown_table(headings, cells, left=1)


def cost(table: dict) -> str:
    """Time and memory of one picture, keyed over plain."""
    headings = ["one picture", "plain, ms", "keyed, ms", "keyed / plain"]
    headings += ["plain, peak MiB", "keyed, peak MiB", "keying the network, s"]
    lines = []
    for row in table["cost"]:
        times = [f"{1e3 * row[name]:.0f}" for name in ("plain_s", "keyed_s")]
        peaks = [_mebibytes(row["peak_bytes"][name]) for name in ("plain", "keyed")]
        height, width = row["size"]
        name = f"{height}x{width}"
        lines.append((name, *times, f"{row['ratio']:.2f}", *peaks, f"{row['build_s']:.2f}"))
    return markdown_table(headings, lines, left=1)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _mebibytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 2**20:.0f}"
