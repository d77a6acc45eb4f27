"""Run the scripts as a user does, on random weights and a data set of forty pictures.

``script`` runs one in this process, where torch is imported already; ``launch`` starts a process,
for what only that can show: exit status, working folder, imports.
"""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from running import SCRIPTS, Result

import models
from utils.data.datasets import DATASETS


@pytest.fixture(scope="session")
def tree(tmp_path_factory) -> Path:
    """CIFAR-10's classes as class folders: two training and two test pictures of noise each."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in DATASETS["cifar10"].classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(2):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """A bare state_dict of VGG16 with random weights, as other programs write it."""
    path = tmp_path_factory.mktemp("weights") / "vgg16.pt"
    torch.manual_seed(0)
    torch.save(models.create_model("vgg16").state_dict(), path)
    return path


@pytest.fixture(scope="session")
def picture(tmp_path_factory) -> Path:
    """A colour PNG that is not of the network's size."""
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    pixels = np.random.default_rng(1).integers(0, 256, (48, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def cache_in(tmp_path_factory) -> str:
    """A folder for decoded pictures that is not the user's."""
    return str(tmp_path_factory.getbasetemp() / "cache")


@pytest.fixture
def script(monkeypatch, capfd, tmp_path_factory):
    """``script(name, *words)`` runs a script with this command line in this process.

    The name is a path, or that of a script for classification.
    """

    def run(name: str | Path, *words: object) -> Result:
        monkeypatch.setenv("XDG_CACHE_HOME", cache_in(tmp_path_factory))
        path = SCRIPTS / name
        monkeypatch.setattr(sys, "argv", [path.name, *map(str, words)])
        monkeypatch.syspath_prepend(str(path.parent))
        monkeypatch.delitem(sys.modules, "conf", raising=False)
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(path), run_name="__main__")
        code = ended.value.code
        return Result(code if isinstance(code, int) else int(bool(code)), *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def launch(tmp_path_factory):
    """``launch(path, *words, cwd=...)`` starts a script as a process of its own."""

    def run(path: Path | str, *words: object, cwd: Path, **environment: str) -> Result:
        done = subprocess.run(
            [sys.executable, str(path), *map(str, words)],
            cwd=cwd,
            env={**os.environ, "XDG_CACHE_HOME": cache_in(tmp_path_factory), **environment},
            capture_output=True,
            text=True,
            timeout=600,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def refused():
    """Assert that a result is a refusal: one line on stderr, status 2; returns the line."""

    def check(result: Result) -> str:
        lines = result.err.splitlines()
        assert result.status == 2, result
        assert len(lines) == 1 and "error: " in lines[0], result.err
        assert result.out == ""
        assert "Errno" not in lines[0], "the operating system's error number tells a user nothing"
        return lines[0]

    return check
