"""Checkpoints: verified, atomic, free of code, and clear about what does not fit."""

import pickle
import random

import pytest
import torch
from torch import nn

from tests.utils.full_disk import room_for
from utils.io import checkpoint
from utils.runtime.errors import UserError


def state(value=1.0):
    net = nn.Linear(3, 2)
    nn.init.constant_(net.weight, value)
    return {
        "net": "tiny",
        "data": {"name": "none", "classes": ["a", "b"]},
        "key": None,
        "recipe": {"epochs": 3, "milestones": (0.3, 0.6)},
        "train_seed": 0,
        "model": net.state_dict(),
        "averaged": None,
        "optimizer": [],
        "progress": {"epoch": 1},
        "history": [{"loss": 0.5}],
        "record": {"gpu": None},
    }


def weight(saved):
    return float(saved["model"]["weight"][0, 0])


def test_round_trip(tmp_path):
    checkpoint.save(tmp_path / "a.pt", state())
    read = checkpoint.read(tmp_path / "a.pt")
    assert read["recipe"] == state()["recipe"] and read["format"] == 2
    assert weight(read) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_last_and_previous_rotate(tmp_path):
    for value in range(3):
        checkpoint.save_last(tmp_path, state(value))
    assert weight(checkpoint.read(tmp_path / "last.pt")) == 2
    assert weight(checkpoint.read(tmp_path / "previous.pt")) == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_any_damage_is_refused_and_names_the_other_file(tmp_path):
    checkpoint.save_last(tmp_path, state(1))
    checkpoint.save_last(tmp_path, state(2))
    last = tmp_path / "last.pt"
    good, rng = last.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(150):
        place = rng.randrange(len(good))
        flipped = bytes([good[place] ^ (1 << rng.randrange(8))])
        last.write_bytes(good[:place] + flipped + good[place + 1 :])
        try:  # a flip in the zip file's padding changes nothing that is read
            assert weight(checkpoint.read(last)) == 2
        except UserError as error:
            refused += 1
            assert "last.pt" in str(error) and "previous.pt instead" in str(error)
    assert refused > 20
    for cut in (0, 1, 100, len(good) // 2, len(good) - 1):
        last.write_bytes(good[:cut])
        with pytest.raises(UserError, match=r"use .*previous\.pt instead"):
            checkpoint.read(last)


def test_a_changed_weight_is_noticed(tmp_path):
    path = tmp_path / "a.pt"
    checkpoint.save(path, state())
    content = path.read_bytes()
    floats = torch.ones(6).numpy().tobytes()
    assert content.count(floats) == 1
    path.write_bytes(content.replace(floats, floats[:-1] + b"\x40"))
    with pytest.raises(UserError, match="does not match its hash"):
        checkpoint.read(path)


class Code:
    def __reduce__(self):
        return print, ("code ran",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("save", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o))])
def test_code_is_refused_and_does_not_run(tmp_path, capsys, save):
    save({"weight": Code()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match=r"evil\.pt: refused"):
        checkpoint.read(tmp_path / "evil.pt")
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(2)], "holds a list"),
        ({"format": 3}, "format 3; expected 1 or 2"),
        ({"format": 2}, "does not match its hash"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UserError, match=message):
        checkpoint.read(tmp_path / "a.pt")


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(UserError, match=r"a\.pt: no such file"):
        checkpoint.read(tmp_path / "a.pt")
    with pytest.raises(UserError, match="is a folder"):
        checkpoint.read(tmp_path)
    checkpoint.save(tmp_path / "a.pt", {"model": {}})
    with pytest.raises(UserError, match="has no 'net'"):
        checkpoint.read(tmp_path / "a.pt")


@pytest.mark.parametrize("room", [0, 1, 1000])
def test_a_full_disk_is_named_and_keeps_the_checkpoints(tmp_path, room):
    checkpoint.save_last(tmp_path, state(1))
    checkpoint.save_last(tmp_path, state(2))
    with (
        room_for(room),
        pytest.raises(UserError, match=r"next\.pt: cannot be written \(File too large\)$"),
    ):
        checkpoint.save_last(tmp_path, state(3))
    assert weight(checkpoint.read(tmp_path / "last.pt")) == 2
    assert weight(checkpoint.read(tmp_path / "previous.pt")) == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_averaged_weights_come_first():
    saved = {"format": 1, **state(1), "averaged": state(5)["model"]}
    assert float(checkpoint.weights_of(saved)["weight"][0, 0]) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.ones(7, 3)}, r"'weight' has shape \(7, 3\); the network's is \(2, 3\)"),
        ({"weight": 3}, "'weight' is not a tensor"),
        ({"extra": torch.ones(1)}, "unexpected tensor 'extra'"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    weights = {**nn.Linear(3, 2).state_dict(), **change}
    with pytest.raises(UserError, match=message):
        checkpoint.load_weights(nn.Linear(3, 2), weights, "bare.pt")
    with pytest.raises(UserError, match="no tensor 'weight'"):
        checkpoint.load_weights(nn.Linear(3, 2), {}, "bare.pt")


def test_newest_run_and_its_weights(tmp_path):
    for run, names in {"2026-01": ["last.pt"], "2026-02": ["previous.pt", "best.pt"]}.items():
        (tmp_path / "net" / run).mkdir(parents=True)
        for name in names:
            (tmp_path / "net" / run / name).touch()
    (tmp_path / "net" / "2026-03").mkdir()
    run = tmp_path / "net" / "2026-02"
    assert checkpoint.newest(tmp_path, "net") == run / "previous.pt"
    assert checkpoint.newest_weights(tmp_path, "net") == run / "best.pt"
    with pytest.raises(UserError, match=r"no run of other .* -weights PATH"):
        checkpoint.newest_weights(tmp_path, "other")


def test_digest_tells_apart():
    values = [1, 1.0, "1", None, True, [1], [[1]], {"a": 1}, {"b": 1}, torch.ones(1), []]
    values += [torch.ones(1, 1), torch.ones(1, dtype=torch.bfloat16), {"a": torch.ones(2, 3)}]
    assert len({checkpoint.digest(value) for value in values}) == len(values)
    strided = torch.randn(2, 3, 4, 4)
    assert checkpoint.digest(strided) == checkpoint.digest(
        strided.to(memory_format=torch.channels_last)
    )
