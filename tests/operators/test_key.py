"""operators/key.py: derivation vectors, uniformity, key files and what they refuse."""

import hashlib
import os
import stat

import numpy as np
import pytest
import torch

from operators import ImageScrambler
from operators.key import SecretKey, new_nonces, require_distinct

ZEROS, COUNTING = SecretKey(bytes(32)), SecretKey(bytes(range(32)))


def naive_permutation(secret: bytes, n: int, index: int = 0, nonce: bytes = b"") -> list[int]:
    """The derivation as documented, in plain Python and for attempt 0 only."""
    u64 = lambda value: value.to_bytes(8, "little")  # noqa: E731
    message = b"PrivDL permutation v1" + secret + u64(len(nonce)) + nonce
    digest = hashlib.shake_256(message + u64(index) + u64(n) + u64(0)).digest(8 * n)
    words = [int.from_bytes(digest[8 * i : 8 * i + 8], "little") for i in range(n)]
    return sorted(range(n), key=words.__getitem__)


def test_vectors():
    assert ZEROS.permutation(8).tolist() == [7, 0, 4, 2, 3, 5, 6, 1]
    assert ZEROS.permutation(8, index=1).tolist() == [3, 2, 0, 7, 4, 1, 5, 6]
    assert ZEROS.permutation(8, 0, bytes(range(16))).tolist() == [2, 5, 0, 7, 6, 3, 1, 4]
    assert COUNTING.permutation(8).tolist() == [7, 5, 1, 4, 2, 3, 0, 6]
    packed = COUNTING.permutation(1024, 3, b"n" * 16).numpy().astype("<i8").tobytes()
    assert hashlib.sha256(packed).hexdigest() == (
        "7e9ab90369798194edcd226230c4abca3446aa2d7d4b9baeb849be94c1b39f02"
    )
    assert (ZEROS.fingerprint, COUNTING.fingerprint) == ("47a2f53e165de0d7", "1bf602edbee226b3")


def test_equals_the_documented_derivation():
    nonces = [b"", b"a", bytes(16)]
    batch = COUNTING.permutations(100, nonces, index=7)
    for row, nonce in zip(batch, nonces, strict=True):
        assert row.tolist() == naive_permutation(bytes(range(32)), 100, 7, nonce)
        assert torch.equal(row, COUNTING.permutation(100, 7, nonce))


def test_derived_keys_and_block_keys_are_the_documented_ones():
    assert ZEROS.derive("blocks:8").fingerprint == "a4a1bc15c5105e2c"
    assert COUNTING.derive("blocks:8").fingerprint == "4cafffe2920dd1e0"
    order, symmetry = COUNTING.blocks(6, 8, [b"", bytes(range(16))])
    assert order.tolist() == [[0, 3, 2, 1, 4, 5], [1, 2, 0, 4, 3, 5]]
    assert symmetry.tolist() == [[5, 2, 2, 1, 3, 4], [5, 1, 1, 5, 6, 6]]
    packed = ImageScrambler(32, secret=ZEROS, block=8).key.numpy().astype("<i8").tobytes()
    assert hashlib.sha256(packed).hexdigest() == (
        "ba25a36da4553fdeb2c7183b3190a0bdf92261cfff35d4c0ad3599a33671127f"
    )

    message = b"PrivDL derived key v1" + bytes(range(32)) + b"blocks:8"
    secret = hashlib.shake_256(message).digest(32)
    for row, nonce in enumerate([b"", bytes(range(16))]):
        assert order[row].tolist() == naive_permutation(secret, 6, 0, nonce)
        fields = len(nonce).to_bytes(8, "little") + nonce + (18).to_bytes(8, "little")
        stream = hashlib.shake_256(b"PrivDL bits v1" + secret + fields).digest(3)
        number = int.from_bytes(stream, "little")
        assert symmetry[row].tolist() == [number >> 3 * b & 7 for b in range(6)]


