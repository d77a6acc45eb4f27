"""The published way through the scripts: train, test, classify; from any folder, as processes.

One training run of two steps serves all tests of this file.
"""

import json
import re

import pytest
import torch
from running import ROOT, SCRIPTS, SEED, Result

from operators import ImageScrambler
from tests.utils.full_disk import room_for
from utils.io import checkpoint
from utils.io.pictures import read_image, to_tensor

TINY = ("-epochs", 1, "-warm", 0, "-b", 10, "-lr", 0.001)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tree, launch):
    """A run on scrambled images, started in the scripts' own folder: its end and its files."""
    root = tmp_path_factory.mktemp("trained")
    result = launch(
        "train_cifar10.py",
        *("-net", "vgg16", "-dataset", "cifar10", "-permute", "-save_weights", "-seed", SEED),
        *("-data_dir", tree, "-checkpoint_dir", root / "checkpoints", "-log_dir", root / "runs"),
        *TINY,
        cwd=SCRIPTS,
    )
    return result, root


@pytest.fixture(scope="module")
def last(trained):
    """The checkpoint of the run."""
    return checkpoint.newest(trained[1] / "checkpoints", "vgg16")


def test_training_ends_with_weights_and_a_record(trained, last):
    result, root = trained
    assert result.status == 0, result.err
    assert f"weights: {last}" in result.out
    assert re.search(r"^Test accuracy: \d+\.\d\d% \(20 images\)$", result.out, re.MULTILINE)
    assert "img" not in result.err, "progress bars are for terminals"
    record = json.loads((last.parent / "run.json").read_text())
    assert record["parameters"] == 33_646_666
    assert record["recipe"]["epochs"] == 1 and record["recipe"]["batch_size"] == 10
    assert list(root.glob("runs/vgg16/*/events.out.tfevents.*"))


def plain_values(item: object):
    """Every value in a checkpoint that is no tensor, names included."""
    if isinstance(item, dict):
        yield from item
        item = list(item.values())
    if isinstance(item, list | tuple):
        for entry in item:
            yield from plain_values(entry)
    elif not isinstance(item, torch.Tensor):
        yield item


def tensors(item: object):
    """Every tensor in a checkpoint."""
    if isinstance(item, torch.Tensor):
        yield item
    elif isinstance(item, dict | list | tuple):
        for entry in item.values() if isinstance(item, dict) else item:
            yield from tensors(entry)


def test_the_key_is_neither_printed_nor_stored(trained, last):
    result, root = trained
    scrambler = ImageScrambler(32, seed=SEED)
    fingerprint = scrambler.fingerprint
    secret = str(SEED)
    assert secret not in result.out + result.err
    written = [path for path in root.rglob("*") if path.is_file()]
    assert len(written) == 3  # last.pt, run.json, events
    for path in written:
        assert secret not in path.name
        if path != last:
            content = path.read_bytes()
            assert secret.encode() not in content
            assert SEED.to_bytes(4, "little") not in content
    assert fingerprint in (last.parent / "run.json").read_text()
    state = checkpoint.read(last)
    assert state["key"] == fingerprint
    assert all(secret not in str(value) for value in plain_values(state))
    for tensor in tensors(state):
        assert tensor.is_floating_point() or tensor.numel() == 1, "no room for a permutation"


def test_testing_from_the_repository_root(launch, script, tree, last, tmp_path):
    common = ("-dataset", "cifar10", "-data_dir", tree, "-seed", SEED, "-weights", last)
    keyed = launch(
        "experiments/classification/test_cifar10.py",
        *("-net", "vgg16_permuted", "-permute", "-b", 7, "-out", tmp_path / "keyed.json"),
        *common,
        cwd=ROOT,
    )
    assert keyed.status == 0, keyed.err
    line = re.fullmatch(r"Accuracy: (\d+\.\d\d)% \((\d+)/20\)", keyed.out.splitlines()[-1])
    written = json.loads((tmp_path / "keyed.json").read_text())
    assert written["correct"] == int(line[2]) and written["images"] == 20
    assert written["accuracy"] == written["correct"] / 20
    assert written["parameters"] == 33_646_666 and written["seconds"] > 0
    assert written["net"] == "vgg16_permuted" and written["permute"] is True
    assert written["key"] == ImageScrambler(32, seed=SEED).fingerprint
    assert str(SEED) not in keyed.out + keyed.err + json.dumps(written)

    assert keyed.err.splitlines()[-1].startswith("warning: -seed")  # after any progress

    words = ("-b", 64, "-out", tmp_path / "plain.json")
    plain = script("test_cifar10.py", "-net", "vgg16", *words, *common)
    assert plain.err == "" and json.loads((tmp_path / "plain.json").read_text())["key"] is None
    assert plain.out.splitlines()[-1] == keyed.out.splitlines()[-1]
    wrong = script(
        "test_cifar10.py", "-net", "vgg16_permuted", "-permute", "-wrong_key", "-b", 64, *common
    )
    assert wrong.status == 0 and wrong.out.startswith("Accuracy: ")


