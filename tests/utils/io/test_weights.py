"""Public checkpoints of one network, in the spellings that people have them in."""

import json
import struct
import sys
from argparse import Namespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from utils.io import checkpoint
from utils.runtime.errors import UserError


def network(seed=0):
    """Convolution, batch-norm and a module of the name that a container could have."""
    torch.manual_seed(seed)
    net = nn.Sequential()
    net.conv1 = nn.Conv2d(3, 4, 3)
    net.bn1 = nn.BatchNorm2d(4)
    net.layer1 = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    net.model = nn.Linear(4, 2)
    net.bn1.num_batches_tracked.fill_(7)
    return net


def prefixed(prefix, weights):
    return {prefix + name: tensor for name, tensor in weights.items()}


W = network(1).state_dict()
OTHER = network(2).state_dict()
WITHOUT_COUNTERS = {n: t for n, t in W.items() if not n.endswith("num_batches_tracked")}
SPELLINGS = {
    "bare": W,
    "module.": prefixed("module.", W),
    "_orig_mod.": prefixed("_orig_mod.", W),
    "_orig_mod.module.": prefixed("_orig_mod.module.", W),
    "module._orig_mod.": prefixed("module._orig_mod.", W),
    "a compiled part": {n.replace("layer1.", "layer1._orig_mod."): t for n, t in W.items()},
    "a parallel part": {n.replace("layer1.", "layer1.module."): t for n, t in W.items()},
    "lightning": {"state_dict": prefixed("model.", W), "epoch": 3, "hyper_parameters": {"lr": 0.1}},
    "lightning, net.": {"state_dict": prefixed("net.", W)},
    "lightning, compiled": {"state_dict": prefixed("model._orig_mod.", W)},
    "two prefixes": prefixed("encoder.backbone.", W),
    "net with acc": {"net": prefixed("module.", W), "acc": 93.02, "epoch": 161},
    "net with a tensor": {"net": W, "acc": torch.tensor(93.02)},
    "state_dict": {"state_dict": W, "arch": "resnet18", "optimizer": {"state": {}}},
    "model": {"model": W, "lr_scheduler": {}},
    "model_state_dict": {"model_state_dict": W, "loss": 0.1},
    "state_dict_ema alone": {"state_dict_ema": W},
    "model_ema alone": {"model_ema": prefixed("module.", W)},
    "containers in one another": {"model": {"state_dict": prefixed("module.", W)}},
    "numpy scalars": {"state_dict": W, "best_prec1": np.float64(92.5), "n": np.int64(3)},
    "a float32 of numpy": {"state_dict": W, "best": np.float32(92.5), "flag": np.bool_(True)},
    "a Namespace": {"model": W, "args": Namespace(lr=0.1, name="x", steps=[1, 2])},
    "before 2018": WITHOUT_COUNTERS,
    "before 2018, parallel": {"state_dict": prefixed("module.", WITHOUT_COUNTERS)},
}


def load(path, into=None):
    net = network() if into is None else into
    checkpoint.load_weights(net, checkpoint.read(path), path)
    return net.state_dict()


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_loads(tmp_path, capsys, spelling):
    torch.save(SPELLINGS[spelling], tmp_path / "a.pt")
    loaded = load(tmp_path / "a.pt")
    assert list(loaded) == list(W)
    for name, tensor in loaded.items():
        if name.endswith("num_batches_tracked") and "2018" in spelling:
            assert torch.equal(tensor, network().state_dict()[name])
        else:
            assert torch.equal(tensor, W[name]), name
    assert capsys.readouterr().err == ""


def test_an_averaged_model_loads(tmp_path, capsys):
    averaged = AveragedModel(network(1))
    torch.save(averaged.state_dict(), tmp_path / "a.pt")
    assert "n_averaged" in averaged.state_dict()
    assert torch.equal(load(tmp_path / "a.pt")["conv1.weight"], W["conv1.weight"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("average", ["state_dict_ema", "model_ema"])
def test_the_plain_weights_are_taken_where_their_average_is_there_too(tmp_path, capsys, average):
    torch.save({average: OTHER, "state_dict": W}, tmp_path / "a.pt")
    assert torch.equal(load(tmp_path / "a.pt")["conv1.weight"], W["conv1.weight"])
    (line,) = capsys.readouterr().err.splitlines()
    assert "a.pt" in line and "'state_dict'" in line and repr(average) in line


def test_the_counters_of_a_profiler_are_ignored(tmp_path, capsys):
    counted = {"total_ops": torch.zeros(1), "conv1.total_ops": torch.zeros(1)}
    torch.save(W | counted | {"conv1.total_params": torch.zeros(1)}, tmp_path / "a.pt")
    assert torch.equal(load(tmp_path / "a.pt")["conv1.weight"], W["conv1.weight"])
    assert capsys.readouterr().err.strip().endswith("3 counters of a profiler are ignored")


def test_safetensors(tmp_path, monkeypatch):
    header, data = {}, b""
    for name, tensor in W.items():
        kind = {torch.float32: "F32", torch.int64: "I64"}[tensor.dtype]
        content = tensor.numpy().tobytes()
        places = [len(data), len(data) + len(content)]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": places}
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    assert all(torch.equal(tensor, W[name]) for name, tensor in load(path).items())
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(UserError, match=r"a\.safetensors: needs a package: pip install safe"):
        checkpoint.read(path)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            prefixed("backbone.", OTHER | {"fc.weight": torch.ones(1)}),
            r"the names of the file begin with 'backbone\.'; the network has 'conv1\.weight', "
            r"'conv1\.bias', \.\.\.; weights of another architecture",
        ),
        ({"a.b": torch.ones(1), "c": torch.ones(1)}, r"the names of the file are 'a\.b', 'c'; the"),
        ({n: t for n, t in W.items() if n[:5] != "model"}, r"no tensor 'model\.weight' and 1 more"),
        (W | {"fc.weight": torch.ones(1)}, r"unexpected tensor 'fc\.weight';"),
        (
            prefixed("module.", W) | {"fc": torch.ones(1)},
            r"the names of the file are 'module\.conv",
        ),
    ],
)
def test_what_does_not_fit_is_told_by_its_names(tmp_path, weights, message):
    torch.save(weights, tmp_path / "a.pt")
    net = network()
    with pytest.raises(UserError, match=message):
        load(tmp_path / "a.pt", net)
    assert torch.equal(net.conv1.weight, network().conv1.weight)


def holding_itself():
    held = {}
    held["model"] = held
    return held


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (W | {"conv1.weight": W["conv1.weight"].to_sparse()}, "'conv1.weight' is torch.sparse_coo"),
        (W | {"conv1.weight": W["conv1.weight"].to("meta")}, "'conv1.weight' is meta"),
        (W | {"conv1.weight": W["conv1.weight"].long()}, "is torch.strided torch.int64; expected"),
        (W | {"conv1.weight": W["conv1.weight"].cfloat()}, "torch.complex64; expected dense"),
        (holding_itself(), "'conv1.weight'"),
    ],
)
def test_tensors_of_another_kind_are_refused(weights, message):
    with pytest.raises(UserError, match=message):
        checkpoint.load_weights(network(), weights, "a.pt")


class Arbitrary:
    """A class of somebody's own."""


@pytest.mark.parametrize("beside", [Arbitrary(), np.ones(3), Namespace(x=Arbitrary())])
def test_anything_else_is_still_refused(tmp_path, beside):
    torch.save({"state_dict": W, "beside": beside}, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"a\.pt: refused, it holds a [\w.]+$"):
        checkpoint.read(tmp_path / "a.pt")