def test_equal_words_move_on_to_the_next_attempt(monkeypatch):
    words = {0: [5, 5, 1], 1: [2, 9, 2], 2: [7, 8, 3]}
    monkeypatch.setattr(
        SecretKey, "_words", lambda self, n, index, nonce, attempt: np.array(words[attempt], "<u8")
    )
    assert ZEROS.permutation(3).tolist() == [2, 0, 1]


def test_every_input_separates_the_streams():
    drawn = [
        ZEROS.permutation(64),
        COUNTING.permutation(64),
        ZEROS.permutation(64, index=1),
        ZEROS.permutation(64, nonce=b"\0"),
        ZEROS.permutation(65)[:64],
    ]
    assert len({tuple(p.tolist()) for p in drawn}) == len(drawn)


def test_permutations_of_four_are_uniform():
    draws = 24_000
    orders = ZEROS.permutations(4, [i.to_bytes(4, "little") for i in range(draws)])
    _, counts = torch.unique(orders, dim=0, return_counts=True)
    assert len(counts) == 24
    expected = draws / 24
    # chi-squared with 23 degrees of freedom exceeds 49.7 once in 1000; the key is fixed
    assert ((counts - expected) ** 2 / expected).sum() < 49.7


def test_positions_of_large_permutations_are_uniform():
    draws, n = 4000, 32
    orders = COUNTING.permutations(n, [i.to_bytes(4, "little") for i in range(draws)])
    counts = torch.nn.functional.one_hot(orders, n).sum(0).double()  # (n, n)
    expected = draws / n
    chi = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi - 31 * 31) < 4 * (2 * 31 * 31) ** 0.5


def test_save_and_load(tmp_path):
    key = SecretKey.generate()
    key.save(tmp_path / "k")
    assert stat.S_IMODE(os.stat(tmp_path / "k").st_mode) == 0o600
    assert SecretKey.load(tmp_path / "k") == key
    assert key != SecretKey.generate()


def test_never_overwrites(tmp_path):
    ZEROS.save(tmp_path / "k")
    with pytest.raises(FileExistsError, match="never overwritten"):
        COUNTING.save(tmp_path / "k")
    assert SecretKey.load(tmp_path / "k") == ZEROS


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_refuses_a_file_that_others_may_read(tmp_path, mode):
    ZEROS.save(tmp_path / "k")
    os.chmod(tmp_path / "k", mode)
    with pytest.raises(PermissionError, match="chmod 600"):
        SecretKey.load(tmp_path / "k")


@pytest.mark.parametrize(
    "content", [b"", b"PrivDL key v1 00ff\n", b"\xff\xfe", b"key " + b"0" * 64]
)
def test_refuses_what_is_not_a_key_file(tmp_path, content):
    path = tmp_path / "k"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ValueError, match="not a key file"):
        SecretKey.load(path)


@pytest.mark.parametrize("secret", [b"short", "0" * 32, None])
def test_refuses_other_secrets(secret):
    with pytest.raises(ValueError, match="32 bytes"):
        SecretKey(secret)


def test_refuses_an_empty_permutation():
    with pytest.raises(ValueError, match="got 0"):
        ZEROS.permutation(0)


def test_the_secret_is_not_printed():
    assert bytes(range(32)).hex() not in repr(COUNTING)


def test_nonces():
    nonces = new_nonces(100)
    assert {len(nonce) for nonce in nonces} == {16}
    require_distinct(nonces)
    with pytest.raises(ValueError, match="images 3 and 100 share the nonce"):
        require_distinct([*nonces, nonces[3]])


def test_nonces_of_a_content():
    message = b"PrivDL nonces v1" + bytes(32) + (3).to_bytes(8, "little") + b"abc"
    nonces = ZEROS.nonces(3, b"abc")
    assert b"".join(nonces) == hashlib.shake_256(message).digest(48)
    others = [ZEROS.nonces(3, b"abd"), ZEROS.nonces(4, b"abc"), COUNTING.nonces(3, b"abc")]
    require_distinct([*nonces, *(nonce for other in others for nonce in other)])
    assert ZEROS.nonces(0, b"") == []
