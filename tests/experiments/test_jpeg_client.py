"""``scramble.py -jpeg``: what travels in a JPEG file, what arrives, and what is said of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo
from running import ROOT, SCRIPTS

from operators import SecretKey
from operators.blocks import symmetry_table
from utils.io import scrambled_picture

PRERESNET20 = ROOT / "checkpoints" / "preresnet20.pt"


@pytest.fixture
def client(script, monkeypatch, tmp_path):
    """``client(*words)`` runs scramble.py, with a key ``k``, in an empty folder with ``p.png``."""
    monkeypatch.chdir(tmp_path)
    drawn().save("p.png")
    assert script("scramble.py", "keygen", "-key", "k").status == 0
    return lambda *words: script("scramble.py", *words, "-key", "k")


def drawn(width: int = 64, height: int = 32) -> Image.Image:
    """A smooth picture with edges, of which JPEG keeps nearly all."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 / width, y * 255 / height, 255 - 2 * x], 2).clip(0, 255)
    image = Image.fromarray(pixels.astype(np.uint8))
    ImageDraw.Draw(image).ellipse((10, 5, 40, 25), fill=(200, 60, 40))
    return image


def pixels(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def error(a: str, b: str) -> float:
    """Root of the mean squared difference of two pictures."""
    return float(np.sqrt(np.square(pixels(a).astype(float) - pixels(b)).mean()))


def squares(image: np.ndarray) -> torch.Tensor:
    """``(H, W, 3)`` as its 8x8 squares, row by row, ``(B, 64, 3)``."""
    x = torch.from_numpy(image.copy()).unfold(0, 8, 8).unfold(1, 8, 8)  # (h, w, 3, 8, 8)
    return x.permute(0, 1, 3, 4, 2).reshape(-1, 64, 3).float()


@pytest.mark.parametrize("secret", [bytes(32), bytes(range(32))])
def test_jpeg_codes_a_moved_square_as_it_codes_it_in_its_place(tmp_path, secret):
    """Decoded, the squares of the scrambled picture are those of the plain one, up to rounding.

    A turn by 90 degrees swaps rows and columns of a square's coefficients, and with them those of
    the quantisation tables, which are not symmetric.
    """
    steps = np.random.default_rng(0).normal(0, 9, (32, 64, 3))
    image = (np.cumsum(steps, 1) + 128).clip(0, 255).astype(np.uint8)
    key, path = SecretKey(secret), tmp_path / "s.jpg"
    label = scrambled_picture.new_label("fixed", key, "blocks:8")
    moved = scrambled_picture.scramble(torch.from_numpy(image).permute(2, 0, 1), key, label)
    scrambled_picture.write(moved, label, path, quality=75)

    order, symmetry = (x[0] for x in key.blocks(32, 8, [b""]))
    tables = [np.reshape(table, (8, 8)) for table in Image.open(path).quantization.values()]
    plain = []
    for used in (tables, [table.T for table in tables]):
        used = [table.flatten().tolist() for table in used]
        Image.fromarray(image).save(tmp_path / "p.jpg", qtables=used, subsampling="4:4:4")
        plain.append(squares(pixels(tmp_path / "p.jpg")))
    swapped = (symmetry % 2 == 1)[:, None, None]
    in_place = torch.where(swapped, plain[1], plain[0])
    inside = symmetry_table(8)[symmetry][..., None].expand(-1, -1, 3)  # (B, 64, 3)
    expected = in_place.gather(1, inside)[order]
    lost = (plain[0] - squares(image)).square().mean().sqrt()
    found = (squares(pixels(path)) - expected).square().mean().sqrt()
    assert lost > 5 and found < 0.06 * lost


@pytest.mark.parametrize(
    ("cipher", "flags", "loss"),
    [
        ("blocks:8", [], 1.1),
        ("blocks:16", ["-per_image"], 1.1),
        ("etc:8", ["-subsampling", "444"], 1.1),
        ("blocks:16", ["-subsampling", "420"], 1.6),  # decoders smooth colours across squares
    ],
)
def test_there_and_back(client, cipher, flags, loss):
    """What is restored has lost what a plain JPEG file loses."""
    words = ("scramble", "-in", "p.png", "-out", "s.jpg", "-cipher", cipher, "-jpeg", 95, *flags)
    result = client(*words)
    assert result.status == 0 and "ruins" not in result.err
    with Image.open("s.jpg") as sent:
        assert sent.format == "JPEG"
        assert sent.layer[0][1:3] == ((2, 2) if "420" in flags else (1, 1))
        key = SecretKey.load("k").fingerprint
        scheme = "per-image" if "-per_image" in flags else "fixed"
        assert sent.info["comment"].decode().startswith(f"PrivDL {scheme} {cipher} {key}")
    assert client("restore", "-in", "s.jpg", "-out", "b.png").status == 0
    colours = "4:2:0" if "420" in flags else "4:4:4"
    Image.open("p.png").save("plain.jpg", quality=95, subsampling=colours)
    assert error("p.png", "s.jpg") > 40
    assert 0 < error("p.png", "b.png") < loss * error("p.png", "plain.jpg")


def test_a_folder_of_any_names(client, tmp_path):
    """What a file is, its content says: a renamed picture is restored as it was."""
    Path("photos/more").mkdir(parents=True)
    drawn().save("photos/a.bmp")
    drawn(32, 32).save("photos/more/b.jpeg", quality=100)
    words = ("-in", "photos", "-out", "sent", "-cipher", "blocks:8", "-per_image", "-jpeg", "90")
    assert client("scramble", *words).status == 0
    sent = sorted(str(p) for p in Path("sent").rglob("*") if p.is_file())
    assert sent == ["sent/a.jpg", "sent/more/b.jpg"]
    assert client("restore", "-in", "sent", "-out", "back").status == 0
    before = pixels("back/a.png")
    Path("renamed.png").write_bytes(Path("sent/a.jpg").read_bytes())
    assert client("restore", "-in", "renamed.png", "-out", "again.png").status == 0
    assert np.array_equal(pixels("again.png"), before)


def test_the_comment_survives_a_program_that_keeps_comments(client):
    words = ("-in", "p.png", "-out", "s.jpg", "-cipher", "blocks:8", "-per_image", "-jpeg", 95)
    assert client("scramble", *words).status == 0
    label = scrambled_picture.read(Path("s.jpg"))[1]
    Image.open("s.jpg").save("t.jpg", quality="keep")
    assert scrambled_picture.read(Path("t.jpg"))[1] == label
    Image.open("s.jpg").save("u.jpg", comment=b"", quality="keep")
    assert scrambled_picture.read(Path("u.jpg"))[1] is None


@pytest.fixture
def sent(client) -> bytes:
    """A scrambled picture, ``s.jpg``."""
    words = ("-in", "p.png", "-out", "s.jpg", "-cipher", "blocks:8", "-per_image", "-jpeg", 95)
    assert client("scramble", *words).status == 0
    return Path("s.jpg").read_bytes()


def test_comments_of_other_programs_do_not_hide_the_label(sent):
    image, label = scrambled_picture.read(Path("s.jpg"))
    other = b"\xff\xfe\0\x09comment"
    first = sent.index(b"\xff\xfe")
    behind = first + 2 + int.from_bytes(sent[first + 2 : first + 4], "big")
    for at in (first, behind):
        Path("t.jpg").write_bytes(sent[:at] + other + sent[at:])
        seen, found = scrambled_picture.read(Path("t.jpg"))
        assert found == label and torch.equal(seen, image)


def test_an_orientation_tag_turns_photographs_and_not_what_was_scrambled(sent):
    turned, (image, _) = Image.Exif(), scrambled_picture.read(Path("s.jpg"))
    turned[274] = 6  # by a quarter
    tag = turned.tobytes()
    tagged = sent[:2] + b"\xff\xe1" + (2 + len(tag)).to_bytes(2, "big") + tag + sent[2:]
    for content, turns in ((tagged, 0), (tagged.replace(b"PrivDL", b"Others"), -1)):
        Path("t.jpg").write_bytes(content)
        assert torch.equal(scrambled_picture.read(Path("t.jpg"))[0], image.rot90(turns, (1, 2)))


def test_a_comment_in_a_png_file_is_no_label(client):
    note = PngInfo()
    note.add_text("comment", "a holiday")
    Image.open("p.png").save("note.png", pnginfo=note)
    assert client("scramble", "-in", "note.png", "-out", "s.png").status == 0
    assert client("restore", "-in", "s.png", "-out", "b.png").status == 0
    assert np.array_equal(pixels("b.png"), pixels("p.png"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "-cipher pixels takes apart"),
        (("-per_image",), "-cipher pixels takes apart"),
        (("-per_image_values",), "-per_image_values takes apart"),
        (("-cipher", "blocks:4"), "-cipher blocks:4 takes apart"),
        (("-cipher", "ele"), "-cipher ele takes apart"),
        (("-cipher", "blocks:8"), None),
        (("-cipher", "etc:16"), None),
    ],
)
def test_what_jpeg_ruins_is_said(client, words, said):
    result = client("scramble", "-in", "p.png", "-out", "s.jpg", "-jpeg", 85, *words)
    assert result.status == 0
    warnings = [line for line in result.err.splitlines() if "ruins" in line]
    assert len(warnings) == (said is not None)
    if said is not None:
        assert said in warnings[0] and "-cipher blocks:8 moves them whole" in warnings[0]
        assert client("restore", "-in", "s.jpg", "-out", "b.png").status == 0
        Image.open("p.png").save("plain.jpg", quality=85, subsampling="4:4:4")
        assert error("p.png", "b.png") > 1.3 * error("p.png", "plain.jpg")


