"""Bad files and folders: one line that names the file and what is wrong, and nothing written."""

import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from running import ROOT, files_below


@pytest.fixture(autouse=True)
def nothing_written(tmp_path, monkeypatch):
    """Each test works in an empty folder, and leaves it and the repository as they were."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    kept = [ROOT / name for name in ("checkpoints", "runs", "data")]
    before = [files_below(folder) for folder in kept], (ROOT / "data").exists()
    yield
    assert files_below(work) == []
    assert ([files_below(folder) for folder in kept], (ROOT / "data").exists()) == before


def damaged_pictures(folder: Path, picture: Path) -> dict[Path, str]:
    """Files that are no usable picture, each with a word of what must be said."""
    content = picture.read_bytes()

    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    huge = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    bodies = {
        "empty.png": (b"", "empty"),
        "truncated.png": (content[: len(content) // 2], "damaged"),
        "text.png": (b"this is no picture\n", "PNG or JPEG"),
        "huge.png": (huge, "megapixels"),
        "code.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PNG or JPEG"),
    }
    for name, (body, _) in bodies.items():
        (folder / name).write_bytes(body)
    jpeg = folder / "truncated.jpg"
    Image.open(picture).save(jpeg)
    jpeg.write_bytes(jpeg.read_bytes()[:400])
    expected = {folder / name: word for name, (_, word) in bodies.items()}
    return expected | {
        jpeg: "damaged",
        folder / "missing.png": "no such",
        folder: "is a folder",
        folder / ("x" * 300): "too long",
    }


def test_pictures(script, refused, tmp_path, picture, weights):
    for path, word in damaged_pictures(tmp_path, picture).items():
        words = ("-weights", weights, "-image", path, "-out_dir", "out")
        line = refused(script("inference.py", *words))
        assert path.name in line and word in line, line


def test_a_scrambled_picture_of_another_size(script, refused, picture, weights):
    words = ("-scrambled", "-seed", 7, "-weights", weights, "-image", picture)
    line = refused(script("inference.py", *words))
    assert "70x48" in line and "32x32" in line


class Code:
    """Unpickled without care, it makes a file."""

    def __reduce__(self):
        return Path.touch, (Path("ran_code"),)


def test_weights(script, refused, tmp_path, weights, tree):
    content = weights.read_bytes()
    (tmp_path / "truncated.pt").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.pt").write_text("not a checkpoint\n")
    torch.save({"conv1.weight": Code()}, tmp_path / "code.pt")
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    torch.save({"conv1.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / "narrow.pt")
    torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "other.pt")
    state = torch.load(weights, weights_only=True)
    state["classifier.6.weight"] = torch.zeros(100, 4096)
    torch.save(state, tmp_path / "hundred.pt")
    torch.save({"a": torch.zeros(1000)}, tmp_path / "flipped.pt")
    flipped = bytearray((tmp_path / "flipped.pt").read_bytes())
    flipped[flipped.index(bytes(1000)) + 500] ^= 1  # in the values, which load as well as before
    (tmp_path / "flipped.pt").write_bytes(flipped)
    state = torch.load(weights, weights_only=True)
    state["bcn3.running_var"][5] = torch.nan
    torch.save(state, tmp_path / "nan.pt")
    expected = {
        "missing.pt": ["no such file"],
        ".": ["folder"],
        "truncated.pt": ["damaged"],
        "empty.pt": ["damaged"],
        "text.pt": ["damaged"],
        "code.pt": ["refused"],
        "module.pt": ["refused"],
        "tensor.pt": ["Tensor"],
        "narrow.pt": ["conv1.weight", "(32, 3, 3, 3)", "(64, 3, 3, 3)"],
        "other.pt": ["conv1.weight", "architecture"],
        "flipped.pt": ["checksum"],
        "nan.pt": ["bcn3.running_var", "NaN"],
        "hundred.pt": ["classifier.6.weight", "(100, 4096)", "(10, 4096)"],
    }
    for name, parts in expected.items():
        words = ("-data_dir", tree, "-weights", tmp_path / name, "-out", "result.json")
        line = refused(script("test_cifar10.py", *words))
        assert str(tmp_path / name) in line and all(part in line for part in parts), line


def test_weights_of_every_other_script(script, refused, tmp_path, tree, picture):
    torch.save({"conv1.weight": Code()}, tmp_path / "code.pt")
    for name, words in (
        ("inference.py", ("-image", picture, "-out_dir", "out")),
        ("train_cifar10.py", ("-load_weights", "-data_dir", tree, "-save_weights")),
        ("table1.py", ("-data_dir", tree, "-out_dir", "out", "-checkpoint_dir", "c")),
    ):
        if name == "train_cifar10.py":
            words += ("-checkpoint_dir", "c", "-log_dir", "l")
        assert "code.pt" in refused(script(name, "-weights", tmp_path / "code.pt", *words))


def test_no_run_to_take_the_weights_from(script, refused, tmp_path, tree, picture):
    common = ("-checkpoint_dir", tmp_path / "none")
    for name, words in (
        ("train_cifar10.py", ("-load_weights", "-data_dir", tree, "-log_dir", "l")),
        ("train_cifar10.py", ("-resume", "latest", "-data_dir", tree, "-log_dir", "l")),
        ("test_cifar10.py", ("-data_dir", tree)),
        ("inference.py", ("-image", picture)),
        ("table1.py", ("-data_dir", tree, "-out_dir", "out")),
    ):
        line = refused(script(name, *words, *common))
        assert "none" in line and "vgg16" in line


def test_data_folders(script, refused, tmp_path, tree):
    empty, hollow, rotten, small = (tmp_path / n for n in ("empty", "hollow", "rotten", "small"))
    empty.mkdir()
    for root in (hollow, rotten, small):
        for folder in (tree / "train").iterdir():
            (root / "train" / folder.name).mkdir(parents=True)
            (root / "train" / folder.name / "0.png").write_bytes((folder / "0.png").read_bytes())
    (hollow / "train" / "cat" / "0.png").unlink()
    (rotten / "train" / "dog" / "0.png").write_bytes(b"no picture")
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(small / "train" / "ship" / "0.png")
    lacking = tmp_path / "lacking"
    (lacking / "train" / "cat").mkdir(parents=True)
    a_file = tmp_path / "file"
    a_file.write_text("")
    expected = {
        tmp_path / "missing": ["no such folder"],
        a_file: ["is not a folder"],
        empty: ["cifar10", "train/<class>/<image>"],
        hollow: ["cat"],
        rotten: ["dog", "0.png"],
        small: ["ship", "9x8", "32x32"],
        lacking: ["airplane"],
    }
    for folder, parts in expected.items():
        words = ("-data_dir", folder, "-save_weights", "-checkpoint_dir", "c", "-log_dir", "l")
        line = refused(script("train_cifar10.py", *words))
        assert all(part in line for part in [folder.name, *parts]), line


def test_no_network_for_the_download(script, refused, monkeypatch, weights, tmp_path):
    def fail(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.setattr("utils.data.datasets.DEFAULT_DATA_DIR", tmp_path / "data")
    line = refused(script("test_cifar10.py", "-weights", weights))
    assert "download" in line and "-data_dir" in line and "shapes10" in line
    assert not (tmp_path / "data").exists()


def test_places_that_cannot_be_written(script, refused, tmp_path, tree, weights, picture):
    """Root may write anywhere but below a file and in /proc."""
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    places = [in_the_way, in_the_way / "below"]
    places += [Path("/proc/below")] if Path("/proc").is_dir() else []
    train = ("train_cifar10.py", "-data_dir", tree, "-log_dir", "l")
    infer = ("inference.py", "-image", picture, "-weights", weights)
    table = ("table1.py", "-data_dir", tree, "-weights", weights)
    test = ("test_cifar10.py", "-data_dir", tree, "-weights", weights)
    for place in places:
        for words in (
            (*train, "-save_weights", "-checkpoint_dir", place),
            (*infer, "-out_dir", place),
            (*table, "-out_dir", place),
            (*table, "-out_dir", "out", "-checkpoint_dir", place),
            (*test, "-out", place / "result.json"),
        ):
            assert str(place) in refused(script(*words))
    assert "expected a file" in refused(script(*test, "-out", tmp_path))
    assert "expected a file" in refused(script(*test, "-out", "/dev/null"))
    line = refused(script("train_cifar10.py", "-data_dir", tree, "-log_dir", in_the_way / "below"))
    assert str(in_the_way) in line
