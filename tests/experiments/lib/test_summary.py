"""experiments/attacks/summary.py: one table of all attacks, from the results that are there."""

import json

import pytest
from running import ROOT

from experiments.lib.summary import HEADLINES, markdown
from utils.runtime.errors import UserError


def put(results, attack, rows):
    (results / attack).mkdir(parents=True, exist_ok=True)
    (results / attack / f"{attack}.json").write_text(json.dumps({"rows": rows}))


def test_a_row_for_each_attack_and_a_column_for_each_scheme(tmp_path):
    scores = {"published": (0.5, 0.75), "per-image": (0.001, 0.002), "folded": (1.0, 1.0)}
    rows = [{"scheme": s, "exact": v} for s, both in scores.items() for v in both]
    put(tmp_path, "ciphertext_only", rows)
    pairs = [("published", "1", 0.9), ("published", "2", 1.0), ("256-bit fixed", "1", 0.8)]
    known = [{"scheme": s, "known pairs": n, "right on another image": v} for s, n, v in pairs]
    put(tmp_path, "known_plaintext", known)
    put(tmp_path, "key_search", [{"scheme": "published", "one core": "7 days"}])
    head, _, *lines = markdown(tmp_path).splitlines()
    assert head == "| attack | published | 256-bit fixed | per-image | per-image values |"
    cells = [[cell.strip() for cell in line.split("|")[2:-1]] for line in lines[:3]]
    assert cells == [
        ["90.0%", "80.0%", "-", "-"],
        ["75.0%", "-", "0.2%", "-"],
        ["7 days", "-", "-", "-"],
    ]
    assert lines[3:] == [
        "",
        "Not measured: `known_model.py`, `key_free_learning.py`, `literature.py`, "
        "`feature_maps.py`.",
    ]


def test_every_headline_is_of_an_attack():
    scripts = ROOT / "experiments" / "attacks"
    assert len({h.attack for h in HEADLINES}) == len(HEADLINES) == 7
    for headline in HEADLINES:
        assert (scripts / f"{headline.attack}.py").exists()


def test_the_columns_are_those_of_the_committed_results():
    folder = ROOT / "experiments" / "attacks" / "results"
    for headline in HEADLINES:
        path = folder / headline.attack / f"{headline.attack}.json"
        rows = json.loads(path.read_text())["rows"] if path.exists() else []
        for row in rows:
            assert {headline.column, *headline.where} <= set(row)


@pytest.mark.parametrize("content", ["{", "{}", '{"rows": [{"scheme": "published"}]}', "[]"])
def test_results_that_cannot_be_used(tmp_path, content):
    put(tmp_path, "feature_maps", [])
    (tmp_path / "feature_maps" / "feature_maps.json").write_text(content)
    with pytest.raises(UserError, match=r"feature_maps\.json: cannot be used .* feature_maps\.py"):
        markdown(tmp_path)
