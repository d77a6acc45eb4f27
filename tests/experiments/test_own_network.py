"""A network of one's own through the scripts: trained, tested, classified with and exported.

Its file is run because the command line names it; a name in a checkpoint never is.
"""

import json

import pytest
import torch
from running import SCRIPTS, SEED

from utils.io import checkpoint

TINY = ("-epochs", 1, "-warm", 0, "-b", 10, "-lr", 0.001)
FILE = """
from torch import nn

def make(num_classes):
    features = (nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(8))
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(4, num_classes))

class Auxiliary(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.net = make(num_classes)

    def forward(self, x):
        return (self.net(x), self.net(x)) if self.training else self.net(x)

def wider(num_classes):
    return make(num_classes + 1)

def pair(num_classes):
    return Auxiliary(num_classes).train(False).requires_grad_(True)

class Fails(nn.Module):
    def forward(self, x):
        raise KeyError("pixels")

def fails(num_classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3), Fails())

class Chooses(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x

def chooses(num_classes):
    return nn.Sequential(make(num_classes), Chooses())

def frozen(num_classes):
    return make(num_classes).requires_grad_(False)

def bare(num_classes):
    zeros = nn.ConstantPad1d((0, num_classes - 3), 0.0)
    return nn.Sequential(nn.AvgPool2d(32), nn.Flatten(), zeros)

def leaves(num_classes):
    raise SystemExit(0)
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory, tree, launch):
    """A folder with a network of one's own, and a run of it on scrambled images."""
    root = tmp_path_factory.mktemp("own")
    (root / "nets").mkdir()
    (root / "nets" / "small.py").write_text(FILE)
    result = launch(
        SCRIPTS / "train_cifar10.py",
        *("-net", "nets/small.py:make", "-save_weights", "-data_dir", tree, *TINY),
        *("-checkpoint_dir", root / "checkpoints", "-log_dir", root / "runs"),
        cwd=root,
    )
    assert result.status == 0, result.err
    return root


def test_its_run_is_found_by_name_and_tested_plain_and_keyed(own, script, tree, monkeypatch):
    folder = own / "checkpoints" / "small.py-make"
    record = json.loads(next(folder.glob("*/run.json")).read_text())
    assert record["net"] == "small.py:make" and "nets" not in json.dumps(record)
    monkeypatch.chdir(own / "nets")  # the same file from another folder
    files = ("-data_dir", tree, "-checkpoint_dir", own / "checkpoints")
    accuracy = script("test_cifar10.py", "-net", "small.py:make", *files)
    assert accuracy.status == 0, accuracy.err
    keyed = ("-net", "small.py:make_permuted", "-permute", "-seed", SEED, *files)
    assert script("test_cifar10.py", *keyed).out.splitlines() == accuracy.out.splitlines()[-1:]
    log = ("-log_dir", own / "runs")
    resumed = script(
        "train_cifar10.py", "-net", "./small.py:make", "-resume", "latest", *files, *log, *TINY
    )
    assert resumed.status == 0, resumed.err
    other = ("-net", "small.py:pair", "-resume", next(folder.glob("*/last.pt")))
    refused = script("train_cifar10.py", *other, *files, *log, *TINY)
    assert "the run has -net small.py:make, asked for is small.py:pair" in refused.err


def test_it_classifies_and_is_exported_under_its_key(own, script, launch, picture, tmp_path):
    weights = next(own.rglob("last.pt"))
    keyed = ("-net", own / "nets" / "small.py:make_permuted", "-seed", SEED, "-weights", weights)
    shown = script("inference.py", *keyed, "-permute", "-image", picture, "-out_dir", tmp_path)
    assert shown.status == 0 and (tmp_path / "features.png").is_file(), shown.err
    export = ("../keying/export.py", *keyed, "-out", tmp_path / "small.pt2")
    exported = script(*export)
    assert exported.status == 0 and "checked on 3 random images" in exported.out, exported.err


