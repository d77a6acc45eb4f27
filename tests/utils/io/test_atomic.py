"""Files that are whole or not there, that keep to the umask, and leave other programs' alone."""

import os
import stat

import pytest

from utils.io.atomic import STRAY, write_atomically, write_text
from utils.io.run_files import clear_strays


def test_what_fails_half_way_leaves_the_old_file_alone(tmp_path):
    write_text(tmp_path / "f", "old")

    def fail(file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(tmp_path / "f", fail)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("f", "old")]


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
