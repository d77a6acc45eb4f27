"""Trees of class folders: what is found, what is refused, and a cache that cannot lie."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from utils.data import folder
from utils.data.folder import list_tree, load_tree
from utils.runtime.errors import UserError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "privdl"


@pytest.fixture
def root(tmp_path, cache):
    rng = np.random.default_rng(0)
    for name in ("dog", "cat"):
        (tmp_path / "tree" / name).mkdir(parents=True)
        for i in range(3):
            pixels = rng.integers(0, 256, (5, 4, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "tree" / name / f"{i}.png")
    return tmp_path / "tree"


def test_order_labels_and_pixels(root):
    (root / "cat" / "._0.png").write_text("no image")
    (root / "cat" / "notes.txt").write_text("no image")
    (root / ".git").mkdir()
    tree = list_tree(root)
    assert tree.classes == ("cat", "dog") and tree.labels.tolist() == [0, 0, 0, 1, 1, 1]
    images = load_tree(tree, (5, 4))
    assert images.shape == (6, 3, 5, 4) and images.dtype == torch.uint8
    for path, image in zip(tree.paths, images, strict=True):
        assert np.array_equal(np.asarray(Image.open(path)), image.permute(1, 2, 0))


def test_cache_is_used_and_never_stale(root, cache, monkeypatch):
    tree = list_tree(root)
    images = load_tree(tree, (5, 4))
    with monkeypatch.context() as patch:
        patch.setattr(folder, "decode_file", None)
        assert torch.equal(load_tree(tree, (5, 4)), images)
    Image.new("RGB", (4, 5), "red").save(root / "cat" / "0.png")
    changed = load_tree(tree, (5, 4))
    assert not torch.equal(changed[0], images[0]) and torch.equal(changed[1:], images[1:])
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("damage", ["truncated", "flipped", "longer", "empty"])
def test_damaged_entry_is_decoded_anew(root, cache, damage):
    tree = list_tree(root)
    images = load_tree(tree, (5, 4))
    (entry,) = cache.iterdir()
    good = entry.read_bytes()
    bad = {
        "truncated": good[:-7],
        "flipped": good[:100] + bytes([good[100] ^ 1]) + good[101:],
        "longer": good + b"x",
        "empty": b"",
    }
    entry.write_bytes(bad[damage])
    assert torch.equal(load_tree(tree, (5, 4)), images)
    assert entry.read_bytes() == good


def test_concurrent_readers_agree(root, cache):
    tree = list_tree(root)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: load_tree(tree, (5, 4)), range(16)))
    assert all(torch.equal(result, results[0]) for result in results)
    assert len(list(cache.iterdir())) == 1


def test_without_a_cache_folder_it_still_reads(root, cache):
    cache.parent.write_text("not a folder")
    assert len(load_tree(list_tree(root), (5, 4))) == 6


def test_resize_takes_any_size(root):
    Image.new("L", (50, 20), 7).save(root / "cat" / "0.png")
    images = load_tree(list_tree(root), (8, 8), resize=True)
    assert images.shape == (6, 3, 8, 8)
    assert (images[0] == 7).all()


def test_what_cannot_be_used_is_named(root):
    with pytest.raises(UserError, match=r"0\.png: 4x5 pixels; expected 5x5"):
        load_tree(list_tree(root), (5, 5))
    (root / "dog" / "1.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"dog/1\.png: empty"):
        load_tree(list_tree(root), (5, 4))


def test_classes_are_checked(root, tmp_path):
    assert len(list_tree(root, ("cat", "dog")).paths) == 6
    assert len(list_tree(root, 2).paths) == 6
    with pytest.raises(UserError, match="no class folder 'eel'"):
        list_tree(root, ("cat", "dog", "eel"))
    with pytest.raises(UserError, match="unknown class folder 'dog'"):
        list_tree(root, ("cat",))
    with pytest.raises(UserError, match="2 class folders; expected 3"):
        list_tree(root, 3)
    with pytest.raises(UserError, match="missing: cannot be read"):
        list_tree(tmp_path / "missing")
    (root / "eel").mkdir()
    with pytest.raises(UserError, match="eel: class folder without an image"):
        list_tree(root)
