"""Networks of the zoo, keyed: a quick choice always, all of them with ``-m slow``."""

import importlib
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from experiments.lib import zoo_table
from models import KeyingError

SCRIPTS = Path(__file__).parents[2] / "experiments" / "keying"
sys.path.insert(0, str(SCRIPTS))  # as running a script there would
key_zoo = importlib.import_module("key_zoo")

QUICK = [f"torchvision:{n}" for n in ("squeezenet1_1", "shufflenet_v2_x0_5", "mnasnet0_5")]
QUICK += [f"timm:{n}" for n in ("starnet_s050", "edgenext_xx_small", "mobilenetv3_small_050")]
QUICK += ["smp:FPN", "transformers:ViTForImageClassification"]


def needs_packages(name):
    package = key_zoo.package_of(name)
    absent = find_spec(package) is None
    reason = f"NO {package}: pip install -r requirements-zoo.txt"
    return pytest.param(name, marks=pytest.mark.skipif(absent, reason=reason))


def check(name):
    row = key_zoo.measure(name)
    assert row["exact"], row["reason"]
    assert row["share"] >= 0.7 and row["cost"] > 0 and row["parameters"] > 100_000
    assert row["difference"] < 1e-2 < 0.1 < row["difference_without_key"]
    return row


@pytest.mark.parametrize("name", [needs_packages(n) for n in QUICK])
def test_quick(name):
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [needs_packages(n) for n in key_zoo.known()])
def test_all(name):
    check(name)


def test_a_deep_network_does_not_amplify_rounding():
    """Then two exact networks would differ: this one is made of 40 blocks."""
    net = key_zoo.build("torchvision:efficientnet_v2_s", 64).double()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.inference_mode():
        before, after = net(images), net(images + 1e-9 * torch.randn_like(images))
    assert 1 < (before[0] - before[1]).abs().max() < 100
    assert (before - after).abs().max() < 1e-6


def test_the_list_has_every_network_of_torchvision_and_one_of_each_file_of_timm():
    names = key_zoo.known()
    assert len(names) == len(set(names))
    ours = [name for name in names if name.startswith("torchvision:")]
    assert len(ours) == 86 and {"torchvision:vit_h_14", "torchvision:fcn_resnet101"} < set(ours)
    registry = pytest.importorskip(
        "timm.models._registry", reason="NO timm: pip install -r requirements-zoo.txt"
    )
    files = [registry._model_to_module[name] for name in key_zoo.TIMM.split()]
    assert len(files) == len(set(files)) == 86


@pytest.fixture
def results(tmp_path, monkeypatch):
    """``results(*nets)`` runs the script on networks; ``seen`` are those that it measured."""
    seen = []

    def measure(name):
        seen.append(name)
        return {"net": name, "settings": key_zoo.settings(name), "parameters": 1, "exact": True} | {
            "share": 1.0,
            "build_s": 1.0,
            "cost": 1.0,
        }

    monkeypatch.setattr(key_zoo, "measure", measure)

    def run(*nets):
        monkeypatch.setattr(sys, "argv", ["key_zoo.py", "-out_dir", str(tmp_path), "-nets", *nets])
        key_zoo.main()
        return json.loads((tmp_path / "zoo.json").read_text())["rows"]

    return run, seen


def test_a_record_is_kept_until_its_settings_change(results, monkeypatch):
    run, seen = results
    run("torchvision:resnet18")
    rows = run("torchvision:alexnet", "torchvision:resnet18")
    assert seen == ["torchvision:resnet18", "torchvision:alexnet"]
    assert [row["net"] for row in rows] == sorted(seen)
    monkeypatch.setattr(key_zoo, "REPEATS", 4)
    run("torchvision:resnet18")
    assert seen[2:] == ["torchvision:resnet18"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyingError("layer: Conv2d: cannot"), "layer: Conv2d: cannot"),
        (TypeError("bad | operand"), "FAULT: TypeError: bad | operand"),
    ],
)
def test_what_cannot_be_keyed_is_a_row_with_its_reason(monkeypatch, error, reason):
    def refuse(*_):
        raise error

    monkeypatch.setattr(key_zoo, "key_network", refuse)
    row = key_zoo.measure("torchvision:squeezenet1_1")
    assert not row["exact"] and row["reason"] == reason and row["parameters"] == 727_626
    for text in (zoo_table.markdown([row]), zoo_table.summary({"listed": 1, "rows": [row]})):
        assert "cannot" in text or "bad" in text
    assert zoo_table.markdown([row]).splitlines()[-1].count("|") == 8


def test_the_summary_counts_and_names_what_stands_out():
    base = {"settings": {"side": 64}, "parameters": 2e6, "exact": True, "build_s": 1.0, "cost": 1.5}
    rows = [base | {"net": f"timm:{n}", "share": s} for n, s in (("a", 1.0), ("b", 0.75))]
    rows.append({"net": "timm:c", "settings": {}, "parameters": 1, "exact": False, "reason": "so"})
    text = zoo_table.summary({"listed": 5, "rows": rows})
    assert "2 networks of the list are not measured yet." in text
    assert "| timm | 3 | 2 | 87.5%, 75.0% | 1.50x, 1.50x |" in text
    assert "timm:b 75%" in text and "timm:a" not in text and "- timm:c: so" in text
    assert zoo_table.sentence(rows).startswith("Of 3 networks of torchvision, timm and others, 2 ")


def test_a_package_that_is_absent_is_named_or_left_out(monkeypatch, capsys):
    monkeypatch.setattr(key_zoo, "find_spec", lambda package: package == "torchvision" or None)
    monkeypatch.setattr(sys, "argv", ["key_zoo.py", "-out_dir", "x", "-nets", "smp:Unet"])
    with pytest.raises(SystemExit):
        key_zoo.parse_args()
    err = capsys.readouterr().err
    assert "segmentation_models_pytorch: not installed; see requirements-zoo.txt" in err
    monkeypatch.setattr(sys, "argv", ["key_zoo.py", "-out_dir", "x"])
    assert len(key_zoo.parse_args().nets) == 86
    assert "left out: timm is not installed" in capsys.readouterr().err
