"""Put the measured first table into README.md, from the committed ``results/table1.json``.

    python3 readme.py

The block between ``<!-- table1 -->`` and ``<!-- /table1 -->`` is replaced.
"""

import json
from pathlib import Path

import conf
from table1 import markdown

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


def main() -> None:
    cli.Parser("Put the measured first table into README.md.").parse_args()
    try:
        block = markdown(json.loads(TABLE.read_text()))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{TABLE}: cannot be used ({error}); make it with table1.py") from error
    try:
        text = put_block(README.read_text(), "table1", block)
    except UserError as error:
        raise UserError(f"{README}: {error}") from error
    write_atomically(README, lambda file: file.write(text.encode()))


if __name__ == "__main__":
    cli.run(main)
