"""Errors in words that a user can act on."""

import urllib.error

import pytest

from utils.runtime.errors import in_words


def test_files_are_named_once_and_without_a_number(tmp_path):
    missing = tmp_path / "missing"
    with pytest.raises(OSError) as failed:
        missing.read_text()
    assert in_words(failed.value) == f"{missing}: No such file or directory"
    assert in_words(OSError(28, "No space left on device")) == "No space left on device"


def test_a_download_says_why_it_failed():
    cause = OSError(-2, "Name or service not known")
    assert in_words(urllib.error.URLError(cause)) == "Name or service not known"
    assert "404: Not Found" in in_words(urllib.error.HTTPError("u", 404, "Not Found", {}, None))


def test_other_errors_speak_for_themselves():
    assert in_words(ValueError("expected a number")) == "expected a number"
