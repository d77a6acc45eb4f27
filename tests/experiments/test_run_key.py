"""A run without -seed or -key keeps the key that it drew, and whoever uses its weights finds it."""

import json
import re
import stat

import pytest
from running import SCRIPTS
from test_runs import TINY

from operators import SecretKey
from utils.io import checkpoint


@pytest.fixture(scope="module", params=["preresnet20", "preresnet20_permuted"])
def run(request, tmp_path_factory, tree, launch):
    """The published way to train on scrambled images: output, folder of the run, other flags."""
    root = tmp_path_factory.mktemp("run")
    files = ("-data_dir", tree, "-checkpoint_dir", root / "c", "-log_dir", root / "r")
    words = ("-net", request.param, "-dataset", "cifar10", "-permute", *files, *TINY)
    result = launch("train_cifar10.py", *words, "-save_weights", cwd=SCRIPTS)
    assert result.status == 0, result.err
    (folder,) = (root / "c" / request.param).iterdir()
    return result, folder, words


def test_it_is_kept_for_its_owner_and_nowhere_else(run):
    result, folder, _ = run
    path = folder / "image.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert result.out.count(str(path)) == 1
    digits = path.read_text().split()[-1]
    assert len(bytes.fromhex(digits)) == 32
    for file in (p for p in folder.parents[2].rglob("*") if p.is_file() and p != path):
        content = file.read_bytes()
        assert digits.encode() not in content and bytes.fromhex(digits) not in content, file
    assert digits not in result.out + result.err
    key = SecretKey.load(path)
    assert checkpoint.read(folder / "last.pt")["key"] == key.fingerprint
    assert json.loads((folder / "run.json").read_text())["key"] == key.fingerprint


def test_the_scripts_find_it(run, script, tree, picture, tmp_path):
    _, folder, _ = run
    taken = f"key: taken from {folder / 'image.key'}"
    given = ("-key", folder / "image.key")
    net = ("-net", folder.parent.name, "-weights", folder / "last.pt")
    test = ("test_cifar10.py", *net, "-data_dir", tree, "-permute")
    found = script(*test, "-out", tmp_path / "test.json")
    assert found.status == 0 and found.err.splitlines() == [taken]
    key = SecretKey.load(folder / "image.key")
    assert json.loads((tmp_path / "test.json").read_text())["key"] == key.fingerprint
    assert found.out == script(*test, *given).out

    keyed = ("inference.py", "-net", "preresnet20_permuted", *net[2:])
    shown = script(*keyed, "-permute", "-image", picture, "-out_dir", tmp_path / "p")
    assert shown.status == 0 and shown.err.splitlines() == [taken]
    seen = ("-scrambled", "-image", tmp_path / "p" / "scrambled.png")
    server, told = script(*keyed, *seen), script(*keyed, *seen, *given)
    assert server.err.splitlines() == [taken] and told.err == "" and server.out == told.out
    assert server.out.splitlines() == shown.out.splitlines()[:5]


def test_a_resumed_run_finds_it(run, script, refused):
    result, folder, words = run
    (accuracy,) = re.findall("Test accuracy.*", result.out)
    before = (folder / "image.key").read_bytes()
    again = script("train_cifar10.py", *words, "-resume", "latest")
    assert again.status == 0 and accuracy in again.out
    assert again.err.splitlines() == [f"key: taken from {folder / 'image.key'}"]
    assert (folder / "image.key").read_bytes() == before
    (folder / "image.key").rename(folder / "away")
    line = refused(script("train_cifar10.py", *words, "-resume", "latest"))
    (folder / "away").rename(folder / "image.key")
    assert "has no image.key beside it; give the run's -key or -seed" in line
