"""Put what was measured into README.md, from the committed results.

    make readme

Each block, between ``<!-- NAME -->`` and ``<!-- /NAME -->``, is replaced: ``table1`` by the paper's
first table, ``preresnet20`` by the same of the shipped weights, ``speed`` by the times of keyed
networks, ``architectures`` by what was keyed of torchvision's, ``attacks`` by the comparison of all
attacks.
"""

import json
from collections.abc import Callable

from experiments.conf import ROOT
from experiments.lib import accuracy_table, architectures_table, summary
from experiments.lib.speed_table import speed_table
from utils import cli
from utils.io.atomic import write_text
from utils.runtime.errors import UserError

README = ROOT / "README.md"


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


def blocks() -> dict[str, str]:
    """Every block of README.md, by its name.

    Raises:
        UserError: for results that cannot be used.
    """
    return {
        "table1": _from("classification/table1.json", "table1.py", accuracy_table.markdown),
        "preresnet20": _from(
            "classification/preresnet20/table1.json", "table1.py", accuracy_table.markdown
        ),
        "speed": _from("benchmark/speed.json", "speed.py", speed_table),
        "architectures": _from(
            "keying/key_torchvision.json",
            "key_torchvision.py",
            lambda record: architectures_table.short(record["rows"]),
        ),
        "attacks": summary.markdown(),
    }


def _from(name: str, script: str, show: Callable[[dict], str]) -> str:
    """What ``show`` makes of the results ``FOLDER/NAME`` that ``script`` wrote."""
    folder, _, file = name.partition("/")
    path = ROOT / "experiments" / folder / "results" / file
    try:
        return show(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be used ({error!r}); make it with {script}") from error


def main() -> None:
    cli.Parser("Put what was measured into README.md.").parse_args()
    made = blocks()
    text = README.read_text()
    try:
        for name, block in made.items():
            text = put_block(text, name, block)
    except UserError as error:
        raise UserError(f"{README}: {error}") from error
    write_text(README, text)


if __name__ == "__main__":
    cli.run(main)
