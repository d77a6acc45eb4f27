"""Segmentation through the scripts: one epoch of training, then testing, inference, the table."""

import json

import pytest
import torch
from running import ROOT, files_below

import models
from operators import SecretKey
from tests.models.live import with_live_statistics
from tests.utils.tiny import make_masks
from utils.data.segmentation import load_masks
from utils.data.shapes import SEG_SIZE
from utils.io import checkpoint
from utils.io.pictures import read_image, save_png, to_tensor

SCRIPTS = ROOT / "experiments" / "segmentation"
NAMES = ("train_voc.py", "test_voc.py", "inference.py", "table_segmentation.py")
TINY = ("-epochs", 1, "-warm", 0, "-b", 30, "-crop_size", "16x16", "-amp", "off", "-ema", 0)
SHAPES = ("-dataset", "shapes_seg")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, launch):
    """A run of one epoch, started as a process in the scripts' own folder: its end, its files."""
    root = tmp_path_factory.mktemp("trained")
    words = (*SHAPES, "-save_weights", "-checkpoint_dir", root / "c", "-log_dir", root / "r")
    result = launch("train_voc.py", *words, *TINY, cwd=SCRIPTS, OMP_NUM_THREADS="1")
    assert result.status == 0, result.err
    return result, checkpoint.newest(root / "c", "unet")


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """A bare state_dict of a U-Net whose random weights tell pictures apart."""
    path = tmp_path_factory.mktemp("live") / "unet.pt"
    torch.manual_seed(0)
    torch.save(with_live_statistics(models.create_model("unet", 11)).state_dict(), path)
    return path


@pytest.fixture
def ask(script, tmp_path):
    """``ask(name, *words)`` runs a script that succeeds; with ``out``, the result it wrote."""

    def run(name, *words, out=False):
        path = tmp_path / "result.json"
        result = script(SCRIPTS / name, *words, *(("-out", path) if out else ()))
        assert result.status == 0, result.err
        return json.loads(path.read_text()) if out else result

    return run


def test_a_run_reports_what_its_weights_are_tested_at(trained, ask):
    result, last = trained
    record = json.loads((last.parent / "run.json").read_text())
    assert f"Test miou: {record['test_miou']:.2%} (40 images)" in result.out
    assert record["recipe"]["crop_size"] == [16, 16] and len(record["test_iou"]) == 11
    found = ask("test_voc.py", *SHAPES, "-weights", last, out=True)
    for name in ("miou", "iou", "pixel_accuracy"):
        assert found[name] == record[f"test_{name}"]
    assert found["images"] == 40 and found["classes"][0] == "background"


def test_with_the_key_every_pixel_is_labelled_as_without(live, ask, tmp_path):
    key = tmp_path / "my.key"
    SecretKey.generate().save(key)
    bare = (*SHAPES, "-weights", live)
    keyed = ("-net", "unet_permuted", "-permute", "-key", key)
    plain = ask("test_voc.py", *bare, out=True)
    for words in (keyed, (*keyed, "-per_image")):
        found = ask("test_voc.py", *bare, *words, out=True)
        assert found["iou"] == plain["iou"]
        assert found["permute"] and found["per_image"] == ("-per_image" in words)
    wrong = ask("test_voc.py", *bare, *keyed, "-per_image", "-wrong_key", out=True)
    assert wrong["iou"] != plain["iou"] and wrong["wrong_key"]


def test_the_table(live, ask, tmp_path):
    words = ("-weights", live, "-seed", 5, "-sizes", "20x28", "-rounds", 1, "-out_dir", tmp_path)
    shown = ask("table_segmentation.py", *SHAPES, *words).out
    table = json.loads((tmp_path / "table_segmentation.json").read_text())
    rows = {row["name"]: row for row in table["rows"]}
    plain, right = rows["plain images"], rows["keyed network, right key"]
    assert right["same_maps"] == plain["same_maps"] == table["images"] == 40
    assert right["iou"] == plain["iou"] and right["same_pixels"] == 1
    for name in ("keyed network, wrong key", "same weights, scrambled images"):
        assert rows[name]["same_maps"] == 0 and 0 < rows[name]["same_pixels"] < 0.9
    constant = rows["the most frequent class everywhere"]
    truth = torch.cat([mask.flatten() for mask in load_masks("shapes_seg", "test").truth])
    background = float((truth[truth != 255] == 0).double().mean())
    assert constant["pixel_accuracy"] == pytest.approx(background)
    assert constant["miou"] == pytest.approx(background / 11)
    (cost,) = table["cost"]
    assert cost["size"] == [20, 28] and min(cost["ratio"], cost["build_s"]) > 0
    assert "40 of 40" in shown and "| 20x28 |" in shown
    assert (tmp_path / "table_segmentation.md").read_text() in shown


