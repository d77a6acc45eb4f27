"""All attacks in one table: how far each one got against each scheme.

The figures are read from the committed ``results/NAME/NAME.json``. ``experiments/readme.py`` puts
the table into the pages, and the commands that repeat the attacks.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from experiments.conf import ROOT
from experiments.lib.commands import pasteable
from experiments.lib.schemes import RESULTS, SCHEMES
from experiments.lib.tables import markdown_table
from utils.runtime.errors import UserError


@dataclass(frozen=True)
class Headline:
    """The figure that stands for an attack.

    Attributes:
        attack: the name of the script and of its results.
        title: what was attacked, and what the figure is.
        column: of the results that holds the figure; the largest one counts, as the attacker
            chooses how to go about it.
        where: one of which the rows that count hold in other columns.
    """

    attack: str
    title: str
    column: str
    where: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def counting(self, rows: list[dict], scheme: str) -> list[dict]:
        """The rows that count for a scheme."""
        wanted = {"scheme": (scheme,), **self.where}
        return [row for row in rows if all(row[name] in held for name, held in wanted.items())]


HEADLINES = (
    Headline(
        "known_plaintext",
        "one picture known: share of another picture put in place",
        "right on another image",
        {"known pairs": ("1",)},
    ),
    Headline("ciphertext_only", "none known: share of the pixels put in place", "exact"),
    Headline(
        "known_model", "none known, but the weights: accuracy on what is recovered", "accuracy"
    ),
    Headline(
        "key_free_learning",
        "labels known: accuracy of a network trained briefly on them",
        "accuracy",
    ),
    Headline(
        "literature",
        "pairs under the same key known: accuracy on what a learned inverse gives",
        "accuracy",
        {"attack": ("ITN global, same key", "ITN local, same key")},
    ),
    Headline("feature_maps", "first layer's maps seen: share of positions put in place", "exact"),
    Headline("key_search", "every key tried: time on one core", "one core"),
)


def markdown(results: Path = RESULTS, page: Path = ROOT) -> str:
    """The table in Markdown: a row for each attack, a column for each scheme.

    Args:
        results: folder of the attacks' folders of results.
        page: folder of the page that shows it, where its links start.

    Raises:
        UserError: for results that are there and cannot be used.
    """
    lines, missing = [], []
    for headline in HEADLINES:
        path = results / headline.attack / f"{headline.attack}.json"
        if path.is_file():
            link = (RESULTS / headline.attack / f"{headline.attack}.md").relative_to(page)
            lines.append([f"[{headline.title}]({link})", *_cells(headline, path)])
        else:
            missing.append(f"`{headline.attack}.py`")
    table = markdown_table(["attack", *SCHEMES], lines, left=1)
    return f"{table}\nNot measured: {', '.join(missing)}.\n" if missing else table


def commands(weights: str) -> list[str]:
    """The command of each attack that was measured, to be pasted at the repository's root.

    Args:
        weights: where the weights of the network under attack lie, for the shell.
    """
    shown = []
    for headline in HEADLINES:
        name = headline.attack
        record = json.loads((RESULTS / name / f"{name}.json").read_text())
        script = f"experiments/attacks/{name}.py"
        flags = {"weights": weights, "out_dir": None, "attack": None}  # whichever ran last: all
        shown.append(pasteable(record["command"], script, **flags))
    return shown


def _cells(headline: Headline, path: Path) -> Iterator[str]:
    """The cell of each scheme; a dash where it was not attacked."""
    try:
        rows = json.loads(path.read_text())["rows"]
        for scheme in SCHEMES:
            figures = [row[headline.column] for row in headline.counting(rows, scheme)]
            best = max(figures, default="-")
            yield best if isinstance(best, str) else f"{best:.1%}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: cannot be used ({error!r}); make it with {headline.attack}.py"
        ) from error
