"""Segmentation under the engine: its loss and counts by hand, resuming, processes, keys."""

import math
import signal
from dataclasses import replace

import pytest
import torch
from torch import nn

from models import registry
from operators import ImageScrambler, PerImageScrambler, SecretKey
from tests.utils.tiny import (
    CLASSES,
    MASK_SIZE,
    Child,
    LabellingNet,
    PlainLabellingNet,
    folders,
    make_images,
    make_masks,
    metrics,
    options,
    record,
)
from utils.data.masks import IGNORED, Fit, MaskSet
from utils.io import checkpoint
from utils.runtime.errors import UserError
from utils.training.run import train
from utils.training.segmentation import Segmentation, SegmentationRecipe, class_weights

CPU = torch.device("cpu")
RECIPE = SegmentationRecipe(
    epochs=3,
    batch_size=6,
    lr=0.02,
    warm=1,
    optimizer="adamw",
    schedule="cosine",
    label_smoothing=0.1,
    ema=0.9,
    rotation=10.0,
    scale=(0.7, 1.4),
    jitter=0.2,
    class_weights=True,
)
SCRAMBLER = PerImageScrambler(MASK_SIZE, SecretKey(bytes(range(32))))


class PointwiseNet(nn.Sequential):
    """Answers each pixel by its colour, wherever it lies."""

    def __init__(self, num_classes):
        super().__init__(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, num_classes, 1))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("segmentation")
    make_masks(root / "images")
    return root


@pytest.fixture
def nets(monkeypatch):
    nets = {"labelling": LabellingNet, "plain": PlainLabellingNet, "pointwise": PointwiseNet}
    monkeypatch.setattr(registry, "_PLAIN", nets)


def masks_run(root, **changes):
    return options(root, **({"net": "labelling", "image_size": MASK_SIZE} | changes))


def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (2, 4, 5), generator=generator, dtype=torch.uint8)
    labels[0, :3] = IGNORED
    return logits, labels


def test_the_loss_pixel_by_pixel():
    """Smoothing gives a part of the loss to every class, each by its own weight."""
    logits, labels = batch()
    weights, smoothing, expected = [0.5, 1.0, 2.5], 0.1, 0.0
    for image, mask in zip(logits, labels, strict=True):
        for y in range(4):
            for x in range(5):
                if mask[y, x] == IGNORED:
                    continue
                values = image[:, y, x].tolist()
                total = math.log(sum(map(math.exp, values)))
                losses = [w * (total - v) for w, v in zip(weights, values, strict=True)]
                own = losses[int(mask[y, x])]
                expected += ((1 - smoothing) * own + smoothing * sum(losses) / 3) / 20
    task = Segmentation(class_weights=torch.tensor(weights))
    assert task.loss_sum(logits, labels, RECIPE).item() == pytest.approx(expected, rel=1e-9)


def test_right_is_the_part_of_the_labelled_pixels_of_each_image():
    logits, labels = batch()
    right = (logits.argmax(1) == labels).double()
    expected = right[0, 3].mean() + right[1].mean()
    assert float(Segmentation().right(logits, labels)) == pytest.approx(float(expected))


def test_classes_weigh_the_root_of_their_inverse_frequency():
    labels = torch.tensor([0] * 16 + [1] * 4 + [3] + [IGNORED] * 3, dtype=torch.uint8)
    labels, fit = labels.view(1, 4, 6), Fit((4, 6), (4, 6))
    data = MaskSet(torch.zeros(1, 3, 4, 6), labels, tuple("abcd"), (labels[0],), (fit,))
    weights = class_weights(data)
    assert weights[2] == 0
    assert float(weights[1] / weights[0]) == pytest.approx(2)
    assert float(weights[3] / weights[0]) == pytest.approx(4)
    counts = torch.tensor([16, 4, 0, 1])
    assert float((weights * counts).sum() / counts.sum()) == pytest.approx(1)


def ended_alike(folder, reference):
    ours, theirs = (checkpoint.read(f / "last.pt") for f in (folder, reference))
    for part in ("model", "averaged", "optimizer"):
        assert checkpoint.digest(ours[part]) == checkpoint.digest(theirs[part]), part
    assert metrics(folder) == metrics(reference)
    for name in ("weights_sha256", "test_miou", "test_iou", "test_pixel_accuracy"):
        assert record(folder)[name] == record(reference)[name]


def test_a_stopped_run_ends_as_one_that_was_not(root, tmp_path):
    """With a key for each image, and a network without one, so that masks are scrambled, too."""
    (tmp_path / "images").symlink_to(root / "images")
    how = {"recipe": RECIPE, "per_image": SCRAMBLER, "task": Segmentation()}
    run = masks_run(tmp_path, select="validation", permute=True)
    assert Child(run, **how).wait() == [0]
    assert Child(run, stop=signal.SIGTERM, stop_at=(1, 1), **how).wait() == [143]
    reference, folder = folders(tmp_path, "labelling")
    progress = checkpoint.read(folder / "last.pt")["progress"]
    assert (progress["epoch"], progress["step"]) == (1, 2) and progress["correct"] % 1
    resuming = replace(run, resume=folder / "last.pt")
    other = {**how, "recipe": replace(RECIPE, jitter=0.1)}
    child = Child(resuming, **other)
    assert child.wait() == [2] and "recipe jitter 0.2, asked for is 0.1" in child.errors
    assert Child(resuming, **how).wait() == [0]
    ended_alike(folder, reference)
    ours = record(folder)
    assert ours["val_fraction"] is None and ours["images"] == {"train": 20, "test": 7}
    assert all(0 <= m["validation_miou"] <= 1 for m in ours["epochs"])
    assert len(ours["test_iou"]) == len(CLASSES)
    assert ours["test_miou"] == pytest.approx(sum(ours["test_iou"]) / len(CLASSES))
    assert "test_accuracy" not in ours


