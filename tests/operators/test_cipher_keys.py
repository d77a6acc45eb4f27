"""Names of ciphers, and how many keys each has."""

import math

import pytest

from operators import make_scrambler
from operators.cipher_keys import key_bits


@pytest.mark.parametrize("cipher", ["", "etc", "etc:", "etc:0", "etc:-4", "blocks", "le:4", "aes"])
def test_unknown_ciphers_are_named(cipher):
    with pytest.raises(ValueError, match=f"pixels, blocks:N, .* got '{cipher}'"):
        make_scrambler(cipher, 32, seed=0)


def test_number_of_keys():
    factorial = math.factorial
    expected = {
        ("pixels", 4): factorial(16),
        ("blocks:16", 32): factorial(4) * 8**4,
        ("blocks:1", 4): factorial(16),
        ("etc:16", 32): factorial(4) * 8**4 * 6**4 * math.comb(4, 2),
        ("etc_published", 8): factorial(4) * 8**4 * 6**4 * math.comb(4, 2),
        ("le", 32): factorial(96),
        ("ele", 8): factorial(96) ** 4 * factorial(4),
        ("privconv", 8): factorial(4) * factorial(48),
        ("privconv", 64): factorial(16) * factorial(768),
    }
    for (cipher, size), keys in expected.items():
        assert key_bits(cipher, size) == pytest.approx(math.log2(keys))
    assert round(key_bits("blocks:16", 32)) == 17
    with pytest.raises(ValueError, match="got 5"):
        key_bits("blocks:5", 32)
