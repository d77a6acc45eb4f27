"""``-cipher`` in every script that has it: what it does, what it refuses, what it leaves behind."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from running import SEED

from operators import SecretKey, make_scrambler
from utils.inference.network import deploy, load
from utils.io import scrambled_picture

CPU = torch.device("cpu")
KEYED = ("-net", "vgg16_permuted", "-permute", "-seed", SEED)


@pytest.mark.parametrize("cipher", ["blocks:8", "etc:4"])
def test_a_keyed_network_deployed_for_a_cipher_answers_as_the_plain_one(weights, cipher):
    scrambler = make_scrambler(cipher, 32, seed=30)
    plain = deploy("vgg16", load(weights, "cifar10"), CPU, scrambler, None)
    keyed = deploy("vgg16_permuted", load(weights, "cifar10"), CPU, scrambler, scrambler)
    served = deploy("vgg16_permuted", load(weights, "cifar10"), CPU, scrambler, None)
    images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        expected = plain.net(plain.preprocess(images))
        found = keyed.net(keyed.preprocess(images))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        arrived = served.net(served.preprocess(scrambler(images)))
        assert torch.equal(arrived, found)
        spread = (expected[0] - expected[1]).abs().max()
        without = plain.net(plain.preprocess(scrambler(images)))
        assert (without - expected).abs().max() > 0.01 * spread


def test_testing_under_a_cipher(script, tree, weights, tmp_path):
    words = ("-data_dir", tree, "-weights", weights, "-out", tmp_path / "r.json")
    for wrong in ([], ["-wrong_key"]):
        result = script("test_cifar10.py", *KEYED, "-cipher", "etc:4", *wrong, *words)
        assert result.status == 0, result.err
        assert result.err.count("warning") == 1 and "one of 2^32 keys" in result.err
        record = json.loads((tmp_path / "r.json").read_text())
        assert record["cipher"] == "etc:4" and record["images"] == 20
        assert record["key"] == make_scrambler("etc:4", 32, seed=SEED).fingerprint
    result = script("test_cifar10.py", *KEYED, "-cipher", "blocks:16", *words)
    assert "-cipher blocks:16 has 2^17 keys on 32x32 images" in result.err
    assert result.err.count("warning") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*KEYED, "-cipher", "blocks:5"), "divides the image's 32x32, got 5"),
        (("-permute", "-seed", 1, "-cipher", "etc:64"), "divides the image's 32x32, got 64"),
        ((*KEYED, "-cipher", "le"), "-net vgg16_permuted: a keyed network cannot take le pictures"),
        ((*KEYED, "-cipher", "ele"), "cannot take ele pictures: it moves halves of bytes"),
        ((*KEYED, "-cipher", "privconv"), "cannot take privconv pictures: it moves values"),
        ((*KEYED, "-cipher", "etc_published"), "etc:4 is the cipher as it was described"),
        (("-cipher", "etc:4"), "-cipher etc:4: nothing is scrambled; give -permute with it"),
        (
            ("-permute", "-cipher", "aes"),
            "privconv with N the side of a block in pixels, got 'aes'",
        ),
        (("-permute", "-key", "k", "-per_image", "-cipher", "le"), "pixels or blocks:N, got le"),
    ],
)
@pytest.mark.parametrize("name", ["train_cifar10.py", "test_cifar10.py", "inference.py"])
def test_refusals(script, refused, weights, tree, picture, tmp_path, name, words, message):
    common = {
        "train_cifar10.py": ("-data_dir", tree, "-epochs", 2, "-log_dir", tmp_path / "runs"),
        "test_cifar10.py": ("-data_dir", tree, "-weights", weights),
        "inference.py": ("-image", picture, "-weights", weights),
    }[name]
    assert message in refused(script(name, *words, *common))
    assert list(tmp_path.iterdir()) == []


def test_a_run_keeps_to_its_cipher(script, refused, tree, tmp_path):
    train = ("train_cifar10.py", "-net", "preresnet20", "-permute", "-seed", SEED)
    words = ("-data_dir", tree, "-epochs", 1, "-warm", 0, "-b", 10, "-log_dir", tmp_path / "runs")
    result = script(*train, "-cipher", "ele", *words, "-save_weights", "-checkpoint_dir", tmp_path)
    assert result.status == 0, result.err
    (record,) = tmp_path.glob("preresnet20/*/run.json")
    record, last = json.loads(record.read_text()), record.parent / "last.pt"
    assert record["cipher"] == "ele"
    assert record["key"] == make_scrambler("ele", 32, seed=SEED).fingerprint
    assert str(SEED) not in json.dumps(record)

    line = refused(script(*train, "-cipher", "le", *words, "-resume", last))
    assert "the run has -cipher ele, asked for is le" in line
    test = ("test_cifar10.py", "-net", "preresnet20", "-permute", "-seed", SEED)
    line = refused(script(*test, "-data_dir", tree, "-weights", last))
    assert "was trained on ele pictures, asked for is pixels; give -cipher ele" in line
    result = script(*test, "-cipher", "ele", "-data_dir", tree, "-weights", last)
    assert result.status == 0, result.err


@pytest.mark.parametrize("cipher", ["etc_published", "etc:4", "blocks:8"])
def test_training_under_a_cipher(script, tree, tmp_path, cipher):
    net = "preresnet20" if cipher == "etc_published" else "preresnet20_permuted"
    result = script(
        *("train_cifar10.py", "-net", net, "-permute", "-seed", SEED, "-cipher", cipher),
        *("-data_dir", tree, "-epochs", 1, "-warm", 0, "-b", 10, "-log_dir", tmp_path / "runs"),
    )
    assert result.status == 0, result.err
    assert "Test accuracy" in result.out


@pytest.fixture
def client(script, monkeypatch, tmp_path):
    """``client(*words)`` runs scramble.py, with a key ``k``, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    assert script("scramble.py", "keygen", "-key", "k").status == 0
    return lambda *words: script("scramble.py", *words, "-key", "k")


