"""A 256-bit secret as the source of an ImageScrambler's keys."""

import pytest
import torch

from operators import ImageScrambler, Key, KeyStream

SECRET = Key(bytes(range(32)))


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
