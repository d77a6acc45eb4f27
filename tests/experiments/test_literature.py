"""experiments/attacks/literature.py: each attack solves a planted easy case; rows are resumed."""

import json

import literature
import numpy as np
import pytest
import torch
from test_attacks import clouds
from torch import nn

import models
from experiments.lib import ciphertexts, gan, itn, jigsaw, literature_table, schemes
from experiments.lib.report import psnr, ssim
from operators import BlockCipher, ImageScrambler
from utils.inference.network import deploy, load
from utils.runtime.errors import UserError

SIZE = (16, 16)


def case(scheme: str, own: int = 200, pictures: int = 20) -> literature.Case:
    return literature.Case(scheme, clouds(own, SIZE), clouds(pictures, SIZE, seed=1))


def test_feature_reconstruction_undoes_inversions_of_dark_pictures(monkeypatch):
    dark = clouds(4, SIZE) // 2
    inverted = torch.where(torch.rand(dark.shape) < 0.5, 255 - dark, dark)
    monkeypatch.setitem(literature.SCHEMES, "planted", lambda size, key: lambda x, first: inverted)
    planted = literature.Case("planted", dark[:0], dark)
    assert torch.equal(literature.ATTACKS["FR"](planted)[0], dark)


def test_local_itn_undoes_le_of_smooth_pictures():
    small = clouds(320, (4, 4)).float()
    smooth = nn.functional.interpolate(small, SIZE, mode="bicubic").clamp(0, 255).byte()
    own, pictures = smooth[20:], smooth[:20]
    scramble = ciphertexts.SCHEMES["le"](SIZE, ciphertexts.KEY)
    back = itn.fit_local(itn.halves(scramble(own, 0)), itn.values(own), epochs=30)
    seen = scramble(pictures, 0)
    assert psnr(pictures, seen) < 15
    assert psnr(pictures, itn.to_images(back(itn.halves(seen)))) > 30


@pytest.mark.parametrize("scheme", ["256-bit fixed", "ele"])
def test_dense_itn_undoes_what_one_key_does_to_the_whole_picture(scheme):
    planted = literature.Case(scheme, clouds(2000, (8, 8)), clouds(20, (8, 8), seed=1))
    recovered, _ = literature.ATTACKS["ITN global, same key"](planted)
    assert psnr(planted.pictures, planted.ciphertexts) < 25
    assert psnr(planted.pictures, recovered) > 45
    other, _ = literature.ATTACKS["ITN global, other keys"](planted)
    assert psnr(planted.pictures, other) < 28


def test_a_ridge_keeps_the_dense_layer_from_learning_noise_by_heart():
    own, seen = clouds(300, SIZE), torch.randn(300, 3, *SIZE)
    back = itn.fit_dense(seen, itn.values(own))
    made, mean = back(torch.randn(50, 3, *SIZE)), itn.values(own).mean(0)
    assert (made - mean).square().mean() < 0.2 * (itn.values(own) - mean).square().mean()


def test_halves_and_values():
    images = torch.tensor([[[[0x00, 0x3F, 0xF3]]]], dtype=torch.uint8)
    assert ((itn.halves(images) + 2) * 4).flatten().tolist() == [0, 3, 15, 0, 15, 3]
    assert torch.equal(itn.to_images(itn.values(images)), images)


