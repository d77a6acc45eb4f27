"""Where measurements go: a JSON file that says how they came about, and a table beside it.

Long measurements are written as they come, and read back by a later run, which goes on.
"""

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import torch

from utils.io import checkpoint
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


def collect_results(out_dir: Path, name: str, record: dict, text: str) -> dict:
    """``write_results`` of rows that have records of their own, unless the file holds them already.

    So a run that had nothing left to measure does not pass for the one that measured. Returns what
    the file holds.
    """
    earlier = read_results(out_dir / f"{name}.json", {}, "rows")
    if earlier is not None and earlier["rows"] == record["rows"]:
        return earlier
    write_results(out_dir, name, record, text)
    return record


def pictures_sha256(*splits: torch.Tensor) -> str:
    """SHA-256 in hex of the pictures of a data set, to tell whether a record is of these.

    The order of a split's pictures does not count: it differs with the form of the files.

    Args:
        splits: uint8 ``(N, 3, H, W)`` each.
    """
    each = [sorted(sha256(x.tobytes()).digest() for x in images.numpy()) for images in splits]
    return checkpoint.digest(each)


def read_results(path: Path, settings: dict, *needed: str) -> dict | None:
    """The record that an earlier run wrote, to go on from; None where there is none.

    Args:
        path: a JSON file.
        settings: entries that it must have, with these values.
        needed: names of other entries that it must have.

    Raises:
        UserError: it lacks an entry, or was made with other settings; they are named.
    """
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text())
        found = {name: record[name] for name in (*settings, *needed)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be used ({error!r}); remove it") from error
    if other := list(_differing(settings, found)):
        raise UserError(
            f"{path}: was made with other settings ({', '.join(other)}); give another -out_dir"
        )
    return record


def _differing(settings: dict, found: dict) -> Iterator[str]:
    """The names of settings whose values are not those that were found."""
    for name, value in settings.items():
        known = found.get(name)
        if isinstance(value, dict) and isinstance(known, dict):
            yield from _differing(value, known)
        elif value != known:
            yield name
