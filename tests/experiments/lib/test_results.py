"""Results that a later run goes on from."""

import json

import pytest
import torch

from experiments.lib.results import (
    collect_results,
    pictures_sha256,
    read_results,
    write_results,
)
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
    path.write_text(json.dumps({"settings": {"images": 4, "net": "vgg16"}, "weights": "ab"}))
    wanted = {"settings": {"images": 5, "net": "vgg16", "side": 8}, "weights": "cd"}
    with pytest.raises(UserError, match=r"settings \(images, side, weights\); give another -out"):
        read_results(path, wanted)


def test_a_run_that_measured_nothing_leaves_the_record_of_the_one_that_did(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"command": "earlier", "rows": [1]}))
    collect_results(tmp_path, "rows", {"rows": [1]}, "text")
    assert json.loads(path.read_text()) == {"command": "earlier", "rows": [1]}
    assert not (tmp_path / "rows.md").exists()
    collect_results(tmp_path, "rows", {"rows": [1, 2]}, "text")
    assert json.loads(path.read_text())["command"] != "earlier"
    assert (tmp_path / "rows.md").read_text() == "text"


def test_pictures_are_told_apart_and_their_order_is_not():
    train, test = torch.randint(256, (2, 9, 3, 4, 5), dtype=torch.uint8)
    known = pictures_sha256(train, test)
    assert pictures_sha256(train.flip(0), test[torch.randperm(9)]) == known
    others = [pictures_sha256(*s) for s in ((test, train), (train, test[:8]), (train[:, :2], test))]
    test[4, 1, 2, 3] += 1
    assert len({known, *others, pictures_sha256(train, test)}) == 5


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"settings": {"images": 4}}'])
def test_a_file_that_cannot_be_used_is_named(tmp_path, content):
    path = tmp_path / "zoo.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"zoo.json: cannot be used .*; remove it"):
        read_results(path, {"settings": {"images": 4}}, "rows")
