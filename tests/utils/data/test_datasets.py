"""Data sets: trees and torchvision's files are accepted, everything else is named and refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from utils.data import datasets
from utils.data.datasets import DATASETS, ImageSet, load_split, split_train_validation
from utils.runtime.errors import UserError


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in DATASETS["cifar10"].classes:
        folder = tmp_path / "data" / "test" / name
        folder.mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (32, 32), (i, 0, 0)).save(folder / f"{i}.png")
    return tmp_path / "data"


def test_a_tree_is_read_where_it_lies_or_below_its_name(root):
    split = load_split("cifar10", "test", root)
    assert len(split) == 20 and split.images.shape == (20, 3, 32, 32)
    assert split.classes == DATASETS["cifar10"].classes
    root.rename(root.parent / "cifar10")
    assert torch.equal(load_split("cifar10", "test", root.parent).images, split.images)


def test_torchvision_files_are_read(tmp_path, monkeypatch):
    class Files:
        base_folder = "cifar-10-batches-py"
        classes = DATASETS["cifar10"].classes

        def __init__(self, root, train, download):
            assert not download
            self.data = np.arange(2 * 32 * 32 * 3, dtype=np.uint8).reshape(2, 32, 32, 3)
            self.targets = [3, 1]

    monkeypatch.setitem(datasets._TORCHVISION, "cifar10", Files)
    (tmp_path / Files.base_folder).mkdir()
    split = load_split("cifar10", "train", tmp_path)
    assert split.labels.tolist() == [3, 1]
    assert split.images[0, :, 0, 0].tolist() == [0, 1, 2]


def test_a_damaged_download_is_refused(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(UserError, match=r"cifar10 cannot be read from .* -data_dir"):
        load_split("cifar10", "train", tmp_path)


def test_no_network_names_the_way_out(tmp_path, monkeypatch):
    class Offline:
        base_folder = "cifar-10-batches-py"

        def __init__(self, root, train, download):
            raise OSError("no network")

    monkeypatch.setitem(datasets._TORCHVISION, "cifar10", Offline)
    monkeypatch.setattr(datasets, "DEFAULT_DATA_DIR", tmp_path)
    with pytest.raises(UserError, match=r"cannot be downloaded .* -data_dir, .* shapes10"):
        load_split("cifar10", "train")


def test_what_is_wrong_with_a_folder_is_named(root, tmp_path):
    with pytest.raises(UserError, match=r"-data_dir .*nowhere: no such folder"):
        load_split("cifar10", "test", tmp_path / "nowhere")
    with pytest.raises(UserError, match="no cifar10 there; expected"):
        load_split("cifar10", "train", root)
    (root / "test" / "cat" / "0.png").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match=r"cat/0\.png"):
        load_split("cifar10", "test", root)
    Image.new("RGB", (31, 32)).save(root / "test" / "cat" / "0.png")
    with pytest.raises(UserError, match=r"cat/0\.png: 31x32 pixels; expected 32x32"):
        load_split("cifar10", "test", root)
    for path in (root / "test" / "cat").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="cat: class folder without an image"):
        load_split("cifar10", "test", root)
    (root / "test" / "cat").rmdir()
    with pytest.raises(UserError, match="no class folder 'cat'"):
        load_split("cifar10", "test", root)


def test_a_split_takes_the_same_fraction_of_every_class():
    labels = torch.tensor([0] * 40 + [1] * 20 + [2] * 3)
    whole = ImageSet(torch.arange(63, dtype=torch.uint8).view(63, 1, 1, 1), labels, ("a", "b", "c"))
    train, held = split_train_validation(whole, 0.1, seed=0)
    assert held.labels.bincount().tolist() == [4, 2, 1]
    assert sorted([*train.images.flatten().tolist(), *held.images.flatten().tolist()]) == list(
        range(63)
    )
    assert torch.equal(split_train_validation(whole, 0.1, seed=0)[1].images, held.images)
    assert not torch.equal(split_train_validation(whole, 0.1, seed=1)[1].images, held.images)


def test_a_class_too_small_to_split_is_named():
    lonely = ImageSet(torch.zeros(3, 3, 1, 1), torch.tensor([0, 0, 1]), ("a", "b"))
    with pytest.raises(UserError, match="class 'b' has 1 image"):
        split_train_validation(lonely, 0.1, seed=0)