def noise(path: str, height: int = 32, width: int = 32) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.mark.parametrize("cipher", ["blocks:8", "etc:4", "le", "ele", "privconv"])
def test_a_picture_there_and_back(client, cipher):
    pixels = noise("p.png", 32, 48)
    result = client("scramble", "-in", "p.png", "-out", "s.png", "-cipher", cipher)
    assert result.status == 0, result.err
    key, label = SecretKey.load("k"), scrambled_picture.read(Path("s.png"))[1]
    assert (label.scheme, label.cipher, label.fingerprint) == ("fixed", cipher, key.fingerprint)
    expected = make_scrambler(cipher, (32, 48), secret=key)(torch.from_numpy(pixels).movedim(2, 0))
    assert np.array_equal(np.asarray(Image.open("s.png")), expected.movedim(0, 2).numpy())
    assert client("restore", "-in", "s.png", "-out", "b.png").status == 0
    assert np.array_equal(np.asarray(Image.open("b.png")), pixels)


def test_blocks_of_each_image(client):
    pixels = noise("p.png")
    for name in "st":
        words = ("-in", "p.png", "-out", f"{name}.png", "-cipher", "blocks:8", "-per_image")
        assert client("scramble", *words).status == 0
    assert not np.array_equal(np.asarray(Image.open("s.png")), np.asarray(Image.open("t.png")))
    assert client("restore", "-in", "s.png", "-out", "b.png").status == 0
    assert np.array_equal(np.asarray(Image.open("b.png")), pixels)


def test_what_the_client_refuses(client, refused):
    noise("p.png", 30, 32)
    scramble = ("scramble", "-in", "p.png", "-out", "s.png", "-cipher")
    assert "p.png: -cipher etc:4" in refused(client(*scramble, "etc:4"))
    assert "loses colours" in refused(client(*scramble, "etc_published"))
    assert "got le" in refused(client(*scramble, "le", "-per_image"))
    assert "-cipher blocks:2" in refused(client(*scramble, "blocks:2", "-per_image_values"))
    assert not Path("s.png").exists()
    result = client(*scramble, "blocks:2")
    assert result.status == 0 and result.err == ""
    result = client(
        "scramble", "-in", "p.png", "-out", "t.png", "-size", 32, "-cipher", "blocks:16"
    )
    assert result.status == 0 and "2^17 keys" in result.err


def test_the_server_reads_the_cipher_from_the_label(client, script, refused, weights):
    noise("p.png")
    serve = ("inference.py", "-net", "vgg16_permuted", "-scrambled", "-key", "k")
    serve = (*serve, "-weights", weights)
    plain = script("inference.py", "-net", "vgg16", "-weights", weights, "-image", "p.png").out
    for cipher, per_image in (("etc:4", ()), ("blocks:8", ()), ("blocks:8", ("-per_image",))):
        Path("s.png").unlink(missing_ok=True)
        words = ("-in", "p.png", "-out", "s.png", "-cipher", cipher, *per_image)
        assert client("scramble", *words).status == 0
        result = script(*serve, "-image", "s.png")
        assert result.status == 0 and result.out == plain
    line = refused(script(*serve, "-image", "s.png", "-cipher", "etc:4"))
    assert "was scrambled with -cipher blocks:8, asked for is etc:4" in line
    client("scramble", "-in", "p.png", "-out", "le.png", "-cipher", "le")
    assert "cannot take le pictures" in refused(script(*serve, "-image", "le.png"))


@pytest.mark.parametrize(
    "label",
    [
        "fixed aes 0123456789abcdef",
        "fixed etc:4",
        f"per-image etc:4 0123456789abcdef {'0' * 32}",
        f"per-image-values blocks:4 0123456789abcdef {'0' * 32}",
        "fixed blocks:0 0123456789abcdef",
    ],
)
def test_damaged_labels(client, refused, label):
    noise("p.png")
    info = PngInfo()
    info.add_text(scrambled_picture.CHUNK, label)
    Image.open("p.png").save("s.png", pnginfo=info)
    assert "damaged label" in refused(client("restore", "-in", "s.png", "-out", "b.png"))
