"""Write files atomically: a reader sees the old file or the new one, never half of one."""

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from utils.runtime.errors import UserError

STRAY = ".privdl-tmp"  # suffix of what a killed process leaves half-written


def write_atomically(path: Path, write: Callable[[BinaryIO], None], mode: int = 0o644) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it to the disk and put it there.

    Args:
        path: the file to create or replace; its folder must exist.
        write: writes the content to the open binary file that it is given.
        mode: who may read the file at most, from the moment it has any content; the user's umask
            takes its part away.

    Raises:
        UserError: if the file cannot be written, also where ``write`` makes another error of it;
            and whatever else ``write`` raises. ``path`` is then as it was, and nothing is left
            beside it.
    """
    where = {"dir": path.parent, "prefix": f"{path.name}.", "suffix": STRAY, "delete": False}
    try:
        with tempfile.NamedTemporaryFile(**where) as file:
            temporary, remembering = Path(file.name), _Remembering(file)
            try:
                os.fchmod(file.fileno(), mode & ~_umask())
                write(remembering)
                file.flush()
                os.fsync(file.fileno())
                temporary.replace(path)
            except BaseException as error:
                temporary.unlink(missing_ok=True)
                if remembering.error is not None:
                    raise remembering.error from error
                raise
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    sync_folder(path.parent)


class _Remembering:
    """A file that keeps the error of a write: ``torch.save`` makes one about positions of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.error = file, None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


def write_text(path: Path, text: str) -> None:
    """``write_atomically`` of a text."""
    write_atomically(path, lambda file: file.write(text.encode()))


def _umask() -> int:
    mask = os.umask(0o077)  # it can only be read by setting it
    os.umask(mask)
    return mask


def sync_folder(folder: Path) -> None:
    """Flush renames in ``folder`` to the disk, where its file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)
