"""The first table from one set of weights, and its way into the README."""

import importlib
import json

import pytest
import torch
from running import SCRIPTS, SEED

from experiments import readme as generator
from experiments.lib import accuracy_table
from operators import ImageScrambler
from utils.io import checkpoint
from utils.runtime.errors import UserError


@pytest.fixture
def module(monkeypatch):
    """``module(name)`` imports a script for its functions."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module


def test_five_rows_from_one_set_of_weights(script, module, tree, weights, tmp_path):
    out = tmp_path / "results"
    result = script(
        "table1.py",
        *("-net", "vgg16", "-dataset", "cifar10", "-data_dir", tree, "-seed", SEED),
        *("-weights", weights, "-epochs", 1, "-warm", 0, "-b", 10, "-lr", 0.001),
        *("-optimizer", "sgd", "-amp", "off", "-out_dir", out),
        *("-checkpoint_dir", tmp_path / "checkpoints", "-log_dir", tmp_path / "runs"),
    )
    assert result.status == 0, result.err
    table = json.loads((out / "table1.json").read_text())
    table1 = module("table1")
    assert [row["name"] for row in table["rows"]] == list(table1.PUBLISHED)
    assert [row["published"] for row in table["rows"]] == list(table1.PUBLISHED.values())
    for row in table["rows"]:
        assert row["images"] == 20 and row["accuracy"] == row["correct"] / 20
    plain, with_key = table["rows"][0], table["rows"][3]
    assert plain["name"] == "plain images" and with_key["name"] == "keyed network, right key"
    assert plain["correct"] == with_key["correct"]
    assert table["same_predictions"] == 20
    assert table["largest_logit_difference"] < 1e-3
    assert table["key"] == ImageScrambler(32, seed=SEED).fingerprint
    assert table["weights_sha256"] == checkpoint.digest(torch.load(weights, weights_only=True))
    assert table["fine_tuning"]["permute"] is True and table["fine_tuning"]["key"] == table["key"]

    shown = (out / "table1.md").read_text()
    assert shown == accuracy_table.markdown(table)
    assert f"| plain images | 94.1% | {plain['accuracy']:.2%} |" in shown
    for text in (result.out, result.err, shown, json.dumps(table)):
        assert str(SEED) not in text


def test_ciphers_that_a_keyed_network_cannot_take_are_refused(script, refused, weights, tmp_path):
    words = ("-seed", SEED, "-cipher", "le", "-weights", weights, "-out_dir", tmp_path / "results")
    assert "-net vgg16: a keyed network cannot take le" in refused(script("table1.py", *words))


def test_published_numbers_stand_beside_what_they_are_about():
    rows = [{"name": "plain images", "published": None, "accuracy": 0.5, "images": 20}]
    table = {"net": "vgg16", "dataset": "shapes10", "rows": rows}
    table |= {"same_predictions": 20, "largest_logit_difference": 1e-6, "command": "table1.py"}
    table |= {"key": "0", "weights_sha256": "0", "training": None, "fine_tuning": None}
    assert "| plain images |  | 50.00% |" in accuracy_table.markdown(table)


def test_a_block_is_put_between_its_markers():
    put = generator.put_block
    text = "before\n<!-- table1 -->\nold\n<!-- /table1 -->\nafter\n"
    new = put(text, "table1", "new\n")
    assert new == "before\n<!-- table1 -->\nnew\n<!-- /table1 -->\nafter\n"
    assert put(new, "table1", "new\n") == new
    for broken in ("", "<!-- /table1 --><!-- table1 -->", text + text):
        with pytest.raises(UserError, match="<!-- table1 -->"):
            put(broken, "table1", "new")
