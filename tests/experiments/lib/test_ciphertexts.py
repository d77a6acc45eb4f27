"""experiments/lib/ciphertexts.py: the schemes as functions of key, images and their numbers."""

import pytest
import torch

from experiments.lib.ciphertexts import KEY, SCHEMES
from operators import BlockCipher, PerImageScrambler, SecretKey, make_scrambler

IMAGES = torch.randint(256, (3, 3, 16, 32), generator=torch.Generator().manual_seed(0))
IMAGES = IMAGES.to(torch.uint8)
SIZE = (16, 32)
PER_IMAGE = [name for name in SCHEMES if "per" in name]


@pytest.mark.parametrize("name", SCHEMES)
def test_one_key_or_a_key_for_each_image(name):
    scramble = SCHEMES[name](SIZE, KEY)
    scrambled = scramble(IMAGES, 5)
    assert not torch.equal(scrambled, IMAGES)
    assert torch.equal(scramble(IMAGES[1:], 6), scrambled[1:])  # by number, not by place
    assert torch.equal(scramble(IMAGES, 9), scrambled) == (name not in PER_IMAGE)
    assert not torch.equal(SCHEMES[name](SIZE, bytes([1]) + KEY[1:])(IMAGES, 5), scrambled)


def test_they_are_the_schemes_of_the_operators():
    secret, number_5 = SecretKey(KEY), (5).to_bytes(16, "little")
    expected = {
        "published": make_scrambler("pixels", SIZE, seed=0x03020100)(IMAGES[:1]),
        "256-bit fixed": make_scrambler("pixels", SIZE, secret=secret)(IMAGES[:1]),
        "le": BlockCipher("le", SIZE, secret=secret)(IMAGES[:1]),
        "etc:8": BlockCipher("etc:8", SIZE, secret=secret)(IMAGES[:1]),
        "blocks:8 per image": PerImageScrambler(SIZE, secret, block=8).scramble(
            IMAGES[:1], [number_5]
        ),
        "etc:8 per image": BlockCipher("etc:8", SIZE, secret=secret.derive(number_5.hex()))(
            IMAGES[:1]
        ),
    }
    for name, scrambled in expected.items():
        assert torch.equal(SCHEMES[name](SIZE, KEY)(IMAGES[:1], 5), scrambled)
