"""Runs that are killed or stopped and resumed end exactly like runs that are not."""

import random
import signal
import time
from dataclasses import replace

import pytest
import torch

from operators import PerImageScrambler, SecretKey
from tests.utils import tiny
from tests.utils.tiny import RECIPE, STATUS, Child, folders, make_images, metrics, options, record
from utils.io import checkpoint

KILLS = 20
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with images and one run that nothing disturbed."""
    root = tmp_path_factory.mktemp("resume")
    make_images(root / "images")
    assert Child(options(root, select="validation")).wait() == [0]
    return root


def finished_like(folder, reference):
    ours, theirs = (checkpoint.read(f / "last.pt") for f in (folder, reference))
    for part in ("model", "averaged", "optimizer"):
        assert checkpoint.digest(ours[part]) == checkpoint.digest(theirs[part]), part
    assert metrics(folder) == metrics(reference)
    assert record(folder)["weights_sha256"] == record(reference)["weights_sha256"]
    assert record(folder)["test_correct"] == record(reference)["test_correct"]


def test_killed_at_random_moments_and_resumed(root):
    (reference,) = folders(root)
    rng, kills, run = random.Random(0), 0, None
    while kills < KILLS or run is not None:
        child = Child(options(root, select="validation", resume=run, save_every=1))
        if kills < KILLS:
            child.wait_for_a_step()
            time.sleep(rng.uniform(0, 0.1))
            number = SIGNALS[kills % len(SIGNALS)]
            child.kill(number)
            kills += 1
        (status,) = child.wait()
        # a signal before or after the training loop ends the process in the usual way
        assert status in (0, -number, STATUS.get(number, -number)), child.errors
        folder = folders(root)[-1]
        if status == 0:
            finished_like(folder, reference)
            run = None  # there may be kills left for another run
        elif folder != reference and list(folder.glob("*.pt")):
            run = checkpoint.newest(root / "checkpoints", "tiny")
        else:
            run = None


@pytest.mark.parametrize("number", STATUS)
@pytest.mark.parametrize("at", [(0, 0), (1, 3), (1, 4), (2, 4)])
def test_stopped_at_a_step(root, number, at):
    reference = folders(root)[0]
    child = Child(options(root, select="validation"), stop=number, stop_at=at)
    assert child.wait() == [STATUS[number]]
    folder = folders(root)[-1]
    assert f"stopped: saved {folder / 'last.pt'}\n" in child.output
    progress = checkpoint.read(folder / "last.pt")["progress"]
    done = at[0] * 5 + at[1] + 1  # of 39 images in batches of 8: 5 steps an epoch
    assert progress["epoch"] * 5 + progress["step"] == done
    run = checkpoint.newest(root / "checkpoints", "tiny")
    assert Child(options(root, select="validation", resume=run)).wait() == [0]
    finished_like(folder, reference)
    assert record(folder)["resumed"][0]["step"] == done % 5


@pytest.mark.parametrize("at", [(1, 3), (1, 4)])
def test_a_resumed_run_saves_as_the_run_that_it_continues(root, at):
    reference, before = folders(root)[0], len(folders(root))
    stopped = Child(options(root, select="validation"), stop=signal.SIGINT, stop_at=at)
    assert stopped.wait() == [130]
    last = folders(root)[-1] / "last.pt"
    resuming = options(root, select="validation", resume=last, save=False)
    again = Child(resuming, stop=signal.SIGINT, stop_at=(2, 1))
    assert again.wait() == [130]
    assert f"stopped: saved {last}\n" in again.output
    progress = checkpoint.read(last)["progress"]
    assert (progress["epoch"], progress["step"]) == (2, 2)
    assert Child(resuming).wait() == [0]
    finished_like(last.parent, reference)
    assert len(folders(root)) == before + 1


@pytest.mark.parametrize("at", [(0, 0), (0, 4)])
def test_a_run_that_saves_nothing_says_so_when_it_is_stopped(root, at):
    before = folders(root)
    child = Child(options(root, save=False), stop=signal.SIGINT, stop_at=at)
    assert child.wait() == [130]
    assert "stopped: nothing is saved, for want of -save_weights\n" in child.output
    assert folders(root) == before


def test_per_image_keys_are_those_of_the_run_that_was_not_stopped(tmp_path):
    make_images(tmp_path / "images")
    run = options(tmp_path, permute=True, select="validation")
    scrambler = PerImageScrambler((8, 8), SecretKey(bytes(range(32))))
    assert Child(run, per_image=scrambler).wait() == [0]
    stopped = Child(run, stop=signal.SIGTERM, stop_at=(1, 2), per_image=scrambler)
    assert stopped.wait() == [143]
    reference, folder = folders(tmp_path)
    resuming = replace(run, resume=folder / "last.pt")
    assert Child(resuming, per_image=scrambler).wait() == [0]
    finished_like(folder, reference)
    assert record(folder)["per_image"] is True


def test_skipped_blocks_and_smaller_images_are_those_of_the_run_that_was_not_stopped(tmp_path):
    make_images(tmp_path / "images")
    recipe = replace(RECIPE, sizes=(4, 6, 8), depth_kept=0.4, rotation=0.0)
    run = options(tmp_path, net="residual")
    assert Child(run, recipe).wait() == [0]
    reference = folders(tmp_path, "residual")[0]
    for at in ((0, 2), (1, 5), (2, 1)):  # the second ends the epochs of 6 pixels
        assert Child(run, recipe, stop=signal.SIGTERM, stop_at=at).wait() == [143]
        folder = folders(tmp_path, "residual")[-1]
        assert Child(replace(run, resume=folder / "last.pt"), recipe).wait() == [0]
        finished_like(folder, reference)
    another = Child(replace(run, resume=folder / "last.pt"), replace(recipe, depth_kept=0.5))
    assert another.wait() == [2] and "recipe depth_kept 0.4, asked for is 0.5" in another.errors


def test_a_run_that_diverges_keeps_its_checkpoint(tmp_path):
    make_images(tmp_path / "images")
    wild = replace(RECIPE, lr=1e30, clip=0.0, warm=2, optimizer="sgd")
    child = Child(options(tmp_path, save_every=1), wild)
    assert child.wait() == [2]
    assert "not finite" in child.errors
    kept = [checkpoint.read(path) for path in folders(tmp_path)[0].glob("*.pt")]
    for state in kept:
        assert all(bool(torch.isfinite(tensor).all()) for tensor in state["model"].values())


@pytest.mark.parametrize(
    ("change", "recipe", "message"),
    [
        ({"train_seed": 2}, RECIPE, "-train_seed 1, asked for is 2"),
        ({"select": "last"}, RECIPE, "-select validation, asked for is last"),
        ({"val_fraction": 0.2}, RECIPE, "-val_fraction 0.1, asked for is 0.2"),
        ({"image_size": (9, 9)}, RECIPE, "-image_size (8, 8), asked for is (9, 9)"),
        ({}, replace(RECIPE, lr=0.1), "recipe lr 0.05, asked for is 0.1"),
    ],
)
def test_another_run_is_not_resumed(root, change, recipe, message):
    last = folders(root)[0] / "last.pt"
    before = last.read_bytes()
    run = options(root, **{"select": "validation", "resume": last, **change})
    child = Child(run, recipe)
    assert child.wait() == [2]
    assert f"{message}; repeat the flags of its command: " in child.errors
    assert record(last.parent)["command"] in child.errors
    assert last.read_bytes() == before


def test_a_run_of_format_1_gives_its_weights_but_is_not_resumed(root, tmp_path, monkeypatch):
    last = folders(root)[0] / "last.pt"
    state = checkpoint.read(last)
    old = tmp_path / "last.pt"
    monkeypatch.setattr(checkpoint, "FORMAT", 1)
    checkpoint.save(old, {k: v for k, v in state.items() if k not in ("format", "sha256")})
    before = old.read_bytes()
    net = tiny.TinyNet(len(tiny.CLASSES))
    checkpoint.load_weights(net, checkpoint.read(old), old)
    assert torch.equal(net[0].weight, state["averaged"]["0.weight"])
    child = Child(options(root, select="validation", resume=old))
    assert child.wait() == [2]
    assert "checkpoint format 1, whose random streams are no longer drawn" in child.errors
    assert old.read_bytes() == before and not (tmp_path / "run.json").exists()


def test_a_run_keeps_its_arithmetic_until_it_is_told_otherwise(tmp_path):
    """As where it began on a machine with bfloat16, goes on there, and moves to one without."""
    make_images(tmp_path / "images")
    recipe = replace(RECIPE, amp="on")
    assert Child(options(tmp_path), recipe, stop=signal.SIGTERM, stop_at=(0, 1)).wait() == [143]
    (folder,) = folders(tmp_path)
    resuming = options(tmp_path, resume=folder / "last.pt")
    auto, off = replace(recipe, amp="auto"), replace(recipe, amp="off")
    assert Child(resuming, auto, stop=signal.SIGTERM, stop_at=(1, 1)).wait() == [143]
    assert checkpoint.read(folder / "last.pt")["recipe"]["amp"] == "on"
    assert Child(resuming, off, stop=signal.SIGTERM, stop_at=(2, 1)).wait() == [143]
    assert Child(resuming, auto).wait() == [0]
    assert checkpoint.read(folder / "last.pt")["recipe"]["amp"] == "off"
    resumed = [(r["epoch"], r["step"], r["amp"]) for r in record(folder)["resumed"]]
    assert resumed == [(0, 2, "on"), (1, 2, "off"), (2, 2, "off")]
    assert record(folder)["recipe"]["amp"] == "on"


def test_the_record_is_complete(root):
    run = record(folders(root)[0])
    assert run["images"] == {"train": 39, "test": 12}
    assert [m["epoch"] for m in run["epochs"]] == [1, 2, 3]
    best = max(run["epochs"], key=lambda m: (m["validation_accuracy"], m["epoch"]))
    saved = checkpoint.read(folders(root)[0] / "best.pt")
    assert saved["progress"]["epoch"] == best["epoch"]
    assert run["weights_sha256"] == checkpoint.digest(saved["averaged"])
    assert run["weights"] == "best.pt" and run["key"] is None and run["processes"] == 1
    for name in ("command", "commit", "torch", "cpu", "recipe", "train_seed", "finished"):
        assert name in run
    assert saved["data"]["classes"] == list(tiny.CLASSES)
    assert saved["data"]["image_size"] == (8, 8)
