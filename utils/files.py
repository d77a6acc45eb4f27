"""Write files atomically: a reader sees the old file or the new one, never half of one."""

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, write: Callable[[BinaryIO], None], mode: int = 0o644) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it to the disk and put it there.

    Args:
        path: the file to create or replace; its folder must exist.
        write: writes the content to the open binary file that it is given.
        mode: who may read the file, from the moment it has any content.

    Raises:
        OSError: if the file cannot be written, and whatever ``write`` raises; ``path`` is then as
            it was, and nothing is left beside it.
    """
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
        temporary = Path(file.name)
        try:
            os.fchmod(file.fileno(), mode)
            write(file)
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    sync_folder(path.parent)


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
