"""The second table: one step of every row at full size, and what a row leaves behind."""

import importlib
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from running import SCRIPTS

import models
from utils.data import datasets
from utils.training.recipe import PRESETS


@pytest.fixture
def table2(script, tree, tmp_path, monkeypatch):
    """``table2(*words)`` runs the script for one step of four images; it tests on four, too."""
    task, whole = importlib.import_module("utils.training.task"), datasets.load_split

    def few(name, split, *args):
        return whole(name, split, *args).subset(torch.arange(4))

    def load_train(name, *args):
        data, spec = datasets.load_train(name, *args)
        return data.subset(torch.arange(4)), spec

    monkeypatch.setattr(task, "load_train", load_train)
    monkeypatch.setattr(task, "load_split", few)
    monkeypatch.setattr(datasets, "load_split", few)  # as the script imports it
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # batches of four are too small for more

    def go(*words: object, epochs: int = 1):
        folders = [
            word
            for name in ("checkpoint_dir", "log_dir", "out_dir")
            for word in (f"-{name}", tmp_path / name)
        ]
        common = ("-data_dir", tree, "-epochs", epochs, "-b", 4, *folders)
        return script("table2.py", *common, *words)

    yield go
    torch.set_num_threads(threads)


def rows(budget: str) -> list:
    return importlib.import_module("experiments.lib.rivals").BUDGETS[budget]


def test_one_step_of_every_row_at_full_size(table2, tmp_path):
    result = table2("-budget", "full")
    assert result.status == 0, result.err
    table = json.loads((tmp_path / "out_dir" / "table2_full.json").read_text())
    found = {row["name"]: row for row in table["rows"]}
    assert list(found) == [row.name for row in rows("full")]
    assert found["ELE, adapted"]["parameters"] == 29_310_661
    assert found["PrivConv (inferred)"]["parameters"] == 5_345_306
    assert found["ours, with the key"]["parameters"] == 1_703_258
    for row in found.values():
        assert row["images"] == 4 and row["accuracy"] == row["correct"] / 4
        assert row["settings"]["recipe"]["batch_size"] == 4
    for name in ("ours, with the key", "ours on EtC's pictures, with the key"):
        assert found[name]["correct"] == found["plain images"]["correct"]
        assert found[name]["same_predictions"] == 4 and found[name]["cost"] > 0
    shown = (tmp_path / "out_dir" / "table2_full.md").read_text()
    assert "| published, full size | measured here, budget full |" in shown
    assert not table["not_run"] and "Not run yet" not in shown
    assert "| EtC as published, adapted | pyramidnet110_adapted | etc_published |" in shown
    assert shown.count("95.06%") == shown.count("83.06%") == shown.count("89.09%") == 1


def test_rows_are_kept_and_not_run_again(table2, refused, tmp_path):
    one = ("-budget", "cpu", "-rows", "LE")
    assert table2(*one).status == 0
    path = tmp_path / "out_dir" / "table2" / "cpu" / "le.json"
    before = path.read_bytes()
    shown = (tmp_path / "out_dir" / "table2_cpu.md").read_text()
    assert "Not run yet: plain images; ours, with the key; " in shown and "; LE;" not in shown
    result = table2(*one)
    assert result.status == 0 and "--- LE" not in result.out
    assert path.read_bytes() == before
    line = refused(table2(*one, epochs=2))
    assert "le.json: was made with other settings (epochs" in line
    path.write_text("{}")
    assert "le.json: cannot be used" in refused(table2(*one))


def test_a_run_that_measures_nothing_leaves_the_table_as_it_is(table2, tmp_path):
    assert table2("-budget", "cpu", "-rows", "LE").status == 0
    table = tmp_path / "out_dir" / "table2_cpu.md"
    before = table.read_bytes()
    result = table2("-budget", "cpu", "-rows", "LE", "LE")
    assert result.status == 0 and before.decode() == result.out.removesuffix("\n")
    assert table.read_bytes() == before


def test_rows_of_other_pictures_are_refused(table2, refused, tree, tmp_path):
    assert table2("-budget", "cpu", "-rows", "plain images").status == 0
    others = tmp_path / "others"
    shutil.copytree(tree, others)
    first = others / "test" / "airplane" / "0.png"
    Image.fromarray(255 - np.asarray(Image.open(first))).save(first)
    words = ("-budget", "cpu", "-rows", "ours, with the key", "-data_dir", others)
    line = refused(table2(*words))
    assert "plain_images.json: was made with other settings (pictures_sha256)" in line


def test_a_row_is_tested_with_the_weights_that_its_source_names(table2, refused, tmp_path):
    words = ("-budget", "cpu", "-rows", "plain images", "ours, without the key")
    assert table2(*words).status == 0
    rows = tmp_path / "out_dir" / "table2" / "cpu"
    plain, without = (rows / f"{n}.json" for n in ("plain_images", "ours_without_the_key"))
    source = json.loads(plain.read_text())["record"]
    assert json.loads(without.read_text())["weights_sha256"] == source["weights_sha256"]

    # the source was trained again: what its old weights gave is not a row beside it
    plain.write_text(plain.read_text().replace(source["weights_sha256"], "0" * 64))
    assert "the_key.json: was made with other settings (weights_sha256)" in refused(table2(*words))
    without.unlink()
    line = refused_after_work(table2(*words))
    (run,) = (tmp_path / "checkpoint_dir").glob("table2/cpu/plain_images/preresnet20/*")
    assert f"error: {run / 'last.pt'}: not the weights of {plain}" in line
    shutil.rmtree(run)
    line = refused_after_work(table2(*words))
    assert "last.pt: no such file; give the -checkpoint_dir that the row 'plain images'" in line
    assert f"or remove {plain} to train it again" in line and "-weights" not in line


def test_an_interrupted_row_goes_on(table2, tmp_path, monkeypatch):
    run = importlib.import_module("utils.training.run")
    kept, epochs = run.RunFiles.report, []

    def once(self, metrics, *rest):
        epochs.append(metrics["epoch"])
        if len(epochs) == 1:
            raise KeyboardInterrupt
        kept(self, metrics, *rest)

    monkeypatch.setattr(run.RunFiles, "report", once)
    words = ("-budget", "cpu", "-rows", "EtC")
    assert table2(*words, epochs=2).status == 130
    assert not (tmp_path / "out_dir" / "table2" / "cpu" / "etc.json").exists()
    assert table2(*words, epochs=2).status == 0
    assert epochs == [1, 2]
    record = json.loads((tmp_path / "out_dir" / "table2" / "cpu" / "etc.json").read_text())
    assert len(record["record"]["resumed"]) == 1 and len(record["record"]["epochs"]) == 2


def test_refusals(table2, refused):
    assert "'aes': expected some of 'plain images'" in refused(table2("-rows", "aes"))
    line = refused_after_work(table2("-budget", "cpu", "-rows", "ours, with the key"))
    assert "needs the row 'plain images', which is not there yet" in line


def refused_after_work(result) -> str:
    assert result.status == 2
    return result.err.splitlines()[-1]


@pytest.mark.parametrize("budget", ["cpu", "full"])
def test_rows_name_what_there_is(budget, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    names = [row.name for row in rows(budget)]
    assert len({row.slug for row in rows(budget)}) == len(names)
    for row in rows(budget):
        assert models.check_name(row.net) == row.net and row.preset in PRESETS
        assert row.uses is None or row.uses in names
    learned = [row for row in rows("cpu") if row.uses is None and "preresnet20" in row.net]
    assert len({(row.preset, str(row.changes)) for row in learned}) == 1  # the same training
    assert len(learned) == 11