def test_refusals(client, refused, script):
    to = ("scramble", "-in", "p.png", "-out")
    blocks = ("-cipher", "blocks:8")
    assert client(*to, "s.jpg", *blocks, "-jpeg", 85).status == 0
    Image.open("p.png").save("photo.jpg")
    Image.open("p.png").save("damaged.jpg", comment="PrivDL fixed blocks:8 zz")
    Image.open("p.png").save("other.jpg", comment="a holiday")
    Image.new("RGB", (8, 65_504)).save("long.png")
    Path("both").mkdir()
    Path("both/a.jpg").write_bytes(Path("s.jpg").read_bytes())
    sent = Image.open("s.jpg")
    sent.crop((0, 0, 60, 32)).save("both/crop.jpg", comment=sent.info["comment"])
    lossy = sent.info["comment"].replace(b"blocks:8", b"etc_published")
    sent.save("lossy.jpg", comment=lossy)
    for message, words in {
        "-jpeg writes JPEG; expected a name in .jpg or .jpeg": (*to, "t.png", "-jpeg", 85),
        "only PNG keeps every pixel; expected a name in .png": (*to, "t.jpg"),
        "expected a whole number in 1..100, got '0'": (*to, "t.jpg", "-jpeg", 0),
        "expected a whole number in 1..100, got '101'": (*to, "t.jpg", "-jpeg", 101),
        "invalid choice: '422'": (*to, "t.jpg", "-jpeg", 85, "-subsampling", 422),
        "-subsampling 420 needs -jpeg Q": (*to, "t.png", "-subsampling", 420),
        "are for scramble": ("restore", "-in", "s.jpg", "-out", "t.png", "-jpeg", 85),
        "only PNG keeps every": ("restore", "-in", "s.jpg", "-out", "t.jpg"),
        "is scrambled already": ("scramble", "-in", "s.jpg", "-out", "t.jpg", "-jpeg", 85),
        "not a picture that scramble.py wrote": ("restore", "-in", "photo.jpg", "-out", "t.png"),
        "other.jpg: not a picture that": ("restore", "-in", "other.jpg", "-out", "t.png"),
        "damaged label 'fixed blocks:8 zz'": ("restore", "-in", "damaged.jpg", "-out", "t.png"),
        "damaged label 'fixed etc_published": ("restore", "-in", "lossy.jpg", "-out", "t.png"),
        "both/crop.jpg: cropped or resized since": ("restore", "-in", "both", "-out", "t.d"),
        "-jpeg takes sides of at most 65500, got 65504": (
            *("scramble", "-in", "long.png", "-out", "t.jpg", "-jpeg", 85),
        ),
    }.items():
        assert message in refused(client(*words))
    assert script("scramble.py", "keygen", "-key", "other").status == 0
    words = ("restore", "-key", "other", "-in", "s.jpg", "-out", "t.png")
    assert "s.jpg: scrambled with key" in refused(script("scramble.py", *words))
    assert not list(Path().glob("t.*"))


