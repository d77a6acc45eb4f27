"""Data sets for segmentation: what is read, and what is refused, naming the file."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import VOCSegmentation

from tests.utils.tiny import make_masks
from utils.data import datasets, segmentation
from utils.data.datasets import statistics
from utils.data.masks import IGNORED
from utils.data.segmentation import MASK_DATASETS, load_masks, mask_spec
from utils.runtime.errors import UserError

VOC_SIZES = {"2007_000032": (28, 50), "2007_000039": (37, 41), "2007_000063": (50, 33)}  # (h, w)
VOC_SPLITS = {"train": ["2007_000032", "2007_000063"], "val": ["2007_000039"]}


@pytest.fixture
def voc(tmp_path):
    """A miniature VOCdevkit: JPEG pictures, palette masks with borders that are ignored."""
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for i, (name, size) in enumerate(VOC_SIZES.items()):
        pixels = np.full((*size, 3), 40 * i + 50, np.uint8)
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg")
        labels = np.zeros(size, np.uint8)
        labels[4:20, 6:30] = IGNORED
        labels[5:19, 7:29] = 15 + i
        mask = Image.fromarray(labels, "P")
        mask.putpalette(np.random.default_rng(i).integers(0, 256, 768, np.uint8).tobytes())
        mask.save(root / "SegmentationClass" / f"{name}.png")
    for split, names in {**VOC_SPLITS, "trainval": sorted(VOC_SIZES)}.items():
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names) + "\n")
    return tmp_path


@pytest.fixture
def tree(tmp_path):
    """Anyone's own pictures: 3 + 2 of differing sizes, three classes."""
    rng = np.random.default_rng(0)
    root = tmp_path / "own"
    for split, count in (("train", 3), ("val", 2)):
        for folder in ("images", "masks"):
            (root / split / folder).mkdir(parents=True)
        for i in range(count):
            size = (12 + i, 16)
            pixels = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / split / "images" / f"{i}.png")
            labels = rng.choice([0, 1, 2, IGNORED], size).astype(np.uint8)
            Image.fromarray(labels).save(root / split / "masks" / f"{i}.png")
    (root / "classes.txt").write_text("sky\nroad\n\ncar\n")
    return root


def test_voc_is_read_by_its_lists(voc):
    for split, names in {**VOC_SPLITS, "test": VOC_SPLITS["val"], "trainval": VOC_SIZES}.items():
        data = load_masks("voc2012", split, voc)
        assert [fit.size for fit in data.fits] == [VOC_SIZES[name] for name in sorted(names)]
    assert data.images.shape == (3, 3, 512, 512) and data.classes[15] == "person"
    for i, (size, truth) in enumerate(zip(VOC_SIZES.values(), data.truth, strict=True)):
        assert truth.shape == size and truth.unique().tolist() == [0, 15 + i, IGNORED]
        assert (truth[5:19, 7:29] == 15 + i).all() and (truth[4, 6:30] == IGNORED).all()
        assert data.labels[i, : size[0], : size[1]].equal(truth)
        outside = data.labels[i].clone()
        outside[: size[0], : size[1]] = IGNORED
        assert (outside == IGNORED).all()
        picture = data.images[i, :, : size[0], : size[1]].double()
        assert picture.sub(40 * i + 50).abs().max() <= 2  # JPEG
        assert data.images[i, :, -1, -1].tolist() == [124, 116, 104]  # the mean


def test_voc_comes_back_from_a_smaller_size(voc):
    data = load_masks("voc2012", "trainval", voc, (20, 24))
    assert data.images.shape == (3, 3, 20, 24)
    for labels, truth, fit in zip(data.labels, data.truth, data.fits, strict=True):
        restored = fit.restore(labels)
        assert restored.shape == truth.shape
        assert (restored == truth)[truth != IGNORED].double().mean() > 0.85


def test_voc_lies_in_a_folder_of_its_name_or_is_refused(voc, tmp_path):
    (tmp_path / "voc2012").mkdir()
    (tmp_path / "VOCdevkit").rename(tmp_path / "voc2012" / "VOCdevkit")
    assert len(load_masks("voc2012", "val", tmp_path)) == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: no voc2012 there; expected VOCdevkit/VOC2012/"):
        load_masks("voc2012", "val", tmp_path / "empty")
    lists = tmp_path / "voc2012/VOCdevkit/VOC2012/ImageSets/Segmentation"
    (lists / "val.txt").unlink()
    with pytest.raises(UserError, match=r"cannot be read from .*val\.txt.*-dataset shapes_seg"):
        load_masks("voc2012", "val", tmp_path)


def test_a_missing_voc_is_downloaded_or_the_way_out_is_named(voc, tmp_path, monkeypatch):
    asked = []

    def arrives(root, image_set, download):
        asked.append((root, image_set, download))
        (tmp_path / "data").mkdir()
        (tmp_path / "VOCdevkit").rename(tmp_path / "data" / "VOCdevkit")
        return VOCSegmentation(root, image_set=image_set)

    def offline(root, image_set, download):
        raise OSError("no network")

    monkeypatch.setattr(datasets, "DEFAULT_DATA_DIR", tmp_path / "data")
    monkeypatch.setattr(segmentation, "VOCSegmentation", offline)
    with pytest.raises(UserError, match=r"cannot be downloaded .* -data_dir, .* shapes_seg"):
        load_masks("voc2012", "train")
    monkeypatch.setattr(segmentation, "VOCSegmentation", arrives)
    assert len(load_masks("voc2012", "train")) == 2
    assert asked == [(tmp_path / "data", "train", True)]
    monkeypatch.setattr(segmentation, "VOCSegmentation", VOCSegmentation)
    assert len(load_masks("voc2012", "val")) == 1  # it is there now


