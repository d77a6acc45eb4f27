"""Where measurements go: a JSON file that says how they came about, and a table beside it."""

from pathlib import Path

from utils.io.atomic import write_text
from utils.io.run_record import environment, public_command, write_json


def write_results(out_dir: Path, name: str, record: dict, text: str | None = None) -> None:
    """Write ``name.json``, the record with its command and environment, and ``name.md``.

    Args:
        out_dir: a folder, made if it is missing.
        name: of both files.
        record: what was measured.
        text: Markdown; None for no such file.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    origin = {"command": public_command(), "environment": environment()}
    write_json(out_dir / f"{name}.json", origin | record)
    if text is not None:
        write_text(out_dir / f"{name}.md", text)
