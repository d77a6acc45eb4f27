"""experiments/classification/scramble.py: key, scramble and restore, as a client runs them."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "experiments" / "classification"))

import scramble

from operators import Key
from utils import scrambled_png
from utils.cli import UserError


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run the script in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def go(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["scramble.py", *arguments])
        scramble.main()

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
    labels = [scrambled_png.read(Path(name))[1] for name in ("a.png", "b.png")]
    assert {label.fingerprint for label in labels} == {Key.load("k").fingerprint}
    assert labels[0].nonce != labels[1].nonce
    assert Path("a.png").read_bytes() != Path("b.png").read_bytes()


def test_size_fits_before_scrambling(run):
    picture(Path("p.png"), size=(40, 60))
    run("keygen", "-key", "k")
    run("scramble", "-key", "k", "-in", "p.png", "-out", "s.png", "-size", "32")
    assert Image.open("s.png").size == (32, 32)


def test_a_repeated_nonce_is_reported(run, capsys):
    picture(Path("p.png"))
    run("keygen", "-key", "k")
    Path("s").mkdir()
    run("scramble", "-key", "k", "-in", "p.png", "-out", "s/a.png", "-per_image")
    Path("s/b.png").write_bytes(Path("s/a.png").read_bytes())
    run("restore", "-key", "k", "-in", "s", "-out", "back")
    assert "share a nonce" in capsys.readouterr().err


def test_refusals(run):
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
        with pytest.raises(UserError, match=message):
            run(*arguments)
    assert not Path("t.png").exists()
    os.chmod("k", 0o644)
    with pytest.raises(UserError, match="chmod 600"):
        run("restore", "-key", "k", "-in", "s.png", "-out", "t.png")


def test_a_damaged_label_is_refused(run):
    Image.new("RGB", (2, 2)).save("p.png")
    info = scrambled_png.PngInfo()
    info.add_text("PrivDL", "per-image 00 zz")
    Image.new("RGB", (2, 2)).save("p.png", pnginfo=info)
    with pytest.raises(UserError, match="damaged label"):
        scrambled_png.read(Path("p.png"))


def test_errors_are_one_line_and_status_2(tmp_path):
    script = ROOT / "experiments" / "classification" / "scramble.py"
    for arguments in (["scramble", "-key", "k"], ["restore", "-key", "k", "-in", "a", "-out", "b"]):
        done = subprocess.run(
            [sys.executable, script, *arguments], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert not done.stdout