@pytest.mark.parametrize(
    ("net", "message"),
    [
        ("none.py:make", "none.py: no such file"),
        ("small.py:no", "small.py has no function 'no'"),
        (
            "small.py:wider",
            "small.py:wider gives logits of shape (1, 11)",
        ),
        ("small.py:pair", "small.py:pair returns a tuple; expected logits"),
        ("small.py:fails", "small.py:fails cannot take 32x32 images ('pixels')"),
        ("small.py:fails_permuted", "cannot be built for 32x32 images (1: Fails: cannot be export"),
        ("small.py:chooses_permuted", "(1: Chooses: cannot be exported: its control flow depends"),
        ("small.py:Fails", "small.py:Fails raises TypeError"),
        ("small.py:frozen", "small.py:frozen cannot be trained (no parameter of it requires a"),
        ("small.py:bare", "small.py:bare cannot be trained (no parameter of it requires a"),
        ("small.py:leaves", "small.py:leaves raises SystemExit"),
    ],
)
def test_what_is_no_such_network_is_one_line(
    own, script, tree, tmp_path, monkeypatch, net, message
):
    monkeypatch.chdir(own / "nets")
    keyed = ("-permute", "-seed", SEED) if net.endswith("_permuted") else ()
    files = ("-data_dir", tree, "-checkpoint_dir", tmp_path / "c", "-log_dir", tmp_path / "l")
    done = script("train_cifar10.py", "-net", net, *keyed, "-save_weights", *files, *TINY)
    assert done.status == 2 and len(done.err.splitlines()) == 1 and message in done.err, done.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["test_cifar10.py", "inference.py", "../keying/export.py"])
@pytest.mark.parametrize(
    ("net", "message"),
    [
        ("none.py:make", "none.py: no such file"),
        ("small.py:wider_permuted", "small.py:wider_permuted gives logits of shape (1, 11)"),
        ("small.py:fails", "small.py:fails cannot take 32x32 images ('pixels')"),
        ("small.py:Fails_permuted", "small.py:Fails raises TypeError"),
        ("small.py:chooses_permuted", "its control flow depends on the values of pixels"),
        ("torchvision:resnet19", "torchvision has no network 'resnet19'"),
        ("timm:no_such_net", "timm"),
    ],
)
def test_other_scripts_refuse_it_as_training_does(
    own, script, refused, tree, picture, tmp_path, monkeypatch, name, net, message
):
    monkeypatch.chdir(own / "nets")
    key = ("-seed", SEED) if net.endswith("_permuted") else ()
    if key and name != "../keying/export.py":
        key = ("-permute", *key)
    files = {
        "test_cifar10.py": ("-data_dir", tree),
        "inference.py": ("-image", picture, "-out_dir", tmp_path),
        "../keying/export.py": ("-out", tmp_path / "net.pt2"),
    }
    weights = ("-weights", next(own.rglob("last.pt")))
    assert message in refused(script(name, "-net", net, *key, *weights, *files[name]))
    assert not list(tmp_path.iterdir())


def test_a_name_in_a_checkpoint_is_never_run(own, script, tree, tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text("open('was_run', 'w')")
    monkeypatch.chdir(tmp_path)
    state = checkpoint.read(next(own.rglob("last.pt"))) | {"net": "evil.py:make"}
    del state["sha256"], state["format"]
    checkpoint.save(tmp_path / "last.pt", state)
    files = ("-data_dir", tree, "-checkpoint_dir", tmp_path)
    net = ("-net", own / "nets" / "small.py:make")
    assert script("test_cifar10.py", *net, *files, "-weights", "last.pt").status == 0
    refused = script(
        "train_cifar10.py", *net, *files, "-resume", "last.pt", *TINY, "-log_dir", tmp_path
    )
    assert "the run has -net evil.py:make, asked for is small.py:make" in refused.err
    assert not (tmp_path / "was_run").exists()
    assert torch.load("last.pt", weights_only=True)["net"] == "evil.py:make"


def test_the_help_says_that_the_file_is_run(script):
    shown = " ".join(script("train_cifar10.py", "-h").out.split())
    assert "PATH.py:FACTORY, which RUNS that file" in shown and "timm:NAME" in shown
