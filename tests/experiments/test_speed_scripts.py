"""The benchmark and export scripts' command lines: help, bad input, the shortest real run."""

import json

import pytest
import torch
from running import ROOT, SEED, files_below

from operators import make_scrambler
from utils.inference.exporting import run_exported
from utils.inference.network import deploy, load

EXPORT = "../keying/export.py"
SPEED, PIPELINE = "../benchmark/speed.py", "../benchmark/pipeline.py"

SCRIPTS = sorted((ROOT / "experiments" / "benchmark").glob("[!c]*.py"))
SCRIPTS += sorted((ROOT / "experiments" / "keying").glob("[!c]*.py"))


def test_export_says_that_the_file_contains_the_key(launch, tmp_path):
    shown = launch(ROOT / "experiments" / "keying" / "export.py", "-h", cwd=tmp_path, COLUMNS="300")
    assert shown.status == 0 and "CONTAINS THE KEY" in shown.out


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_runs_from_its_own_folder(script, launch):
    assert launch(script, "-h", cwd=script.parent).status == 0


BAD = [
    (EXPORT, ["-weights", "no.pt", "-out", "a.onnx"], "give -seed or -key"),
    (EXPORT, ["-net", "vgg16", "-seed", "1", "-out", "a.onnx"], "vgg16 has no key"),
    (EXPORT, ["-net", "vgg16", "-fold_keys", "-out", "a.onnx"], "vgg16 has no key"),
    (EXPORT, ["-seed", "1", "-cipher", "le", "-out", "a.onnx"], "cannot take le pictures"),
    (EXPORT, ["-net", "vgg16", "-cipher", "etc:4", "-out", "a.onnx"], "nothing is scrambled"),
    (EXPORT, ["-seed", "1", "-out", "a.txt"], "NAME.onnx or NAME.pt2, got a.txt"),
    (EXPORT, ["-seed", "1", "-out", "no/a.onnx"], "no/a.onnx"),
    (EXPORT, ["-seed", "1", "-out", "a.onnx", "-weights", "no.pt"], "no.pt"),
    (SPEED, ["-sizes", "33"], "a multiple of 32, got '33'"),
    (SPEED, ["-net", "vgg16_permuted"], "a plain network, got 'vgg16_permuted'"),
    (SPEED, ["-net", "torchvision:alexnet", "-sizes", "32"], "cannot be keyed at 32x32"),
    (SPEED, ["-rounds", "0"], "-rounds"),
    (SPEED, ["-threads", "2147483647"], "-threads"),
    (SPEED, ["-out_dir", "/dev/null"], "/dev/null is not a folder"),
    (PIPELINE, ["-out_dir", "/dev/null"], "/dev/null is not a folder"),
]


@pytest.mark.parametrize(("name", "words", "message"), BAD)
def test_bad_input(name, words, message, script, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused(script(name, *words))
    assert not files_below(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["-fold_keys", "-fold_batch_norm"]])
@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_exports_vgg16(suffix, flags, script, weights, tmp_path):
    pytest.importorskip("onnxruntime")
    file = tmp_path / f"vgg16.{suffix}"
    done = script(EXPORT, "-seed", SEED, "-weights", weights, "-out", file, *flags)
    assert done.status == 0, done.err
    assert "checked on 3 random images" in done.out and "contains the key" in done.out
    assert str(SEED) not in done.out and file.stat().st_mode & 0o077 == 0


SLOW = pytest.param("blocks:8", "float32", marks=pytest.mark.slow)


@pytest.mark.parametrize(("cipher", "dtype"), [("etc:4", "uint8"), SLOW])
def test_exports_a_cipher(cipher, dtype, script, weights, tmp_path):
    file = tmp_path / "net.pt2"
    words = ("-seed", SEED, "-cipher", cipher, "-weights", weights, "-out", file)
    done = script(EXPORT, *words)
    assert done.status == 0, done.err
    assert f"(batch, 3, 32, 32) {dtype} " in done.out
    images = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8)
    scrambler = make_scrambler(cipher, 32, SEED)
    plain = deploy("vgg16", load(weights, "cifar10"), torch.device("cpu"), None, None)
    arriving = scrambler(images) if dtype == "uint8" else scrambler(plain.preprocess(images))
    with torch.no_grad():
        expected = plain.net(plain.preprocess(images))
    found = run_exported(file.read_bytes(), ".pt2", arriving)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_shortest_benchmarks(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["-b", 1, "-train_b", 2, "-rounds", 1, "-dtype", "float32"]
    done = script(SPEED, *words, "-out_dir", "a")
    assert done.status == 0, done.err
    assert "bfloat16" not in done.err  # it was not asked for
    (results,) = (tmp_path / "a").glob("speed_*.json")
    record = json.loads(results.read_text())
    rows, capability = record["rows"], record["environment"]["cpu_capability"]
    assert record["kind"] == capability.lower() == results.stem.removeprefix("speed_")
    assert {row["candidate"] for row in rows} >= {"plain", "deform", "gather", "folded"}
    moved = {r["candidate"]: r["reordered_bytes"] for r in rows if r["mode"] == "inference"}
    assert moved["plain"] == moved["deform"] == 0 and moved["folded"] == 2 * 4 * 3 * 32 * 32
    assert moved["gather"] == moved["gather, contiguous"] > 100 * moved["folded"]
    assert results.with_suffix(".md").read_text().count("\n") == len(rows) + 2
    assert results.with_suffix(".png").stat().st_size > 1000
    done = script(PIPELINE, "-rounds", 1, "-b", 4, "-out_dir", "p")
    assert done.status == 0, done.err
    rows = json.loads((tmp_path / "p/pipeline.json").read_text())["rows"]
    shares = {r["candidate"]: r["ratio"] for r in rows if r["what"].startswith("training step")}
    assert shares.pop("training step") == 1
    assert set(shares) == {"its data path, plain", "its data path, scrambled"}
    assert (tmp_path / "p/pipeline.md").read_text() == done.out.removesuffix("\n")
