"""``-dataset folder``: in memory or streamed, the same images; statistics; what is refused."""

import pytest
import torch
from PIL import Image

from tests.utils.tiny import CLASSES, make_images
from utils.data import datasets, stream
from utils.data.datasets import ImageSet, load_split, load_train, split_train_validation
from utils.data.stream import ImageFiles
from utils.runtime.errors import UserError


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return make_images(tmp_path / "images", per_class=3)


def test_streamed_as_in_memory(root):
    memory, spec = load_train("folder", root, (6, 8))
    stream, streamed_spec = load_train("folder", root, (6, 8), workers=2)
    assert isinstance(memory, ImageSet) and isinstance(stream, ImageFiles)
    assert spec == streamed_spec and spec.classes == CLASSES and spec.image_size == (6, 8)
    assert torch.equal(memory.labels, stream.labels)
    parts = [torch.tensor([5, 0, 3]), torch.tensor([8]), torch.tensor([1, 1])]
    for ours, theirs in zip(memory.batches(parts), stream.batches(parts), strict=True):
        assert ours.dtype == torch.uint8 and ours.shape[1:] == (3, 6, 8)
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(
        split_train_validation(memory, 0.3, 1), split_train_validation(stream, 0.3, 1), strict=True
    ):
        everything = [torch.arange(len(ours))]
        assert torch.equal(next(ours.batches(everything)), next(theirs.batches(everything)))
        assert torch.equal(ours.labels, theirs.labels)


def test_what_does_not_fit_into_memory_is_streamed(root, monkeypatch):
    monkeypatch.setattr(datasets, "fits_in_memory", lambda count, size: False)
    streamed, spec = load_train("folder", root, (8, 8))
    assert isinstance(streamed, ImageFiles) and streamed.workers == stream.default_workers() >= 1
    assert isinstance(load_split("folder", "test", root, spec), ImageFiles)
    assert stream.fits_in_memory(1000, (32, 32))
    assert not stream.fits_in_memory(10**9, (1024, 1024))


def test_statistics(root):
    memory, spec = load_train("folder", root, (8, 8))
    pixels = memory.images.double().div(255).transpose(0, 1).flatten(1)
    assert spec.mean == pytest.approx(pixels.mean(1).tolist())
    assert spec.std == pytest.approx(pixels.std(1, correction=0).tolist())
    blank = ImageSet(torch.zeros(4, 3, 2, 2, dtype=torch.uint8), torch.zeros(4).long(), ("a", "b"))
    assert datasets.statistics(blank)[1] == pytest.approx([1e-3] * 3)


@pytest.mark.parametrize("workers", [None, 0, 1])
def test_a_damaged_image_is_named(root, workers):
    (root / "train" / "dog" / "01.png").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match=r"dog/01\.png"):
        load_train("folder", root, (8, 8), workers)


def test_what_is_missing_is_named(root, tmp_path):
    _, spec = load_train("folder", root, (8, 8))
    for path in (root / "test" / "eel").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="eel: class folder without an image"):
        load_split("folder", "test", root, spec)
    (root / "test" / "eel").rmdir()
    with pytest.raises(UserError, match="no class folder 'eel'"):
        load_split("folder", "test", root, spec)
    with pytest.raises(UserError, match="no folder train/; expected train/<class>/<image>"):
        load_train("folder", tmp_path, (8, 8))
    with pytest.raises(UserError, match="needs -data_dir"):
        load_train("folder", None, (8, 8))
    lonely = tmp_path / "lonely" / "train" / "cat"
    lonely.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(lonely / "a.png")
    with pytest.raises(UserError, match="1 class folders; expected at least 2"):
        load_train("folder", tmp_path / "lonely", (8, 8))


def test_val_is_taken_where_there_is_no_test(root):
    _, spec = load_train("folder", root, (8, 8))
    expected = load_split("folder", "test", root, spec)
    (root / "test").rename(root / "val")
    assert torch.equal(load_split("folder", "test", root, spec).images, expected.images)
    (root / "val").rename(root / "validate")
    with pytest.raises(UserError, match="no folder test/"):
        load_split("folder", "test", root, spec)


def test_the_ranks_of_a_machine_share_its_memory_and_its_cores(monkeypatch):
    alone = stream.default_workers()
    size = (1024, 1024)
    most = next(n for n in range(1000, 10**9, 1000) if not stream.fits_in_memory(n, size))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert stream.default_workers() == max(1, alone // 4)
    assert not stream.fits_in_memory(most // 3, size)
    assert stream.fits_in_memory(most // 5, size)
