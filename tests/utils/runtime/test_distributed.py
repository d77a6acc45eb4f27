"""Two processes train like one: loss curve, evaluation, files, signals, resume."""

import signal
from dataclasses import replace

import pytest
import torch

from tests.utils.tiny import RECIPE, Child, folders, make_images, metrics, options, record
from utils.io import checkpoint

# 45 images: the last batch of an epoch has a single one, too few for two processes
PLAIN = replace(RECIPE, batch_size=11, epochs=2, optimizer="sgd", ema=0.5)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("distributed")
    make_images(root / "images")
    run = options(root, net="plain", select="test")
    assert Child(run, PLAIN).wait() == [0]
    assert Child(run, PLAIN, world_size=2).wait() == [0, 0]
    return root


def close(folder, reference):
    ours, theirs = (checkpoint.read(f / "last.pt") for f in (folder, reference))
    for part in ("model", "averaged"):
        for name, tensor in theirs[part].items():
            assert torch.allclose(ours[part][name], tensor, rtol=1e-4, atol=1e-6), name
    for mine, other in zip(metrics(folder), metrics(reference), strict=True):
        assert mine == pytest.approx(other, rel=1e-4)


def test_two_processes_train_like_one(root):
    alone, together = folders(root, "plain")
    close(together, alone)
    assert record(together)["test_correct"] == record(alone)["test_correct"]
    assert record(together)["processes"] == 2
    assert sorted(p.name for p in together.iterdir()) == sorted(p.name for p in alone.iterdir())
    events = [list((root / "runs" / "plain" / f.name).iterdir()) for f in (alone, together)]
    assert [len(files) for files in events] == [1, 1]


def test_two_processes_skip_the_blocks_that_one_skips(tmp_path):
    make_images(tmp_path / "images")
    run = options(tmp_path, net="skipping", select="test")
    recipe = replace(PLAIN, depth_kept=0.3)
    for world_size in (1, 2):
        assert Child(run, recipe, world_size=world_size).wait() == [0] * world_size
    alone, together = folders(tmp_path, "skipping")
    close(together, alone)
    assert Child(run, replace(PLAIN, depth_kept=1.0)).wait() == [0]
    whole = folders(tmp_path, "skipping")[-1]
    assert metrics(whole)[0]["loss"] != pytest.approx(metrics(alone)[0]["loss"], rel=1e-3)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 2)])
def test_resumed_on_another_number_of_processes(root, before, after):
    run = options(root, net="plain", select="test")
    stopped = Child(run, PLAIN, world_size=before, stop=signal.SIGTERM, stop_at=(0, 2))
    assert stopped.wait() == [143] * before
    last = checkpoint.newest(root / "checkpoints", "plain")
    assert checkpoint.read(last)["progress"]["step"] == 3
    assert Child(replace(run, resume=last), PLAIN, world_size=after).wait() == [0] * after
    close(last.parent, folders(root, "plain")[0])


def test_batch_norm_dropout_and_a_process_that_dies(root):
    run = options(root, net="tiny", save_every=1)
    child = Child(run, world_size=2, stop=signal.SIGKILL, stop_at=(0, 4))
    first, second = child.wait()
    assert first == -signal.SIGKILL and second != 0
    last = checkpoint.newest(root / "checkpoints", "tiny")
    assert checkpoint.read(last)["progress"]["step"] == 4
    assert Child(replace(run, resume=last), world_size=2).wait() == [0, 0]
    assert [m["epoch"] for m in metrics(last.parent)] == [1, 2, 3]
