"""Results that a later run goes on from."""

import json

import pytest

from experiments.lib.results import read_results, write_results
from utils.runtime.errors import UserError

RECORD = {"settings": {"images": 4}, "rows": [1, 2]}


def test_what_was_written_comes_back(tmp_path):
    path = tmp_path / "new" / "zoo.json"
    assert read_results(path, {}) is None
    write_results(path.parent, "zoo", RECORD)
    found = read_results(path, {"settings": {"images": 4}}, "rows")
    assert found["rows"] == [1, 2] and found["command"] and found["environment"]


def test_other_settings_are_refused(tmp_path):
    path = tmp_path / "zoo.json"
    path.write_text(json.dumps(RECORD))
    with pytest.raises(UserError, match=r"zoo.json: was made with other settings; give another"):
        read_results(path, {"settings": {"images": 5}})


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"settings": {"images": 4}}'])
def test_a_file_that_cannot_be_used_is_named(tmp_path, content):
    path = tmp_path / "zoo.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"zoo.json: cannot be used .*; remove it"):
        read_results(path, {"settings": {"images": 4}}, "rows")
