"""shapes10: the same pictures everywhere, and only their form tells the class."""

import hashlib

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from utils.data.datasets import DATASETS, load_split
from utils.data.shapes import SHAPES10_CLASSES, shapes10, shapes_seg
from utils.runtime.errors import UserError

SHA256 = {
    "train": "903cd141349a2cabc8d68cef65cf25677244bf3753b4e4642381ac4b7428330e",
    "test": "2ba59d03cf5e75e637f9c8e3cfe2fd6bd3c88aa204074ec6c4820a03fe1a5a64",
}
CHANCE = 1 / len(SHAPES10_CLASSES)


@pytest.fixture(scope="module")
def splits():
    return {split: shapes10(split) for split in SHA256}


@pytest.mark.parametrize("split", SHA256)
def test_the_pictures_are_the_same_everywhere(splits, split):
    images, _ = splits[split]
    assert hashlib.sha256(images.numpy().tobytes()).hexdigest() == SHA256[split]


def test_types_shapes_and_balance(splits):
    for split, count in (("train", 4000), ("test", 1000)):
        images, labels = splits[split]
        assert images.shape == (count, 3, 32, 32) and images.dtype == torch.uint8
        assert labels.dtype == torch.int64
        assert labels.bincount().tolist() == [count // 10] * 10


def test_global_random_state_is_neither_read_nor_written(splits):
    np.random.seed(7)
    torch.manual_seed(7)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    images, _ = shapes10("test")
    assert torch.equal(images, splits["test"][0])
    assert np.array_equal(before[0], np.random.get_state()[1])
    assert torch.equal(before[1], torch.get_rng_state())


def test_no_picture_comes_twice(splits):
    pictures = torch.cat([images for images, _ in splits.values()]).flatten(1).numpy()
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)


def test_channel_statistics_are_those_of_the_registry(splits):
    pixels = splits["train"][0].transpose(0, 1).flatten(1).double() / 255
    spec = DATASETS["shapes10"]
    assert torch.allclose(pixels.mean(1), torch.tensor(spec.mean).double(), atol=0.005)
    assert torch.allclose(pixels.std(1), torch.tensor(spec.std).double(), atol=0.005)


def _mean_colour(images):
    return images.float().mean((2, 3))


def _histogram(images):
    return F.one_hot(images.long() // 16, 16).float().mean((2, 3)).flatten(1)


def _sorted_pixels(images):
    """All that is left of a picture once its pixels are shuffled by an unknown permutation."""
    return images.float().flatten(2).sort(2).values[:, :, ::16].flatten(1)


def _pixels(images):
    return images.float()[:, :, ::2, ::2].flatten(1)


@pytest.mark.parametrize("features", [_mean_colour, _histogram, _sorted_pixels, _pixels])
def test_a_bag_of_pixels_or_a_linear_map_hardly_tells_the_class(splits, features):
    (train, train_labels), (test, test_labels) = splits["train"], splits["test"]
    x, y = features(train).double(), features(test).double()
    mean, std = x.mean(0), x.std(0) + 1e-6
    x, y = (F.pad((v - mean) / std, (0, 1), value=1.0) for v in (x, y))
    ridge = 10 * torch.eye(x.shape[1], dtype=x.dtype)
    weights = torch.linalg.solve(x.T @ x + ridge, x.T @ F.one_hot(train_labels, 10).double())
    linear = ((y @ weights).argmax(1) == test_labels).double().mean()
    centroids = torch.stack([x[train_labels == label].mean(0) for label in range(10)])
    nearest = (torch.cdist(y, centroids).argmin(1) == test_labels).double().mean()
    assert max(linear, nearest) < 2 * CHANCE


def test_it_loads_by_name_and_refuses_a_folder(tmp_path):
    data = load_split("shapes10", "test")
    assert data.classes == SHAPES10_CLASSES == DATASETS["shapes10"].classes
    with pytest.raises(UserError, match="built in"):
        load_split("shapes10", "test", tmp_path)


def test_unknown_split_is_named():
    with pytest.raises(ValueError, match=r"\('train', 'test'\), got 'validation'"):
        shapes10("validation")


def test_each_pixel_of_shapes_seg_has_its_class():
    images, labels = shapes_seg("test")
    assert images.shape == (40, 3, 48, 64) and images.dtype == torch.uint8
    assert labels.shape == (40, 48, 64) and labels.dtype == torch.uint8
    assert set(labels.unique().tolist()) == {*range(11), 255}
    for picture, mask in zip(images.double() / 255, labels, strict=True):
        forms = [half[(half > 0) & (half < 255)].unique() for half in mask.chunk(2, dim=1)]
        assert [len(form) for form in forms] == [1, 1]  # one of the ten in each half
        for half, seen in zip(picture.chunk(2, dim=2), mask.chunk(2, dim=1), strict=True):
            inside = half[:, (seen > 0) & (seen < 255)].mean(1)
            assert (inside - half[:, seen == 0].mean(1)).abs().min() > 0.1  # CONTRAST less SHADE
    assert (labels == 255).double().mean() < 0.06  # the edges alone


def test_shapes_seg_is_the_same_everywhere():
    digest = hashlib.sha256(b"".join(part.numpy().tobytes() for part in shapes_seg("val")))
    assert digest.hexdigest() == "20dfc97c2afd933bde7e9787e0f54d5653ef2efdb54e7705a77693d1a5dbccab"
    assert not torch.equal(shapes_seg("val")[0], shapes_seg("test")[0])
    with pytest.raises(ValueError, match=r"\('train', 'val', 'test'\), got 'validation'"):
        shapes_seg("validation")
