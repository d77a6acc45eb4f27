"""experiments/attacks/cipher_statistics.py: each statistic on values whose result is known."""

import hashlib
import json
import math
import re

import cipher_statistics as stats
import numpy as np
import pytest
import torch

from experiments.lib import schemes
from experiments.lib.ciphertexts import KEY


def noise(count: int = 4, side: int = 32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, side, side), generator=generator).to(torch.uint8)


def test_histogram():
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert stats.histogram(every) == pytest.approx({"chi-square": 0, "entropy": 8})
    two = (every > 127).to(torch.uint8)  # 128 times 0 and 1 where 1 of each value is expected
    chi_square = 2 * 127**2 + 254
    expected = {"chi-square": (chi_square + 0) / 2, "entropy": 4.5}
    assert stats.histogram(torch.cat([every, two])) == pytest.approx(expected)


@pytest.mark.parametrize("step", stats.NEIGHBOURS.values())
def test_correlation_is_that_of_numpy(step):
    images, (dy, dx) = noise(2, 9), step
    expected = [
        np.corrcoef(x[: 9 - dy, : 9 - dx].ravel(), x[dy:, dx:].ravel())[0, 1]
        for x in images.flatten(0, 1).numpy().astype(float)
    ]
    assert stats.correlation(images, dy, dx) == pytest.approx(np.mean(expected))


def test_correlation_of_a_ramp_and_of_stripes_leaves_flat_channels_out():
    ramp = torch.arange(8.0).expand(1, 3, 8, 8).clone()
    ramp[:, 1] = 7
    assert stats.correlation(ramp, 0, 1) == pytest.approx(1)
    assert stats.correlation(ramp % 2, 0, 1) == pytest.approx(-1)


def test_differences():
    a = torch.tensor([[0, 255, 10, 10]], dtype=torch.uint8)
    b = torch.tensor([[255, 255, 10, 61]], dtype=torch.uint8)
    assert stats.npcr(a, b) == 0.5
    assert stats.uaci(a, b) == pytest.approx((255 + 51) / 255 / 4)


def test_one_pixel_changes_by_one():
    images = noise()
    changed = stats.change_pixel(images)
    difference = (changed.int() - images.int()).abs()
    assert (difference.sum((1, 2, 3)) == 3).all()
    assert (difference.amax(1).flatten(1) == 1).sum(1).tolist() == [1] * len(images)


def test_the_stream_is_that_of_hashlib():
    images = noise(2, 4)
    for fresh, number in ((True, 8), (False, 0)):
        stream = hashlib.shake_256(KEY + number.to_bytes(16, "little")).digest(48)
        expected = images[1].numpy() ^ np.frombuffer(stream, np.uint8).reshape(3, 4, 4)
        scrambled = stats.stream_cipher(fresh)((4, 4), KEY)(images, 7)
        assert np.array_equal(scrambled[1].numpy(), expected)


def test_a_stream_cipher_passes_and_with_one_nonce_fails_for_a_changed_pixel_alone():
    flat = torch.full((8, 3, 32, 32), 77, dtype=torch.uint8)
    passed = stats.statistics(stats.CIPHERS["stream cipher, fresh nonces"], flat)
    failed = stats.statistics(stats.CIPHERS["stream cipher, one nonce"], flat)
    for row in (passed, failed):
        assert row["chi-square"] < 350 and row["entropy"] > 7.9
        assert all(abs(row[name]) < 0.05 for name in stats.NEIGHBOURS)
        assert row["changed key: NPCR"] == pytest.approx(255 / 256, abs=0.005)
    assert passed["changed pixel: NPCR"] == pytest.approx(255 / 256, abs=0.005)
    assert passed["changed pixel: UACI"] == pytest.approx(1 / 3, abs=0.01)
    assert failed["changed pixel: NPCR"] == 1 / 1024
    assert failed["changed pixel: UACI"] == pytest.approx(1 / 1024 / 255)


def test_main_writes_a_row_for_every_scheme(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(
        schemes, "shuffled_images", lambda args, split, count: (noise(count), torch.zeros(count))
    )
    words = ["cipher_statistics.py", "-images", "2", "-out_dir", str(tmp_path)]
    monkeypatch.setattr("sys.argv", words)
    stats.main()
    table, progress = capsys.readouterr()
    assert len(table.splitlines()) == 2 + len(progress.splitlines()) == 3 + len(stats.CIPHERS)
    assert re.match(r"scheme: none, chi-square: \d+, entropy: \d\.\d\d, ", progress)
    rows = json.loads((tmp_path / "cipher_statistics.json").read_text())["rows"]
    assert [row["scheme"] for row in rows] == ["none", *stats.CIPHERS]
    assert all(math.isfinite(value) for row in rows for k, value in row.items() if k != "scheme")
    fixed = next(row for row in rows if row["scheme"] == "etc:4")
    assert fixed["changed pixel: NPCR"] == 1 / 1024
