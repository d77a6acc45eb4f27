"""Pictures of every mode and state: read as RGB, or refused in one line."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from utils.io.pictures import (
    ROW_GAP,
    feature_grid,
    fit,
    read_image,
    save_png,
    save_row,
    to_tensor,
)
from utils.runtime.errors import UserError

WIDTH, HEIGHT = 6, 4


def grey_16():
    values = np.linspace(0, 65535, WIDTH * HEIGHT).astype(np.uint16).reshape(HEIGHT, WIDTH)
    return Image.fromarray(values), (values / 257).round()


def palette_with_hole():
    image = Image.new("P", (WIDTH, HEIGHT), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.info["transparency"] = 1
    return image


IMAGES = {
    "L": (Image.new("L", (WIDTH, HEIGHT), 90), (90, 90, 90)),
    "1": (Image.new("1", (WIDTH, HEIGHT), 1), (255, 255, 255)),
    "P": (Image.new("RGB", (WIDTH, HEIGHT), (10, 20, 30)).quantize(2), (10, 20, 30)),
    "P with a hole": (palette_with_hole(), (255, 255, 255)),
    "RGBA, clear": (Image.new("RGBA", (WIDTH, HEIGHT), (10, 20, 30, 0)), (255, 255, 255)),
    "RGBA, solid": (Image.new("RGBA", (WIDTH, HEIGHT), (10, 20, 30, 255)), (10, 20, 30)),
    "LA": (Image.new("LA", (WIDTH, HEIGHT), (40, 255)), (40, 40, 40)),
    "RGB": (Image.new("RGB", (WIDTH, HEIGHT), (10, 20, 30)), (10, 20, 30)),
}


@pytest.mark.parametrize("mode", IMAGES)
def test_every_png_mode_becomes_rgb(tmp_path, mode):
    image, colour = IMAGES[mode]
    image.save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png")
    assert read.mode == "RGB" and read.size == (WIDTH, HEIGHT)
    assert read.getpixel((0, 0)) == colour


@pytest.mark.parametrize("suffix", ["gif", "tif"])
def test_the_first_frame_counts(tmp_path, suffix):
    frames = [Image.new("RGB", (WIDTH, HEIGHT), c) for c in ((200, 0, 0), (0, 0, 200))]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    read = read_image(tmp_path / f"a.{suffix}")
    assert read.mode == "RGB" and read.getpixel((1, 1)) == (200, 0, 0)


@pytest.mark.parametrize("mode", ["CMYK", "L", "1", "P", "RGBA", "LAB"])
def test_every_tiff_mode_becomes_rgb(tmp_path, mode):
    Image.new(mode, (WIDTH, HEIGHT)).save(tmp_path / "a.tiff")
    read = read_image(tmp_path / "a.tiff")
    assert read.mode == "RGB" and read.size == (WIDTH, HEIGHT)


def test_16_bit_tiff_is_scaled_and_32_bits_are_refused(tmp_path):
    image, expected = grey_16()
    image.save(tmp_path / "a.tif")
    assert np.array_equal(np.array(read_image(tmp_path / "a.tif"))[..., 0], expected)
    for mode in ("F", "I"):
        Image.new(mode, (WIDTH, HEIGHT)).save(tmp_path / "b.tif")
        with pytest.raises(UserError, match=r"b\.tif: pixels of 32 bits; expected 8 or 16"):
            read_image(tmp_path / "b.tif")


def test_16_bit_grey_is_scaled(tmp_path):
    image, expected = grey_16()
    image.save(tmp_path / "a.png")
    for channel in to_tensor(read_image(tmp_path / "a.png")):
        assert np.array_equal(channel, expected)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_every_jpeg_mode_becomes_rgb(tmp_path, mode):
    Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 90)).convert(mode).save(tmp_path / "a.jpg")
    read = read_image(tmp_path / "a.jpg")
    assert read.mode == "RGB"
    assert np.abs(np.asarray(read, dtype=int) - 90).max() <= 3


def test_orientation_tag_is_applied(tmp_path):
    image = Image.new("RGB", (WIDTH, HEIGHT))
    exif = image.getexif()
    exif[0x0112] = 6  # a quarter turn
    image.save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").size == (HEIGHT, WIDTH)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_truncated_anywhere_is_refused(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    content = path.read_bytes()
    for cut in (0, 1, 10, 30, 60, len(content) // 2):
        path.write_bytes(content[:cut])
        with pytest.raises(UserError, match=path.name):
            read_image(path)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_damage_never_ends_in_anything_but_a_user_error(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (40, 40), "teal").save(path)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(content)
        damaged[rng.integers(len(content))] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            assert read_image(path).mode == "RGB"
        except UserError as error:
            assert path.name in str(error)


def test_not_an_image_is_refused(tmp_path):
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(UserError, match="not an image"):
        read_image(tmp_path / "a.png")
    with pytest.raises(UserError, match="no such image"):
        read_image(tmp_path / "b.png")
    with pytest.raises(UserError, match="is a folder"):
        read_image(tmp_path)


@pytest.mark.parametrize("side", [10_001, 20_000, 2**31 - 1])
def test_huge_dimensions_are_refused_before_decoding(tmp_path, side):
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    size, checksum = struct.pack(">I", len(header) - 4), struct.pack(">I", zlib.crc32(header))
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + size + header + checksum + bytes(4) + b"IDAT" + bytes(4)
    )
    with pytest.raises(UserError, match=r"pixels"):
        read_image(tmp_path / "a.png")


def test_fit_takes_the_centre():
    image = Image.new("RGB", (30, 10), "red")
    image.paste(Image.new("RGB", (10, 10), "blue"), (10, 0))
    fitted = fit(image, (10, 10))
    assert fitted.shape == (3, 10, 10)
    assert torch.equal(fitted, to_tensor(Image.new("RGB", (10, 10), "blue")))
    assert fit(image, (6, 8)).shape == (3, 6, 8)


def test_png_round_trip_is_exact(tmp_path):
    image = torch.randint(256, (3, 5, 7), dtype=torch.uint8)
    save_png(image, tmp_path / "a.png")
    assert torch.equal(to_tensor(read_image(tmp_path / "a.png")), image)
    with pytest.raises(UserError, match="cannot be written"):
        save_png(image, tmp_path / "missing" / "a.png")


def test_a_grid_holds_the_first_16_maps_each_in_its_own_range():
    maps = torch.rand(70, 6, 6) * torch.logspace(0, 3, 70)[:, None, None]
    grid = feature_grid(maps)
    assert grid.shape == (3, 4 * 8 + 2, 4 * 8 + 2)  # two pixels between maps
    first = grid[0, 2:8, 2:8]
    assert first.min() == 0 and first.max() == 1


def test_a_row_enlarges_by_whole_factors(tmp_path):
    small, tall = torch.zeros(3, 6, 6), torch.zeros(3, 20, 18)
    save_row([small, tall], tmp_path / "row.png")
    row = to_tensor(read_image(tmp_path / "row.png"))
    assert row.shape == (3, 40, 6 * 6 + ROW_GAP + 2 * 18)
    assert (row[:, 2:38, :36] == 0).all() and (row[:, :2, :36] == 255).all()


def test_a_thin_picture_does_not_make_a_row_huge(tmp_path):
    save_row([torch.zeros(3, 20, 30), torch.zeros(3, 1, 50)], tmp_path / "row.png")
    row = to_tensor(read_image(tmp_path / "row.png"))
    assert row.shape == (3, 40, 2 * 30 + ROW_GAP + 2 * 50)


def test_a_row_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match=r"cannot be written"):
        save_row([torch.zeros(3, 6, 6)], tmp_path / "missing" / "row.png")
