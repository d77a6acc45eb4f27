"""Files that are whole or not there, that keep to the umask, and leave other programs' alone."""

import errno
import os
import stat
import tempfile
from contextlib import suppress

import pytest

from utils.io.atomic import STRAY, write_atomically, write_text
from utils.io.run_files import clear_strays
from utils.runtime.errors import UserError


def test_what_fails_half_way_leaves_the_old_file_alone(tmp_path):
    write_text(tmp_path / "f", "old")

    def fail(file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(UserError, match="disk full"):
        write_atomically(tmp_path / "f", fail)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("f", "old")]


def test_an_error_of_the_system_names_the_file_whatever_is_made_of_it(tmp_path):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail(file):
        with suppress(OSError):
            file.write(b"x")
        raise RuntimeError("unexpected pos 64 vs 0")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "NamedTemporaryFile", lambda **where: Full(full, where))
        with pytest.raises(UserError, match="No space left") as error:
            write_atomically(tmp_path / "f", fail)
    assert str(error.value).startswith(f"{tmp_path / 'f'}: ") and not list(tmp_path.iterdir())


class Full:
    """A temporary file on a full disk."""

    def __init__(self, error, where):
        self.error, self.path = error, where["dir"] / "temporary"
        self.path.touch()
        self.name, self.file = str(self.path), self.path.open("wb")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()

    def fileno(self):
        return self.file.fileno()

    def close(self):
        self.file.close()

    def write(self, data):
        raise self.error


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
@pytest.mark.parametrize(
    ("umask", "mode", "expected"), [(0o022, 0o644, 0o644), (0o077, 0o644, 0o600)]
)
def test_a_private_umask_is_kept(tmp_path, umask, mode, expected):
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "f", lambda file: file.write(b"x"), mode)
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == expected


def test_only_our_own_strays_are_cleared(tmp_path):
    (tmp_path / f"last.pt.abc{STRAY}").touch()
    (tmp_path / "letter.tmp").touch()
    clear_strays(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["letter.tmp"]
