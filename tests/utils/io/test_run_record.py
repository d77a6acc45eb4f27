"""The record of a run: complete, plain, and without the key."""

import json

import pytest
import torch

from utils.io.run_record import environment, public_command, write_json
from utils.runtime.errors import UserError

SECRET = "1312"


@pytest.mark.parametrize("words", [["-seed", SECRET], [f"-seed={SECRET}"], ["-key", SECRET]])
def test_command_without_the_key(words):
    shown = public_command(["/home/me/train_cifar10.py", "-b", "64", *words, "-gpu"])
    assert SECRET not in shown
    assert shown.startswith("train_cifar10.py -b 64 ") and shown.endswith(" -gpu")
    assert "***" in shown


def test_the_training_seed_is_public():
    assert public_command(["x.py", "-train_seed", "5"]) == "x.py -train_seed 5"


def test_local_folders_are_left_out():
    shown = public_command(
        ["x.py", "-data_dir", "/home/me/cifar10", "-net", "torchvision:resnet18"]
    )
    assert shown == "x.py -data_dir cifar10 -net torchvision:resnet18"
    shown = public_command(["x.py", "-data_dir=/home/me/cifar10", "-warm=0.3", "-key=/me/a=b"])
    assert shown == "x.py -data_dir=cifar10 -warm=0.3 -key=***"


def test_what_a_shell_would_take_apart_is_quoted():
    argv = ["x.py", "-rows", "ours, with the key", "LE"]
    assert public_command(argv) == "x.py -rows 'ours, with the key' LE"


def test_environment_is_plain_values(tmp_path):
    record = environment()
    assert {
        "python",
        "torch",
        "torchvision",
        "cpu",
        "cpu_capability",
        "cores",
        "gpu",
        "commit",
    } <= set(record)
    assert all(value is None or type(value) in (str, int) for value in record.values())
    torch.save(record, tmp_path / "record.pt")
    assert torch.load(tmp_path / "record.pt", weights_only=True) == record
    write_json(tmp_path / "run.json", record)
    assert json.loads((tmp_path / "run.json").read_text()) == record


def test_where_json_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        write_json(tmp_path / "missing" / "run.json", {})
