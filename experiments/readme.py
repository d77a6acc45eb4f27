"""Put what was measured into the pages of documentation, from the committed results.

    make readme

Each block of a page, between ``<!-- NAME -->`` and ``<!-- /NAME -->``, is replaced by what
``PAGES`` makes of it. Commands are shown as they can be pasted at the repository's root.
"""

import json
from collections.abc import Callable
from pathlib import Path

from experiments.conf import ROOT
from experiments.lib import (
    accuracy_table,
    channel_table,
    literature_table,
    presets_table,
    report,
    rivals_table,
    segmentation_table,
    summary,
    zoo_table,
)
from experiments.lib.commands import pasteable, shell
from experiments.lib.speed_table import per_image_table, speed_table
from utils import cli
from utils.cli.flags import SEGMENTATION_FLAGS
from utils.io.atomic import write_text
from utils.runtime.errors import UserError
from utils.training.segmentation import SEGMENTATION_PRESETS

EXPERIMENTS = ROOT / "experiments"
BENCHMARK = "experiments/benchmark"
SEGMENTATION = EXPERIMENTS / "segmentation/results/table_segmentation.json"
CLASSIFICATION = "experiments/classification/results"
UNET = "checkpoints/unet_camvid.pt"
PRERESNET110 = "checkpoints/preresnet110.pt"
ETC = "classification/preresnet110/etc.json"


def put_block(text: str, name: str, block: str) -> str:
    """``text`` with ``block`` between the lines ``<!-- name -->`` and ``<!-- /name -->``.

    Raises:
        UserError: if ``text`` does not hold each of the two markers once, in this order.
    """
    first, last = f"<!-- {name} -->", f"<!-- /{name} -->"
    if text.count(first) != 1 or text.count(last) != 1 or text.index(first) > text.index(last):
        raise UserError(f"expected one {first} and, after it, one {last}")
    before, _, rest = text.partition(first)
    return f"{before}{first}\n{block.strip()}\n{last}{rest.partition(last)[2]}"


def up_to_date(page: str) -> str:
    """The text of a page of ``PAGES`` with every block made anew.

    Raises:
        UserError: naming the page, for results that cannot be used or a block without its place.
    """
    text = (ROOT / page).read_text()
    for name, make in PAGES[page].items():
        try:
            block = make()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{page}: results of {name} cannot be used ({error!r})") from error
        try:
            text = put_block(text, name, block)
        except UserError as error:
            raise UserError(f"{page}: {error}") from error
    return text


def _results(name: str) -> dict:
    """The committed results ``FOLDER/NAME``."""
    folder, _, file = name.partition("/")
    return json.loads((EXPERIMENTS / folder / "results" / file).read_text())


def _speed_results() -> list[dict]:
    """The committed results of ``speed.py``, one for each kind of processor."""
    paths = (ROOT / BENCHMARK / "results").glob("speed_*.json")
    return [_results(f"benchmark/{path.name}") for path in sorted(paths)]


def _vgg16() -> dict:
    return _results("classification/table1.json")


def _preresnet20() -> dict:
    return _results("classification/preresnet20/table1.json")


def _preresnet110() -> dict:
    return _results("classification/preresnet110/table1.json")


def _accuracy() -> str:
    """All networks in one table."""
    more = SEGMENTATION.is_file()
    column = segmentation_table.column(_segmentation_results()) if more else ("", {})
    shown = accuracy_table.side_by_side([_vgg16(), _preresnet110()], column)
    if more:
        shown = f"{shown.rstrip()} " + segmentation_table.agreement(_segmentation_results())
    return shown


def _accuracy_of(table: dict, out_dir: str, weights: str = accuracy_table.WEIGHTS) -> str:
    commands = accuracy_table.commands(table, weights, out_dir)
    parts = (accuracy_table.rows(table), accuracy_table.how(table), shell(*commands))
    return "\n".join(parts)


def _table2() -> str:
    table = _results("classification/table2_cpu.json")
    script = "experiments/classification/table2.py"
    command = f"python3 {script} -budget cpu -out_dir {CLASSIFICATION}"
    return "\n".join((rivals_table.rows(table), rivals_table.how(table), shell(command)))


def _table2_short() -> str:
    found = {row["name"]: row["accuracy"] for row in _preresnet110()["rows"]}
    ours = {
        "plain images": found["plain images"],
        "ours, with the key": found["keyed network, right key"],
        "ours, without the key": found["same weights, scrambled images"],
        "ours on EtC's pictures, with the key": _results(ETC)["accuracy"],
    }
    epochs = len(_preresnet110()["training"]["epochs"])
    name = f"here, PreResNet-110, epochs: {epochs}"
    return rivals_table.short(_results("classification/table2_cpu.json"), name, ours)


def _benchmark_command(record: dict, name: str, **values: str) -> str:
    """Older records name each file that was written, newer ones the folder."""
    files = values | dict.fromkeys(("json", "markdown", "png", "out_dir"))
    command = pasteable(record["command"], f"{BENCHMARK}/{name}.py", **files)
    held = "".join(f"{name}={value} " for name, value in record.get("held_back", {}).items())
    return f"{held}{command} -out_dir {BENCHMARK}/results"


def _speed() -> str:
    records = _speed_results()
    commands = shell(*(_benchmark_command(record, "speed") for record in records))
    return f"{speed_table(*records, everything=True)}\n{commands}"