def test_a_folder_names_its_classes_and_is_tested_on_val(tree):
    spec = mask_spec("folder", tree, (12, 20))
    assert spec.classes == ("sky", "road", "car") and spec.image_size == (12, 20)
    pixels = [np.asarray(Image.open(p)).reshape(-1, 3) for p in (tree / "train/images").iterdir()]
    assert np.allclose(spec.mean, np.concatenate(pixels).mean(0) / 255)
    assert np.allclose(spec.std, np.concatenate(pixels).std(0) / 255)
    data = load_masks("folder", "test", tree, spec=spec)
    assert data.images.shape == (2, 3, 12, 20) and [f.size for f in data.fits] == [
        (12, 16),
        (13, 16),
    ]
    for i, (labels, truth) in enumerate(zip(data.labels, data.truth, strict=True)):
        assert np.array_equal(truth, Image.open(tree / "val" / "masks" / f"{i}.png"))
        assert (labels[:, 16:] == IGNORED).all()
    assert data.labels[0, :, :16].equal(data.truth[0])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (None, r"masks/1\.png: no such image file"),
        (Image.new("L", (16, 12)), r"masks/1\.png: 16x12 pixels; its picture has 16x13"),
        (Image.new("L", (16, 13), 3), r"masks/1\.png: label 3; expected 0 to 2, or 255 where"),
        (Image.new("RGB", (16, 13)), r"masks/1\.png: pixels of mode RGB; expected grey or a pal"),
    ],
)
def test_a_mask_that_cannot_be_used_is_named(tree, mask, message):
    path = tree / "train" / "masks" / "1.png"
    path.unlink()
    if mask is not None:
        mask.save(path)
    with pytest.raises(UserError, match=message):
        load_masks("folder", "train", tree, (12, 16))


def test_a_data_set_that_nothing_downloads_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.data.segmentation.DEFAULT_DATA_DIR", tmp_path / "data")
    monkeypatch.setattr("utils.data.datasets.DEFAULT_DATA_DIR", tmp_path / "data")
    with pytest.raises(UserError, match=r"^camvid: no test/images/ in .*/data; give .* -data_dir$"):
        load_masks("camvid", "test")


def test_a_folder_that_cannot_be_used_is_named(tree, tmp_path):
    with pytest.raises(UserError, match=r"-dataset folder needs -data_dir DIR with classes\.txt"):
        load_masks("folder", "train", None, (12, 16))
    with pytest.raises(UserError, match="nowhere: no such folder"):
        load_masks("camvid", "train", tmp_path / "nowhere")
    with pytest.raises(UserError, match="no folder test/images/; expected test/images/<name> and"):
        load_masks("camvid", "test", tree)
    (tree / "train" / "images" / "2.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"train/images/2\.png: not an image"):
        mask_spec("folder", tree, (12, 16))
    (tree / "classes.txt").write_text("sky\n")
    with pytest.raises(UserError, match=r"classes\.txt: 1 classes; expected 2 to 255"):
        mask_spec("folder", tree, (12, 16))
    (tree / "classes.txt").write_text("sky\nroad\nsky\n")
    with pytest.raises(UserError, match=r"classes\.txt: class 'sky' twice; expected names that"):
        mask_spec("folder", tree, (12, 16))
    (tree / "classes.txt").write_bytes(b"sky\n\xff\n")
    with pytest.raises(UserError, match=r"classes\.txt: not a text"):
        mask_spec("folder", tree, (12, 16))
    (tree / "classes.txt").unlink()
    with pytest.raises(UserError, match=r"classes\.txt: cannot be read \(No such [\w ]+\)$"):
        mask_spec("folder", tree, (12, 16))
    for path in (tree / "val" / "images").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="val/images: no image there"):
        load_masks("camvid", "val", tree)


def test_shapes_seg_is_built_in(tmp_path):
    data = load_masks("shapes_seg", "val")
    assert len(data) == 40 and data.images.shape[2:] == (48, 64)
    assert torch.stack(data.truth).equal(data.labels)
    pixels = data.images.transpose(0, 1).flatten(1).double() / 255
    spec = MASK_DATASETS["shapes_seg"]
    assert data.classes == spec.classes and len(spec.classes) == spec.num_classes
    assert torch.allclose(pixels.mean(1), torch.tensor(spec.mean).double(), atol=0.05)
    assert torch.allclose(pixels.std(1), torch.tensor(spec.std).double(), atol=0.02)
    with pytest.raises(UserError, match="built in"):
        load_masks("shapes_seg", "val", tmp_path)


def test_the_real_camvid(camvid_dir):
    splits = {name: load_masks("camvid", name, camvid_dir) for name in ("train", "val", "test")}
    assert [len(data) for data in splits.values()] == [367, 101, 233]
    for data in splits.values():
        assert data.images.shape[1:] == (3, 180, 240)
        assert torch.stack(data.truth).equal(data.labels)
        assert data.labels.unique().tolist() == [*range(11), IGNORED]
    spec = MASK_DATASETS["camvid"]
    mean, std = statistics(splits["train"])
    assert np.allclose(mean, spec.mean, atol=1e-6) and np.allclose(std, spec.std, atol=1e-6)


def test_a_split_without_a_label_is_refused(tmp_path):
    root = make_masks(tmp_path / "data")
    for path in (root / "train" / "masks").iterdir():
        mask = np.array(Image.open(path))
        Image.fromarray(np.full_like(mask, 255)).save(path)
    with pytest.raises(UserError, match="train/masks: no pixel has a label in the train masks"):
        load_masks("folder", "train", root, (10, 14))
    assert len(load_masks("folder", "val", root, (10, 14))) == 7