def test_client_and_server_as_processes(launch, script, monkeypatch, tmp_path):
    """From a photograph to the answer: that of the plain network on the plain JPEG file."""
    monkeypatch.chdir(tmp_path)
    drawn(32, 32).save("p.png")
    SecretKey.generate().save("k")

    def run(name: str, *words: object) -> str:
        result = launch(SCRIPTS / name, "-key", "k", *words, cwd=tmp_path)
        assert result.status == 0, result.err
        return result.out

    words = ("-in", "p.png", "-out", "s.jpg", "-cipher", "blocks:8", "-per_image", "-jpeg", 90)
    run("scramble.py", "scramble", *words)
    Path("arrived.png").write_bytes(Path("s.jpg").read_bytes())
    net = ("-weights", PRERESNET20, "-out_dir", "d", "-image", "arrived.png")
    answer = run("inference.py", "-net", "preresnet20_permuted", "-scrambled", *net)
    run("scramble.py", "restore", "-in", "s.jpg", "-out", "b.png")
    plain = ("-net", "preresnet20", "-weights", PRERESNET20, "-image", "b.png")
    assert answer.splitlines()[:5] == script("inference.py", *plain).out.splitlines()
    # what was received is kept as it came, and not encoded once more
    assert Path("d/scrambled.png").read_bytes() == Path("s.jpg").read_bytes()
    assert np.array_equal(pixels("d/image.png"), pixels("b.png"))
