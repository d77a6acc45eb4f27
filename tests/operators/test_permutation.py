"""Permutations: what is none is named, inverses, and a 256-bit secret as the source of a stream."""

import pytest
import torch

from operators import ImageScrambler, KeyStream, SecretKey
from operators.permutation import check_permutation, invert

SECRET = SecretKey(bytes(range(32)))


def test_draws_are_the_secrets_permutations_in_order():
    stream = KeyStream(secret=SECRET)
    for index, n in enumerate((16, 16, 5)):
        assert torch.equal(stream.draw(n), SECRET.permutation(n, index=index))


def test_scrambler_from_a_secret():
    scrambler = ImageScrambler((4, 6), secret=SECRET)
    assert torch.equal(scrambler.key, SECRET.permutation(24))
    first, again = scrambler.layer_keys(), scrambler.layer_keys()
    for index, n in enumerate((24, 9), start=1):
        drawn = first.draw(n)
        assert torch.equal(drawn, SECRET.permutation(n, index=index))
        assert torch.equal(drawn, again.draw(n))


def test_refuses_a_seed_beside_a_secret():
    with pytest.raises(ValueError, match="got both"):
        ImageScrambler(4, seed=7, secret=SECRET)


def test_inverse_undoes_a_permutation():
    key = KeyStream(seed=0).draw(24)
    for inverse in (key[invert(key)], invert(key)[key]):
        assert torch.equal(inverse, torch.arange(24))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.arange(5), r"in_key must hold 6 whole numbers for a map of 2x3, got shape \(5,\)"),
        (torch.arange(6.0), r"in_key must hold 6 whole numbers .*float32"),
        (torch.arange(6).view(2, 3), r"in_key .*got shape \(2, 3\)"),
        (torch.tensor([0, 1, 2, 3, 4, 4]), r"in_key must be a permutation of 0..5, got 4 twice"),
        (torch.tensor([0, 1, 2, 3, 4, 9]), r"in_key must hold 0..5, got 9"),
        (torch.tensor([0, 1, 2, 3, 4, -1]), r"in_key must hold 0..5, got -1"),
    ],
)
def test_bad_keys_are_named(bad, message):
    with pytest.raises(ValueError, match=message):
        check_permutation(bad, (2, 3), "in_key")