def test_classifying_from_another_folder(launch, script, last, picture, tmp_path):
    keyed = ("-net", "vgg16_permuted", "-weights", last, "-seed", SEED)
    first = launch(
        SCRIPTS / "inference.py",
        *keyed,
        *("-permute", "-image", picture, "-out_dir", "pictures"),
        cwd=tmp_path,
    )
    assert first.status == 0, first.err
    *ranking, places = first.out.splitlines()
    assert places == "pictures: pictures"
    assert len(ranking) == 5
    shares = [float(re.fullmatch(r"[a-z]+ +(\d+\.\d\d)%", row)[1]) for row in ranking]
    assert shares == sorted(shares, reverse=True) and sum(shares) <= 100.1

    folder = tmp_path / "pictures"
    names = ["features.png", "image.png", "scrambled.png"]
    assert sorted(p.name for p in folder.iterdir()) == names
    image, seen = (to_tensor(read_image(folder / n)) for n in ("image.png", "scrambled.png"))
    assert torch.equal(ImageScrambler(32, seed=SEED)(image), seen)

    server = script("inference.py", *keyed, "-scrambled", "-image", folder / "scrambled.png")
    assert server.out.splitlines() == ranking
    plain = script("inference.py", "-net", "vgg16", "-weights", last, "-image", picture)
    assert [row.split()[0] for row in plain.out.splitlines()] == [r.split()[0] for r in ranking]


def test_any_classifier_of_torchvision(script, refused, tree, tmp_path):
    """Trained plain, found as the newest run, and tested under its key by either backend."""
    net = "torchvision:resnet18"
    files = ("-data_dir", tree, "-checkpoint_dir", tmp_path / "checkpoints")
    train = (*files, "-save_weights", "-log_dir", tmp_path / "runs", *TINY)
    trained = script("train_cifar10.py", "-net", net, *train)
    assert trained.status == 0, trained.err
    assert (tmp_path / "checkpoints" / "torchvision-resnet18").is_dir()  # a colon is no file name
    plain = script("test_cifar10.py", "-net", net, *files)
    assert plain.status == 0, plain.err
    keyed = ("-net", f"{net}_permuted", "-permute", "-seed", SEED, *files)
    for backend in ("gather", "deform"):
        assert script("test_cifar10.py", *keyed, "-backend", backend).out == plain.out
    too_deep = ("-net", "torchvision:alexnet_permuted", "-permute")
    for name, words in (("train_cifar10.py", train), ("test_cifar10.py", (*files, "-weights"))):
        words = (*words, next(tmp_path.rglob("last.pt"))) if words[-1] == "-weights" else words
        assert "cannot be built for 32x32 images" in refused(script(name, *too_deep, *words))


def test_fine_tuning_starts_from_the_newest_run(script, trained, tree, tmp_path):
    root = trained[1]
    words = ("-load_weights", "-data_dir", tree, "-checkpoint_dir", root / "checkpoints", *TINY)
    tuned: Result = script("train_cifar10.py", *words, "-log_dir", tmp_path)
    assert tuned.status == 0, tuned.err
    assert "Test accuracy" in tuned.out


def test_a_full_disk_while_saving(script, tree, tmp_path):
    files = ("-checkpoint_dir", tmp_path / "checkpoints", "-log_dir", tmp_path / "runs")
    with room_for(1_000_000):
        full = script("train_cifar10.py", "-save_weights", "-data_dir", tree, *files, *TINY)
    assert full.status == 2
    line = full.err.splitlines()[-1]  # after any progress
    assert line.startswith(f"error: {tmp_path}") and ".pt: cannot be written" in line
    left = [p.name for p in tmp_path.glob("checkpoints/**/*") if p.is_file()]
    assert left == ["run.json"]  # the record of a run that was begun; nothing half-written


def test_a_mistake_ends_a_process_with_status_2(launch, refused, tmp_path):
    line = refused(launch(SCRIPTS / "inference.py", "-image", "missing.png", cwd=tmp_path))
    assert line == "error: missing.png: no such image file"


def test_torch_and_torchvision_that_do_not_match(launch, refused, tmp_path):
    (tmp_path / "torchvision.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    for path in sorted(SCRIPTS.glob("*.py")):
        if path.name != "conf.py":
            line = refused(launch(path, cwd=tmp_path, PYTHONPATH=str(tmp_path)))
            assert "torchvision::nms" in line and "requirements.txt" in line