def test_two_processes_learn_as_one(root, tmp_path):
    (tmp_path / "images").symlink_to(root / "images")
    how = {"recipe": replace(RECIPE, batch_size=5), "task": Segmentation()}
    run = masks_run(tmp_path, net="labelling_plain")
    for size in (1, 2):
        assert Child(run, world_size=size, **how).wait() == [0] * size
    one, two = folders(tmp_path, "labelling_plain")
    for a, b in zip(metrics(one), metrics(two), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
        assert b["accuracy"] == pytest.approx(a["accuracy"], abs=0.02)
    assert record(two)["test_pixel_accuracy"] == pytest.approx(
        record(one)["test_pixel_accuracy"], abs=0.02
    )


def test_a_keyed_network_learns_as_the_plain_one(root, nets, tmp_path):
    """Its maps are learned as they are returned, under the output key."""
    where = {"checkpoint_dir": tmp_path / "c", "log_dir": tmp_path / "r", "net": "plain"}
    recipe, key = replace(RECIPE, epochs=2), ImageScrambler(MASK_SIZE, seed=3)
    plain = train(masks_run(root, **where), recipe, None, CPU, task=Segmentation())
    where["permute"] = True
    unaware = train(masks_run(root, **where), recipe, key, CPU, task=Segmentation())
    where["net"] = "plain_permuted"
    keyed = train(masks_run(root, **where), recipe, key, CPU, task=Segmentation())
    rekeyed = train(
        masks_run(root, **where), recipe, SCRAMBLER.fixed, CPU, SCRAMBLER, Segmentation()
    )
    for found in (keyed, rekeyed):
        for a, b in zip(plain["epochs"], found["epochs"], strict=True):
            assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
            assert b["accuracy"] == pytest.approx(a["accuracy"], abs=0.01)
        assert found["test_miou"] == pytest.approx(plain["test_miou"], abs=0.02)
    assert unaware["epochs"][1]["loss"] != pytest.approx(plain["epochs"][1]["loss"], rel=1e-3)


def test_labels_go_with_their_pixels_where_the_network_has_no_key(root, nets, tmp_path):
    where = {"checkpoint_dir": tmp_path / "c", "log_dir": tmp_path / "r", "net": "pointwise"}
    recipe, found = replace(RECIPE, epochs=1), []
    for fixed, per_image in ((None, None), (SCRAMBLER.fixed, None), (SCRAMBLER.fixed, SCRAMBLER)):
        run = masks_run(root, permute=fixed is not None, **where)
        found.append(train(run, recipe, fixed, CPU, per_image, Segmentation()))
    for scrambled in found[1:]:
        for name in ("loss", "accuracy"):
            value = found[0]["epochs"][0][name]
            assert scrambled["epochs"][0][name] == pytest.approx(value, rel=1e-5)
        assert scrambled["test_iou"] == pytest.approx(found[0]["test_iou"], abs=1e-3)


def test_a_validation_split_is_the_data_sets_own_where_it_has_one(root, tmp_path):
    run = masks_run(root, select="validation", val_fraction=0.25)
    splits = Segmentation().load(run)
    assert (len(splits.train), len(splits.validation), splits.held_out) == (20, 7, None)
    make_masks(tmp_path / "two", splits=("train", "val"))  # whose val is tested on
    splits = Segmentation().load(replace(run, data_dir=tmp_path / "two"))
    assert (len(splits.train), len(splits.validation), splits.held_out) == (15, 5, 0.25)
    assert len(splits.test) == 7
    pictures = torch.cat([splits.train.images, splits.validation.images])
    assert len(pictures.unique(dim=0)) == 20


@pytest.mark.parametrize(
    ("change", "recipe", "message"),
    [
        ({"permute": True}, {"crop_size": (8, 8)}, "-crop_size 8x8: .* give -crop_size 10x14"),
        ({"net": "torchvision:resnet18"}, {}, r"logits of shape \(1, 3\) for .* every pixel"),
    ],
)
def test_refusals(root, nets, tmp_path, change, recipe, message):
    where = {"checkpoint_dir": tmp_path / "c", "log_dir": tmp_path / "r"}
    key = ImageScrambler(MASK_SIZE, seed=3)
    with pytest.raises(UserError, match=message):
        run = masks_run(root, **where, **change)
        train(run, replace(RECIPE, **recipe), key, CPU, task=Segmentation())
    assert not list(tmp_path.iterdir())


def test_a_classifier_is_not_a_network_for_pixels(root, nets, tmp_path):
    make_images(tmp_path / "images", per_class=2)
    with pytest.raises(UserError, match="expected a network with 3 for the whole image"):
        train(options(tmp_path, net="labelling"), RECIPE, None, CPU)