def rectangles(seed: int, count: int = 400, side: int = 8) -> torch.Tensor:
    """Bright ones on dark ground, uint8 ``(N, 3, side, side)``."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(side - 4, (count, 2, 1), generator=generator)
    last = first + torch.randint(3, side // 2 + 2, (count, 2, 1), generator=generator)
    inside = (first <= torch.arange(side)) & (torch.arange(side) < last)  # (N, 2, side)
    bright = torch.randint(120, 256, (count, 3, 1, 1), generator=generator)
    inside = inside[:, 0, :, None] & inside[:, 1, None]
    return torch.where(inside[:, None], bright, 20).to(torch.uint8)


def test_gan_learns_from_other_pictures_that_all_are_inverted():
    others, pictures, own = map(rectangles, range(3))
    back = gan.fit(itn.values(255 - others), itn.values(own), steps=150)
    recovered = itn.to_images(back(itn.values(255 - pictures)))
    assert ssim(pictures, 255 - pictures) < 0
    assert ssim(pictures, recovered) > 0.8


def test_generator_can_move_and_change_blocks():
    """It expresses a cipher that moves blocks, each with a matrix of its own."""
    net = gan.Generator(3, (8, 8))
    assert net(torch.zeros(2, 3, 8, 8)).shape == (2, 3, 8, 8)
    x = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        net.common.copy_(torch.eye(48))
        assert torch.allclose(net(x), x, atol=1e-6)
        net.mix.copy_(torch.eye(4)[[1, 0, 2, 3]])
        net.own[0] = -2 * torch.eye(48)
    expected = x.clone()
    expected[..., :4, :4], expected[..., :4, 4:] = -x[..., :4, 4:], x[..., :4, :4]
    assert torch.allclose(net(x), expected, atol=1e-6)


def gradient() -> torch.Tensor:
    """One picture without a flat place, ``(1, 3, 16, 16)``."""
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    planes = [12 * y + 0.1 * x**2, 11 * x + 0.2 * y**2, 0.6 * x * y + 4 * y]
    return torch.stack(planes).clamp(0, 255).to(torch.uint8)[None]


@pytest.fixture(scope="module")
def public():
    return {side: jigsaw.border_whitening(clouds(300, SIZE, seed=7), side) for side in (4, 8)}


def test_jigsaw_puts_unrotated_blocks_of_a_gradient_together(public):
    picture = gradient()
    blocks = jigsaw.blocks_of(picture, 4)
    shuffled = jigsaw.images_of(blocks[:, torch.randperm(16)], 4)
    puzzle = jigsaw.Puzzle(shuffled, 4, public[4])
    found = puzzle.assemble(shuffled, puzzle.solve())
    assert jigsaw.right_pairs(shuffled[0], picture[0], 4) < 0.5
    assert jigsaw.right_pairs(found[0], picture[0], 4) == 1


@pytest.mark.parametrize(("cipher", "side"), [("blocks:4", 4), ("etc:4", 4), ("etc:8", 8)])
def test_jigsaw_of_many_pictures_that_share_a_key(public, cipher, side):
    planted = case(cipher, pictures=40)
    colours = jigsaw.ETC if cipher.startswith("etc") else jigsaw.UNCHANGED
    puzzle = jigsaw.Puzzle(planted.ciphertexts, side, public[side], colours)
    found = puzzle.assemble(planted.ciphertexts, puzzle.solve())
    pairs = zip(found, planted.pictures, strict=True)
    assert all(jigsaw.right_pairs(a, b, side, colours) == 1 for a, b in pairs)


def test_jigsaw_of_a_rectangle(public):
    pictures = clouds(40, (16, 24))
    shuffled = ImageScrambler((16, 24), seed=1, block=4)(pictures)
    puzzle = jigsaw.Puzzle(shuffled, 4, public[4])
    found = puzzle.assemble(shuffled, puzzle.solve())
    turned = [found, found.flip(2), found.flip(3), found.flip(2, 3)]
    assert any(torch.equal(x, pictures) for x in turned)


@pytest.mark.parametrize("colours", [jigsaw.UNCHANGED, jigsaw.ETC])
def test_costs_are_those_of_the_blocks_as_they_are_shown(public, colours):
    """``beside`` against borders compared in the plainest way, in every direction."""
    images = clouds(1, (8, 8))
    puzzle = jigsaw.Puzzle(images, 4, public[4], colours)
    blocks = jigsaw.blocks_of(images, 4)[0]
    appearances = jigsaw.shown(blocks.float(), colours).flatten(0, 2)
    each = len(appearances) // 4
    one = each + min(13, each - 1)
    for lies, (there, here) in {
        (0, -1): (lambda x: x.flip(-1), lambda x: x),
        (0, 1): (lambda x: x, lambda x: x.flip(-1)),
        (-1, 0): (lambda x: x.transpose(-1, -2).flip(-1), lambda x: x.transpose(-1, -2)),
        (1, 0): (lambda x: x.transpose(-1, -2), lambda x: x.transpose(-1, -2).flip(-1)),
    }.items():
        a, b = jigsaw.border(there(appearances)), jigsaw.border(here(appearances))
        apart = torch.cdist(a @ public[4], b @ public[4]) + 0.01
        for block in range(4):
            apart[block * each : (block + 1) * each, block * each : (block + 1) * each] = torch.inf
        least = (apart[one].min() * apart.amin(0)).sqrt()
        expected = (apart[one] / least).numpy()
        np.testing.assert_allclose(puzzle.beside(one, lies), expected, rtol=1e-3)


def test_right_pairs_forgive_what_is_done_to_the_whole_picture():
    picture = clouds(1, SIZE)[0]
    for seen in (picture.flip(1), picture.rot90(1, (1, 2)), 255 - picture[[2, 0, 1]]):
        assert jigsaw.right_pairs(seen, picture, 4, jigsaw.ETC) == 1
    assert jigsaw.right_pairs(255 - picture, picture, 4) == 0
    swapped = torch.cat([picture[:, :, 8:], picture[:, :, :8]], 2)
    assert jigsaw.right_pairs(swapped, picture, 8) == 0.5  # of two across and two down


def test_nearest_forgives_what_is_done_to_the_whole_picture_and_nothing_else():
    images = clouds(4, SIZE)
    swapped = torch.cat([images[3, :, :, 8:], images[3, :, :, :8]], 2)
    seen = [images[0].flip(1), images[1].rot90(1, (1, 2)), 255 - images[2][[2, 0, 1]], swapped]
    found = jigsaw.nearest(torch.stack(seen), images, jigsaw.ETC)
    assert torch.equal(found[:3], images[:3]) and not torch.equal(found[3], images[3])
    plain = jigsaw.nearest(torch.stack(seen[:3]), images[:3])
    assert torch.equal(plain[:2], images[:2]) and not torch.equal(plain[2], images[2])


def test_ciphertexts_under_other_keys_share_none():
    flat = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(3, 3, -1, -1)
    for scheme in ("published", "etc:4", "per-image"):
        given = literature.Case(scheme, flat, flat)
        seen = [*given.other_keys, given.same_key[0]]
        assert len({x.numpy().tobytes() for x in seen}) == 4


def test_no_nonce_is_used_twice():
    same = literature.Case("per-image", clouds(3, SIZE), clouds(3, SIZE))
    everything = torch.cat([same.same_key, same.ciphertexts])
    expected = ciphertexts.SCHEMES["per-image"](SIZE, ciphertexts.KEY)(
        torch.cat([same.own, same.pictures]), 0
    )
    assert torch.equal(everything, expected)
    assert len(everything.unique(dim=0)) == 6


@pytest.fixture
def run(monkeypatch, tree, tmp_path):
    """Run the script on clouds, with random weights."""

    def shuffled(args, split: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        return clouds(count, (32, 32)), torch.arange(count) % 10

    monkeypatch.setattr(schemes, "shuffled_images", shuffled)
    torch.manual_seed(0)
    torch.save(models.create_model("preresnet20").state_dict(), tmp_path / "weights.pt")

    def script(*words: str) -> dict:
        command = [
            *("literature.py", "-out_dir", str(tmp_path / "out")),
            *("-weights", str(tmp_path / "weights.pt"), "-train_images", "100"),
            *("-data_dir", str(tree)),
        ]
        monkeypatch.setattr("sys.argv", [*command, *words])
        literature.main()
        return json.loads((tmp_path / "out" / "literature.json").read_text())

    return script


def test_rows_are_kept_and_not_measured_again(run, monkeypatch, tmp_path):
    first = run("-test_images", "4", "-attack", "FR", "-scheme", "etc:4", "le")
    assert [row["scheme"] for row in first["rows"]] == ["le", "etc:4"]

    def never(case):
        raise AssertionError("measured again")

    monkeypatch.setitem(literature.ATTACKS, "FR", never)
    words = ("-attack", "FR", "jigsaw, one picture", "-scheme", "etc:4", "le", "blocks:8")
    with pytest.raises(AssertionError, match="again"):
        run("-test_images", "4", *words)
    again = run("-test_images", "4", "-attack", "FR", "none", "-scheme", "le")
    assert again["rows"][1:] == first["rows"]
    assert again["best"]["etc:4"]["attack"] == "FR" and "published" not in again["best"]
    with pytest.raises(UserError, match=r"other settings \(test_images\); give another -out_dir"):
        run("-test_images", "5", "-attack", "FR", "-scheme", "le")
    torch.save(models.create_model("preresnet20").state_dict(), tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"other settings \(weights_sha256\)"):
        run("-test_images", "4", "-attack", "FR", "-scheme", "le")


def test_accuracies_are_of_the_pictures_that_were_attacked(run, monkeypatch, tmp_path):
    """Of five pictures two are put together, and the network is right on these alone."""
    trained = load(tmp_path / "weights.pt", "cifar10")
    plain = deploy("preresnet20", trained, torch.device("cpu"))
    with torch.inference_mode():
        answers = plain.net(plain.preprocess(clouds(5, (32, 32)))).argmax(1)
    labels = (answers + torch.tensor([0, 0, 1, 1, 1])) % 10

    def shuffled(args, split: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        return clouds(count, (32, 32)), labels

    monkeypatch.setattr(schemes, "shuffled_images", shuffled)
    monkeypatch.setattr(literature, "PUZZLES", 2)
    words = ("-test_images", "5", "-scheme", "blocks:8", "-attack", "none", "jigsaw, one picture")
    none, puzzle = run(*words)["rows"]
    assert (none["images"], none["plain accuracy"]) == (5, 0.4)
    assert (puzzle["images"], puzzle["plain accuracy"]) == (2, 1)


def test_every_attack_gives_pictures(monkeypatch):
    for name, value in {"LOCAL_EPOCHS": 1, "GAN_STEPS": 1, "PUZZLES": 2, "SHARING": 2}.items():
        monkeypatch.setattr(literature, name, value)
    for name, attack in literature.ATTACKS.items():
        for scheme in ("etc:8 per image", "etc:8", "le"):
            if literature.applies(name, scheme):
                given = case(scheme, own=100, pictures=4)
                recovered, more = attack(given)
                assert recovered.dtype == torch.uint8 and recovered.shape[1:] == (3, *SIZE)
                assert ("right pairs" in more) == name.startswith("jigsaw")


def test_which_attacks_apply():
    tried = {s for s in ciphertexts.SCHEMES if literature.applies("jigsaw, many pictures", s)}
    assert tried == {"blocks:4", "etc:4", "blocks:8", "etc:8", "blocks:16"}
    tried = {s for s in ciphertexts.SCHEMES if literature.applies("jigsaw, one picture", s)}
    assert tried == {"blocks:4", "etc:4", "blocks:8", "etc:8", "blocks:16"} | {
        "blocks:8 per image",
        "etc:8 per image",
    }
    assert all(literature.applies("GAN", s) for s in ciphertexts.SCHEMES)


def test_tables():
    def row(scheme, attack, ssim, accuracy):
        names = {"scheme": scheme, "attack": attack, "plain accuracy": 0.8, "images": 1000}
        return names | {"SSIM": ssim, "accuracy": accuracy}

    rows = [
        row("le", "none", 0.0, 0.9),
        row("le", "FR", 0.25, 0.5),
        row("le", "GAN", 0.5, 0.4),
        row("ele", "FR", 0.125, 0.1),
    ]
    assert "(80.0% on 1,000 untouched ones)" in literature_table.about(rows)
    best = literature_table.best(rows)
    assert {scheme: of["attack"] for scheme, of in best.items()} == {"le": "FR", "ele": "FR"}
    assert literature_table.grid(rows, "SSIM").splitlines() == [
        "| scheme | none | FR | GAN |",
        "|---|---:|---:|---:|",
        "| le | 0.000 (0.006) | 0.250 (0.017) | 0.500 (0.774) |",
        "| ele |  | 0.125 (0.001) |  |",
    ]
    assert "| ele |  | 10.0% |  |" in literature_table.grid(rows, "accuracy").splitlines()
    itn = [row("le", f"ITN local, {keys}", 0.5, 0.5) for keys in ("same key", "other keys")]
    assert literature_table.grid(itn, "SSIM").endswith("| le | 0.500 (0.407) | 0.500 |\n")
    assert literature_table.summary(rows).splitlines() == [
        "| scheme | best attack | SSIM | accuracy | untouched |",
        "|---|---|---:|---:|---:|",
        "| le | FR | 0.250 | 50.0% | 80.0% |",
        "| ele | FR | 0.125 | 10.0% | 80.0% |",
    ]
    rows[-1]["right pairs"] = 0.75
    assert "| ele | 75.0% |" in literature_table.jigsaws(rows).splitlines()


def test_the_jigsaw_knows_what_etc_does():
    """Every appearance of a block is one that the cipher gives some block."""
    images = clouds(1, SIZE)
    scrambled = BlockCipher("etc:4", SIZE, seed=3)(images)
    shown = jigsaw.shown(jigsaw.blocks_of(images, 4)[0], jigsaw.ETC).flatten(0, 2)
    known = {x.numpy().tobytes() for x in shown}
    assert all(x.contiguous().numpy().tobytes() in known for x in jigsaw.blocks_of(scrambled, 4)[0])
