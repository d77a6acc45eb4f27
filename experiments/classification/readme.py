"""Put what was measured into README.md, from the committed results.

    python3 readme.py

Each block, between ``<!-- NAME -->`` and ``<!-- /NAME -->``, is replaced: ``table1`` by the paper's
first table, ``attacks`` by the comparison of all attacks.
"""

import json
from pathlib import Path

import conf
import table1

from experiments.attacks import summary
from utils import cli
from utils.cli import UserError
from utils.files import write_atomically

TABLE = Path(__file__).parent / "results" / "table1.json"
README = conf.ROOT / "README.md"


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
    return {"table1": _first_table(), "attacks": summary.markdown()}


def _first_table() -> str:
    try:
        return table1.markdown(json.loads(TABLE.read_text()))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{TABLE}: cannot be used ({error}); make it with table1.py") from error


def main() -> None:
    cli.Parser("Put what was measured into README.md.").parse_args()
    made = blocks()
    text = README.read_text()
    try:
        for name, block in made.items():
            text = put_block(text, name, block)
    except UserError as error:
        raise UserError(f"{README}: {error}") from error
    write_atomically(README, lambda file: file.write(text.encode()))


if __name__ == "__main__":
    cli.run(main)
