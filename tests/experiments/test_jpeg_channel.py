"""experiments/benchmark/jpeg_channel.py: rows that can be checked by hand, and resumed."""

import io
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from running import ROOT

from experiments.lib.channel_table import sentence, short
from experiments.lib.channels import CHANNELS, SCHEMES
from models import create_model

JPEG_CHANNEL = ROOT / "experiments" / "benchmark" / "jpeg_channel.py"


@pytest.fixture
def measure(script, tmp_path):
    """``measure(*words)`` runs the script in ``tmp_path``: how it ended, the record."""

    def run(*words: object):
        result = script(JPEG_CHANNEL, *words, "-out_dir", tmp_path)
        found = list(tmp_path.glob("*.json")) if result.status == 0 else []
        return result, json.loads(found[0].read_text()) if found else None

    return run


@pytest.fixture(scope="module")
def camvid(tmp_path_factory):
    """Two smooth pictures with masks of noise."""
    root, rng = tmp_path_factory.mktemp("camvid") / "test", np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for name in "ab":
        smooth = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
        smooth.resize((240, 180), Image.Resampling.BICUBIC).save(root / "images" / f"{name}.png")
        classes = rng.integers(0, 12, (180, 240), dtype=np.uint8)
        Image.fromarray(classes).save(root / "masks" / f"{name}.png")
    return root.parent


def test_rows_are_what_they_say_and_are_not_measured_again(measure, tree, tmp_path, refused):
    words = ("-data_dir", tree, "-images", 6)
    result, record = measure(*words)
    assert result.status == 0, result.err
    rows = {(row["scheme"], row["channel"]): row for row in record["rows"]}
    assert len(rows) == len(record["rows"]) == len(SCHEMES) * len(CHANNELS) == 70

    paths = sorted(p for folder in (tree / "test").iterdir() for p in folder.iterdir())
    chosen = [np.asarray(Image.open(paths[i * 20 // 6])) for i in range(6)]
    sizes, errors = [], []
    for pixels in chosen:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=75, subsampling=2)
        sizes.append(len(file.getvalue()))
        error = np.square(np.asarray(Image.open(file)).astype(float) - pixels).mean()
        errors.append(10 * math.log10(255**2 / error))
    row = rows["no scrambling", "JPEG 4:2:0, 75"]
    assert row["bytes"] == pytest.approx(np.mean(sizes))
    assert row["psnr"] == pytest.approx(np.mean(errors), rel=1e-4)
    bits = {scheme: rows[scheme, "PNG"]["key_bits"] for scheme in ("blocks:16", "whole image")}
    assert bits["blocks:16"] == pytest.approx(math.log2(math.factorial(4) * 8**4))
    assert bits["whole image"] == pytest.approx(math.lgamma(1025) / math.log(2))
    plain = rows["no scrambling", "PNG"]["score"]
    for scheme in SCHEMES:
        row = rows[scheme.name, "PNG"]
        assert row["psnr"] is None and row["score"] == plain and row["difference"] == 0
    assert "-0.00" not in (tmp_path / "jpeg_channel_cifar10.md").read_text()
    # of an accuracy the jackknife is the textbook's standard error, with N - 1
    assert row["score_error"] == pytest.approx(math.sqrt(plain * (1 - plain) / 5), rel=1e-12)

    attack = {"scheme": "256-bit fixed", "attack": "FR", "accuracy": 0.25, "SSIM": 0.125}
    table, with_attacks = short(record, None), short(record, [attack])
    assert len(table.splitlines()) == 2 + len(SCHEMES) and "attack" not in table
    assert [line for line in with_attacks.splitlines() if "25.0% (0.12)" in line] == [
        line for line in with_attacks.splitlines() if line.startswith("| whole image")
    ]
    kept, dropped = record["rows"][:-2], record["rows"][-2:]
    kept[0]["seconds"] = -1
    path = tmp_path / "jpeg_channel_cifar10.json"
    path.write_text(json.dumps(record | {"rows": kept}))
    result, again = measure(*words)
    assert again["rows"][:-2] == kept and len(result.out.splitlines()) == 2
    for row, before in zip(again["rows"][-2:], dropped, strict=True):
        assert row | {"seconds": 0} == before | {"seconds": 0}
    line = refused(measure("-data_dir", tree, "-images", 7)[0])
    assert "other settings (images, pictures_sha256); give another -out_dir" in line
    path.write_text("{")
    assert "cannot be used" in refused(measure(*words)[0])
    assert "at least 2 pictures" in refused(measure("-images", 1)[0])


def test_photographs_without_a_network(measure, camvid):
    words = ("-dataset", "camvid", "-data_dir", camvid)
    result, record = measure(*words)
    assert result.status == 0, result.err
    assert record["measure"] is None and record["image_size"] == [176, 240]
    rows = {(row["scheme"], row["channel"]): row for row in record["rows"]}
    blocks = math.log2(math.factorial(22 * 30)) + 3 * 22 * 30
    assert rows["blocks:8", "PNG"]["key_bits"] == pytest.approx(blocks)
    small, large = (
        rows[scheme, "JPEG 4:4:4, 75"]["psnr"] for scheme in ("whole image", "blocks:8")
    )
    assert small < large - 5 and "larger.\n" in sentence(record)


def test_photographs_seen_by_a_network(measure, camvid, tmp_path_factory, monkeypatch):
    monkeypatch.setattr("experiments.lib.channels.CHANNELS", CHANNELS[:2])
    weights = tmp_path_factory.mktemp("unet") / "unet.pt"
    torch.manual_seed(0)
    torch.save(create_model("unet", 11).state_dict(), weights)
    result, record = measure("-dataset", "camvid", "-data_dir", camvid, "-weights", weights)
    assert result.status == 0, result.err
    rows = {(row["scheme"], row["channel"]): row for row in record["rows"]}
    assert record["measure"] == "mean IoU" and len(rows) == 2 * len(SCHEMES)
    assert rows["blocks:16", "PNG"]["score"] == rows["no scrambling", "PNG"]["score"] > 0
    assert rows["whole image", "JPEG 4:4:4, 95"]["difference"] != 0
    assert "points lower" in sentence(record)
