"""experiments/classification/scramble.py: key, scramble and restore, as a client runs them."""

import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from operators import SecretKey
from utils.io import scrambled_picture
from utils.runtime.errors import UserError


@pytest.fixture
def client(script, monkeypatch, tmp_path):
    """``client(*words)`` runs scramble.py in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: script("scramble.py", *words)


@pytest.fixture
def run(client):
    """The same, which must succeed."""

    def go(*words: object) -> None:
        result = client(*words)
        assert result.status == 0, result.err

    return go


def picture(path: Path, seed: int = 0, size=(7, 5)) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.mark.parametrize("flags", [[], ["-per_image"], ["-per_image_values"]])
def test_round_trip_of_a_folder(run, flags):
    pixels = [picture(Path("photos/a.png"), 1), picture(Path("photos/b.PNG"), 2, (4, 9))]
    run("keygen", "-key", "k")
    assert stat.S_IMODE(os.stat("k").st_mode) == 0o600
    run("scramble", "-key", "k", "-in", "photos", "-out", "out", *flags)
    run("restore", "-key", "k", "-in", "out", "-out", "back")
    for name, expected in zip("ab", pixels, strict=True):
        assert not np.array_equal(np.asarray(Image.open(f"out/{name}.png")), expected)
        assert np.array_equal(np.asarray(Image.open(f"back/{name}.png")), expected)


def test_the_label_names_key_and_nonce(run):
    picture(Path("p.png"))
    run("keygen", "-key", "k")
    run("scramble", "-key", "k", "-in", "p.png", "-out", "a.png", "-per_image")
    run("scramble", "-key", "k", "-in", "p.png", "-out", "b.png", "-per_image")
    labels = [scrambled_picture.read(Path(name))[1] for name in ("a.png", "b.png")]
    assert {label.fingerprint for label in labels} == {SecretKey.load("k").fingerprint}
    assert labels[0].nonce != labels[1].nonce
    assert Path("a.png").read_bytes() != Path("b.png").read_bytes()


def test_size_fits_before_scrambling(run):
    picture(Path("p.png"), size=(40, 60))
    run("keygen", "-key", "k")
    run("scramble", "-key", "k", "-in", "p.png", "-out", "s.png", "-size", "32")
    assert Image.open("s.png").size == (32, 32)


def test_a_repeated_nonce_is_reported(run, client):
    picture(Path("p.png"))
    run("keygen", "-key", "k")
    Path("s").mkdir()
    run("scramble", "-key", "k", "-in", "p.png", "-out", "s/a.png", "-per_image")
    Path("s/b.png").write_bytes(Path("s/a.png").read_bytes())
    assert "share a nonce" in client("restore", "-key", "k", "-in", "s", "-out", "back").err


def test_a_folder_with_one_bad_picture_writes_nothing(run, client, refused):
    picture(Path("photos/a.png"))
    Path("photos/b.png").write_bytes(b"no picture")
    Path("photos/album.png").mkdir()
    run("keygen", "-key", "k")
    line = refused(client("scramble", "-key", "k", "-in", "photos", "-out", "out"))
    assert "b.png" in line and not Path("out").exists()
    Path("photos/b.png").unlink()
    run("scramble", "-key", "k", "-in", "photos", "-out", "out")
    picture(Path("out/c.png"))
    line = refused(client("restore", "-key", "k", "-in", "out", "-out", "back"))
    assert "c.png" in line and not Path("back").exists()


def test_refusals(run, client, refused):
    picture(Path("p.png"))
    run("keygen", "-key", "k")
    run("keygen", "-key", "other")
    run("scramble", "-key", "k", "-in", "p.png", "-out", "s.png")
    for message, arguments in {
        "never overwritten": ("keygen", "-key", "k"),
        "only PNG keeps every pixel": ("scramble", "-key", "k", "-in", "p.png", "-out", "s.jpg"),
        "exists": ("scramble", "-key", "k", "-in", "p.png", "-out", "s.png"),
        "scrambled already": ("scramble", "-key", "k", "-in", "s.png", "-out", "t.png"),
        "not a picture that scramble.py wrote": (
            *("restore", "-key", "k"),
            *("-in", "p.png", "-out", "t.png"),
        ),
        "scrambled with key": ("restore", "-key", "other", "-in", "s.png", "-out", "t.png"),
        "no such file": ("scramble", "-key", "k", "-in", "nothing", "-out", "t.png"),
        "-key": ("scramble", "-key", "nothing", "-in", "p.png", "-out", "t.png"),
    }.items():
        assert message in refused(client(*arguments))
    assert not Path("t.png").exists()
    os.chmod("k", 0o644)
    assert "chmod 600" in refused(client("restore", "-key", "k", "-in", "s.png", "-out", "t.png"))
    assert "needs -in and -out" in refused(client("scramble", "-key", "k"))


def test_a_damaged_label_is_refused(run):
    Image.new("RGB", (2, 2)).save("p.png")
    info = PngInfo()
    info.add_text("PrivDL", "per-image 00 zz")
    Image.new("RGB", (2, 2)).save("p.png", pnginfo=info)
    with pytest.raises(UserError, match="damaged label"):
        scrambled_picture.read(Path("p.png"))


@pytest.mark.parametrize("flags", [[], ["-per_image"], ["-per_image_values"]])
def test_the_server_sees_the_same_picture(run, script, refused, weights, flags):
    """Client and server run apart: the answer is the plain network's on the plain picture."""
    picture(Path("p.png"), size=(32, 32))
    run("keygen", "-key", "k")
    run("keygen", "-key", "other")
    run("scramble", "-key", "k", "-in", "p.png", "-out", "s.png", *flags)
    plain = script("inference.py", "-net", "vgg16", "-weights", weights, "-image", "p.png")
    server = ("inference.py", "-net", "vgg16_permuted", "-weights", weights, "-scrambled")
    keyed = script(*server, "-key", "k", "-image", "s.png", "-out_dir", "d")
    assert plain.status == 0
    assert keyed.out.splitlines()[:5] == plain.out.splitlines()
    assert np.array_equal(np.asarray(Image.open("d/image.png")), np.asarray(Image.open("p.png")))
    assert "scrambled with key" in refused(script(*server, "-key", "other", "-image", "s.png"))
    assert "give it with -key" in refused(script(*server, "-seed", "7", "-image", "s.png"))


