"""Where measurements go: a JSON file that says how they came about, and a table beside it.

Long measurements are written as they come, and read back by a later run, which goes on.
"""

import json
from pathlib import Path

from utils.io.atomic import write_text
from utils.io.run_record import environment, public_command, write_json
from utils.runtime.errors import UserError


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


def read_results(path: Path, settings: dict, *needed: str) -> dict | None:
    """The record that an earlier run wrote, to go on from; None where there is none.

    Args:
        path: a JSON file.
        settings: entries that it must have, with these values.
        needed: names of other entries that it must have.

    Raises:
        UserError: it lacks an entry, or was made with other settings.
    """
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text())
        found = {name: record[name] for name in (*settings, *needed)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be used ({error!r}); remove it") from error
    if settings != {name: found[name] for name in settings}:
        raise UserError(f"{path}: was made with other settings; give another -out_dir")
    return record
