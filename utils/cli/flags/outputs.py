"""Checks, before any work, that results can be written after it."""

import tempfile
from pathlib import Path

from utils.runtime.errors import UserError


def writable_folder(path: Path, flag: str) -> None:
    """Refuse, before any work, a folder that could not be made or written after it; makes nothing.

    Raises:
        UserError: naming the flag and the path.
    """
    there = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not there.is_dir():
        raise UserError(f"{flag} {path}: {there} is not a folder; expected one to write to")
    _check_writable(there, f"{flag} {path}")


def writable_file(path: Path | None, flag: str) -> None:
    """Refuse, before any work, a file that could not be written after it.

    Raises:
        UserError: naming the flag and the path.
    """
    if path is None:
        return
    if path.exists() and not path.is_file():
        raise UserError(f"{flag} {path}: is there and is not a file; expected a file to write")
    if not path.parent.is_dir():
        raise UserError(f"{flag} {path}: there is no folder {path.parent}")
    _check_writable(path.parent, f"{flag} {path}")


def _check_writable(folder: Path, what: str) -> None:
    """Try it with a nameless file: permissions alone do not tell on a read-only file system."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"{what}: cannot be written ({error.strerror})") from error
