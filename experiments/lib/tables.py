"""Tables in Markdown: one writer for all that the scripts publish."""

from collections.abc import Iterable, Sequence


def markdown_table(
    headings: Sequence[str], rows: Iterable[Iterable[object]], left: int | None = None
) -> str:
    """A table with a line for each row; ends with a newline.

    Args:
        headings: of the columns.
        rows: the cells of each row, as many as headings.
        left: how many of the first columns are text, flush left; the others are figures, flush
            right. None for all of them.
    """
    left = len(headings) if left is None else left
    rule = "|" + "---|" * left + "---:|" * (len(headings) - left)
    lines = [_line(headings), rule, *map(_line, rows)]
    return "\n".join(lines) + "\n"


def counted(number: float, unit: str) -> str:
    """A number to the next whole one, with its unit, as ``1 minute`` or ``2 minutes``."""
    return f"{number:.0f} {unit}" + ("" if round(number) == 1 else "s")


def _line(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"