def _per_image() -> str:
    record = _results("benchmark/per_image.json")
    return f"{per_image_table(record)}\n{shell(_benchmark_command(record, 'per_image'))}"


def _pipeline() -> str:
    return shell(_benchmark_command(_results("benchmark/pipeline.json"), "pipeline"))


def _jpeg() -> str:
    attacks = EXPERIMENTS / "attacks" / "results" / "literature" / "literature.json"
    rows = _results("attacks/literature/literature.json")["rows"] if attacks.is_file() else None
    return channel_table.short(_results("benchmark/jpeg_channel_cifar10.json"), rows)


def _jpeg_channel(dataset: str) -> str:
    record = _results(f"benchmark/jpeg_channel_{dataset}.json")
    folder = {"data_dir": "DIR"} if dataset == "camvid" else {}  # nothing downloads it
    command = _benchmark_command(record, "jpeg_channel", weights=UNET, **folder)
    parts = (channel_table.sentence(record), channel_table.markdown(record), shell(command))
    return "\n".join(parts)


def _zoo() -> str:
    record = _results("keying/zoo.json")
    script = "experiments/keying/key_zoo.py"
    command = pasteable(record["command"], script, out_dir="experiments/keying/results")
    return f"{zoo_table.summary(record)}\n{shell(command)}"


def _zoo_sentence() -> str:
    return zoo_table.sentence(_results("keying/zoo.json")["rows"])


def _attack_commands() -> str:
    return shell(accuracy_table.newest("vgg16"), *summary.commands(accuracy_table.WEIGHTS))


def _part_of(attack: str, where: Callable[[dict], bool], columns: tuple[str, ...]) -> str:
    """Some rows and columns of the results of an attack."""
    rows = _results(f"attacks/{attack}/{attack}.json")["rows"]
    return report.markdown([{c: row[c] for c in columns} for row in rows if where(row)])


def _known_plaintext() -> str:
    columns = ("scheme", "known pairs", "certain and right", "right on another image")
    return _part_of("known_plaintext", lambda row: row["known pairs"] != "5", columns)


def _ciphertext_only() -> str:
    columns = ("scheme", "images", "exact", "within 1 px", "accuracy")
    return _part_of("ciphertext_only", lambda row: row["attacker knows"] == "nothing", columns)


def _cipher_statistics() -> str:
    record = _results("attacks/cipher_statistics/cipher_statistics.json")
    script = "experiments/attacks/cipher_statistics.py"
    command = pasteable(record["command"], script, out_dir=None)
    return f"{report.markdown(record['rows'])}\n{shell(command)}"


def _literature(make: Callable[[list[dict]], str]) -> Callable[[], str]:
    """A table of the attacks of the literature."""
    return lambda: make(_results("attacks/literature/literature.json")["rows"])


def _segmentation_results() -> dict:
    return _results(f"segmentation/{SEGMENTATION.name}")


def _segmentation() -> str:
    """The results on segmentation, once there are some."""
    if not SEGMENTATION.is_file():
        return "Not measured yet."
    table = _segmentation_results()
    commands = segmentation_table.commands(table, "experiments/segmentation/results")
    return f"{segmentation_table.markdown(table)}\n{shell(*commands)}"


# page -> block -> what makes it
PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {
        "accuracy": _accuracy,
        "table2": _table2_short,
        "speed": lambda: speed_table(*_speed_results(), everything=False),
        "attacks": summary.markdown,
        "jpeg": _jpeg,
        "zoo": _zoo_sentence,
    },
    "experiments/classification/README.md": {
        "table1": lambda: _accuracy_of(_vgg16(), CLASSIFICATION),
        "preresnet110": lambda: _accuracy_of(
            _preresnet110(), f"{CLASSIFICATION}/preresnet110", PRERESNET110
        ),
        "preresnet20": lambda: _accuracy_of(_preresnet20(), f"{CLASSIFICATION}/preresnet20"),
        "table2": _table2,
        "presets": presets_table.markdown,
    },
    "experiments/attacks/README.md": {
        "attacks": lambda: summary.markdown(page=EXPERIMENTS / "attacks"),
        "commands": _attack_commands,
        "known_plaintext": _known_plaintext,
        "ciphertext_only": _ciphertext_only,
        "literature_best": _literature(literature_table.summary),
        "literature_ssim": _literature(lambda rows: literature_table.grid(rows, "SSIM")),
        "literature_accuracy": _literature(lambda rows: literature_table.grid(rows, "accuracy")),
        "jigsaws": _literature(literature_table.jigsaws),
        "cipher_statistics": _cipher_statistics,
    },
    "experiments/benchmark/README.md": {
        "speed": _speed,
        "per_image": _per_image,
        "pipeline": _pipeline,
        "jpeg_channel": lambda: _jpeg_channel("cifar10"),
        "jpeg_channel_camvid": lambda: _jpeg_channel("camvid"),
    },
    "experiments/segmentation/README.md": {
        "segmentation": _segmentation,
        "presets": lambda: presets_table.markdown(SEGMENTATION_PRESETS, SEGMENTATION_FLAGS),
    },
    "models/README.md": {"zoo": _zoo},
}


def main() -> None:
    cli.Parser("Put what was measured into the pages of documentation.").parse_args()
    made: dict[Path, str] = {ROOT / page: up_to_date(page) for page in PAGES}
    for path, text in made.items():
        write_text(path, text)


if __name__ == "__main__":
    cli.run(main)
