"""What the tests of the scripts share beside fixtures: where things are, and how a script ended."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "experiments" / "classification"
SEED = 3141592653  # a key that cannot appear by accident in a number that is printed


@dataclass(frozen=True)
class Result:
    """How a script ended: exit status, stdout, stderr."""

    status: int
    out: str
    err: str


def files_below(folder: Path) -> list[str]:
    """Every file and folder below a folder, as relative paths."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))
