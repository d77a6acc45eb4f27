"""Training as ``torchrun`` starts it: what ends it early, how it goes on, and what is left."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import cache_in
from running import SCRIPTS

from tests.utils.tiny import make_images
from utils.io import checkpoint

NET, EPOCHS = "preresnet20_basic", 2
STEPS = 23  # an epoch: 45 images, two at a time
PROC = Path("/proc")


@pytest.fixture
def images(tmp_path):
    """45 training images and 11 test images, which two processes cannot divide evenly."""
    root = make_images(tmp_path / "images")
    next((root / "test").rglob("*.png")).unlink()
    return root


@pytest.fixture
def torchrun(images, tmp_path, tmp_path_factory):
    """``torchrun(*words)`` starts two processes that train and write below ``tmp_path``."""
    started = []

    def start(*words: str) -> subprocess.Popen:
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
            *(SCRIPTS / "train_cifar10.py", "-net", NET, "-save_weights", "-save_every", "1"),
            *("-dataset", "folder", "-data_dir", images, "-image_size", "32"),
            *("-checkpoint_dir", tmp_path / "checkpoints", "-log_dir", tmp_path / "runs"),
            *("-epochs", str(EPOCHS), "-warm", "0", "-b", "2", "-lr", "0.001", *words),
        ]
        environment = {**os.environ, "XDG_CACHE_HOME": cache_in(tmp_path_factory)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env=environment, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.terminate()  # does nothing to one that has ended


def until_saved(process: subprocess.Popen, folder: Path) -> None:
    """Wait for the first checkpoint."""
    while process.poll() is None and not list(folder.rglob("last.pt")):
        time.sleep(0.01)


def steps_done(last: Path) -> int:
    """Where the run of a checkpoint stands."""
    progress = checkpoint.read(last)["progress"]
    return progress["epoch"] * STEPS + progress["step"]


def process_of_rank(launcher: subprocess.Popen, rank: int) -> int:
    """The process id of a rank of the group."""
    children = (PROC / f"{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    environments = {int(pid): (PROC / pid / "environ").read_bytes() for pid in children}
    return next(p for p, e in environments.items() if f"RANK={rank}".encode() in e.split(b"\0"))


@pytest.mark.skipif(not (PROC / "self/environ").exists(), reason="NEEDS LINUX'S /proc")
def test_a_process_dies_and_the_run_goes_on(torchrun, images, script, tmp_path):
    first = torchrun("-permute")
    until_saved(first, tmp_path)
    os.kill(process_of_rank(first, 1), signal.SIGKILL)
    output, errors = first.communicate(timeout=300)
    assert first.returncode == 1 and "SIGKILL" in errors, errors
    last = checkpoint.newest(tmp_path / "checkpoints", NET)
    assert output.count(str(last.with_name("image.key"))) == 1  # one process has drawn it
    done = steps_done(last)
    assert 0 < done < EPOCHS * STEPS

    second = torchrun("-permute", "-resume", "latest")
    output, errors = second.communicate(timeout=300)
    assert second.returncode == 0, errors
    (folder,) = (tmp_path / "checkpoints" / NET).iterdir()
    assert errors.count("key: taken from") == 1
    left = ["image.key", "last.pt", "previous.pt", "run.json"]
    assert sorted(p.name for p in folder.iterdir()) == left
    events = list((tmp_path / "runs" / NET / folder.name).iterdir())
    assert len(events) == 2  # each start has one writer
    record = json.loads((folder / "run.json").read_text())
    assert record["processes"] == 2 and [m["epoch"] for m in record["epochs"]] == [1, 2]
    assert [r["epoch"] * STEPS + r["step"] for r in record["resumed"]] == [done]

    test = ("-net", NET, "-permute", "-dataset", "folder", "-data_dir", images, "-weights", last)
    correct = int(re.search(r"\((\d+)/11\)", script("test_cifar10.py", *test).out)[1])
    assert record["test_correct"] == correct
    assert output.count("Test accuracy") == 1
    assert f"Test accuracy: {correct / 11:.2%} (11 images)" in output


def test_terminated_it_finishes_the_step_and_saves(torchrun, tmp_path):
    process = torchrun()
    until_saved(process, tmp_path)
    process.terminate()
    _, errors = process.communicate(timeout=300)
    assert process.returncode != 0 and "SIGTERM" in errors, errors
    last = checkpoint.newest(tmp_path / "checkpoints", NET)
    assert 0 < steps_done(last) < EPOCHS * STEPS
    assert "train_cifar10.py" not in errors, errors  # no traceback but the launcher's own