def test_one_picture(live, ask, tmp_path, picture):
    key = tmp_path / "my.key"
    SecretKey.generate().save(key)
    bare = (*SHAPES, "-weights", live, "-image", picture)
    plain = ask("inference.py", *bare, "-out_dir", tmp_path / "plain")
    names = ["image.png", "legend.png", "overlay.png", "overview.png", "returned.png"]
    assert files_below(tmp_path / "plain") == names
    keyed = (*bare, "-net", "unet_permuted", "-permute", "-key", key)
    for words in ((), ("-per_image",)):
        found = ask("inference.py", *keyed, *words, "-out_dir", tmp_path / "keyed")
        shares = [line.split() for line in found.out.splitlines() if "%" in line]
        assert shares and found.out.splitlines()[: len(shares)] == plain.out.splitlines()[:-1]
        assert files_below(tmp_path / "keyed") == sorted([*names, "sent.png"])
    made = {
        (kind, name): to_tensor(read_image(tmp_path / kind / f"{name}.png"))
        for kind in ("plain", "keyed")
        for name in ("image", "returned", "overlay")
    }
    size = read_image(picture)
    assert made["keyed", "overlay"].shape == (3, size.height, size.width)
    assert torch.equal(made["keyed", "overlay"], made["plain", "overlay"])
    assert made["keyed", "returned"].shape == (3, *SEG_SIZE)
    assert not torch.equal(made["keyed", "returned"], made["plain", "returned"])
    sent = to_tensor(read_image(tmp_path / "keyed" / "sent.png"))
    assert not torch.equal(sent, made["keyed", "image"])
    assert torch.equal(sent.flatten().bincount(), made["keyed", "image"].flatten().bincount())


BAD = [
    ("train_voc.py", ("-image_size", "180"), "HEIGHTxWIDTH in pixels, got '180'"),
    ("train_voc.py", ("-crop_size", "0x5"), "1..10000, got '0'"),
    ("train_voc.py", ("-scale", "2,1"), "two rising numbers, as 0.5,2, got '2,1'"),
    ("train_voc.py", ("-cutout", "8"), "-cutout"),
    ("train_voc.py", ("-preset", "fast"), "'fast' (choose from 'unet-cpu')"),
    ("train_voc.py", ("-dataset", "cifar10"), "'cifar10'"),
    ("train_voc.py", ("-dataset", "folder"), "needs -data_dir DIR and -image_size HxW"),
    ("train_voc.py", ("-net", "unet_permuted", *SHAPES), "takes scrambled images; give -permute"),
    ("train_voc.py", (*SHAPES, "-permute", "-seed", 1), "-crop_size 144x192: a key scrambles"),
    ("train_voc.py", (*SHAPES, "-data_dir", "."), "shapes_seg is built in"),
    ("train_voc.py", (*SHAPES, "-net", "vgg16", "-image_size", "32x32"), "for every pixel"),
    ("test_voc.py", ("-wrong_key",), "-wrong_key needs -permute"),
    ("test_voc.py", (*SHAPES, "-weights", "none.pt"), "none.pt: no such file"),
    ("inference.py", ("-image", "none.png", *SHAPES), "none.png: no such image file"),
    ("table_segmentation.py", ("-net", "unet_permuted", "-out_dir", "x"), "a plain network"),
]


@pytest.mark.parametrize(("name", "words", "message"), BAD)
def test_bad_input_is_one_line(script, refused, tmp_path, monkeypatch, name, words, message):
    monkeypatch.chdir(tmp_path)
    kept = ("-checkpoint_dir", tmp_path / "c", *(("-log_dir", tmp_path / "r") * ("train" in name)))
    assert message in refused(script(SCRIPTS / name, *words, *kept))
    assert not files_below(tmp_path)


def test_weights_know_their_data(trained, script, refused, tmp_path):
    _, last = trained
    line = refused(script(SCRIPTS / "test_voc.py", "-dataset", "camvid", "-weights", last))
    assert "trained on shapes_seg; give -dataset shapes_seg" in line
    data = make_masks(tmp_path / "data")
    save_png(torch.zeros(3, 5, 5, dtype=torch.uint8), data / "train" / "masks" / "03.png")
    words = ("-dataset", "folder", "-data_dir", data, "-image_size", "10x14")
    line = refused(script(SCRIPTS / "train_voc.py", *words, "-log_dir", tmp_path / "r"))
    assert "03.png: pixels of mode RGB" in line


def test_one_picture_cannot_be_split(script, refused, tmp_path):
    data = make_masks(tmp_path / "data", ("train", "test"))
    for path in (data / "train" / "images").glob("*[1-9].png"):
        path.unlink()
    (data / "train" / "images" / "10.png").unlink()
    words = ("-dataset", "folder", "-data_dir", data, "-image_size", "10x14", *TINY)
    kept = ("-checkpoint_dir", tmp_path / "c", "-log_dir", tmp_path / "r", "-save_weights")
    run = (SCRIPTS / "train_voc.py", *words, "-select", "validation", *kept)
    assert "the training split has 1 image; at least 2" in refused(script(*run))
    assert not (tmp_path / "c").exists() and not files_below(tmp_path / "r")