def test_inference_scrambles_as_a_client_would(run, script, refused, weights):
    """Each run under a fresh nonce, in a picture that the server can take from there."""
    pixels = picture(Path("p.png"), size=(32, 32))
    run("keygen", "-key", "k")
    common = ("inference.py", "-weights", weights, "-image", "p.png")
    ranking = script(*common, "-net", "vgg16").out.splitlines()
    keyed = (*common, "-net", "vgg16_permuted", "-permute", "-per_image")
    for folder in ("d", "e"):
        shown = script(*keyed, "-key", "k", "-out_dir", folder)
        assert shown.out.splitlines()[:5] == ranking
        assert np.array_equal(np.asarray(Image.open(f"{folder}/image.png")), pixels)
    labels = [scrambled_picture.read(Path(f"{folder}/scrambled.png"))[1] for folder in "de"]
    assert labels[0].scheme == "per-image" and labels[0].nonce != labels[1].nonce
    server = ("inference.py", "-net", "vgg16_permuted", "-weights", weights, "-scrambled")
    received = script(*server, "-key", "k", "-image", "d/scrambled.png", "-out_dir", "f")
    assert received.out.splitlines()[:5] == ranking
    sent, arrived = (Path(f"{folder}/scrambled.png").read_bytes() for folder in "df")
    assert sent == arrived
    # a network without the key is given the picture as it is
    assert script(*common, "-net", "vgg16", "-permute", "-per_image", "-key", "k").status == 0
    assert "needs -permute and -key" in refused(script(*keyed, "-seed", "7"))


def test_training_under_per_image_keys(run, script, refused, tree):
    run("keygen", "-key", "k")
    tiny = ("-epochs", 1, "-warm", 0, "-b", 10, "-lr", 0.001, "-data_dir", tree)
    common = ("train_cifar10.py", "-permute", "-per_image", *tiny, "-log_dir", "r")
    files = ("-save_weights", "-checkpoint_dir", "c")
    trained = script(*common, *files, "-key", "k")
    assert trained.status == 0, trained.err
    (path,) = Path("c").rglob("run.json")
    record = json.loads(path.read_text())
    assert record["per_image"] is True and record["permute"] is True
    assert record["key"] == SecretKey.load("k").fingerprint
    again = ("train_cifar10.py", "-permute", *tiny, *files, "-key", "k", "-resume", "latest")
    assert "-per_image True, asked for is False" in refused(script(*again))
    assert "needs -permute and -key" in refused(script(*common, "-seed", "7"))


def test_per_image_keys_leave_the_accuracy_as_it_is(run, script, tree, weights, refused):
    run("keygen", "-key", "k")
    common = ("test_cifar10.py", "-weights", weights, "-data_dir", tree)
    plain = script(*common, "-net", "vgg16")
    keyed = ("-net", "vgg16_permuted", "-permute", "-per_image")
    assert script(*common, *keyed, "-key", "k").out == plain.out
    assert script(*common, *keyed, "-key", "k", "-cipher", "blocks:8").out == plain.out
    assert "needs -permute and -key" in refused(script(*common, *keyed))
    assert script(*common, *keyed, "-key", "k", "-wrong_key").status == 0


def test_a_missing_source_is_named_before_the_kind_of_the_target(run, client, refused):
    run("keygen", "-key", "k")
    for action in ("scramble", "restore"):
        line = refused(client(action, "-key", "k", "-in", "none", "-out", "folder"))
        assert "-in none: no such file or folder" in line
