"""Keys and scrambling: published vectors, round trips, randomness that disturbs nobody."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from operators import ImageScrambler, KeyStream, SecretKey
from tests.operators import naive

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "keys.json").read_text())["seeds"]


@pytest.mark.parametrize("seed", VECTORS)
def test_scrambled_image_is_the_published_one(seed):
    vector = VECTORS[seed]["scrambled_arange_3x32x32"]
    x = torch.arange(3 * 1024, dtype=torch.int64).reshape(3, 32, 32)
    scrambled = ImageScrambler(32, seed=int(seed))(x)
    assert scrambled.flatten()[:8].tolist() == vector["first8"]
    assert hashlib.sha256(scrambled.numpy().tobytes()).hexdigest() == vector["sha256"]


DTYPES = [torch.uint8, torch.int64, torch.bool, torch.float16, torch.bfloat16, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4, 6), (3, 4, 6), (2, 3, 4, 6), (0, 3, 4, 6), (2, 2, 3, 4, 6)])
def test_scrambles_and_restores_any_batch_and_dtype(shape, dtype):
    scrambler = ImageScrambler((4, 6), seed=7)
    x = (torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 255).to(dtype)
    scrambled = scrambler(x)
    assert scrambled.dtype == dtype
    assert torch.equal(scrambled, naive.scramble(x, scrambler.key))
    assert torch.equal(scrambler.unscramble(scrambled), x)
    assert torch.equal(scrambler.backward(scrambler.forward(x)), x)  # the published names


@pytest.mark.parametrize("strided", ["channels_last", "transposed", "flipped", "expanded"])
def test_any_memory_layout(strided):
    x = torch.rand(5, 3, 4, 6)
    x = {
        "channels_last": lambda: x.contiguous(memory_format=torch.channels_last),
        "transposed": lambda: x.transpose(2, 3).contiguous().transpose(2, 3),
        "flipped": lambda: x.flip(0)[::2],
        "expanded": lambda: x[:1].expand(5, -1, -1, -1),
    }[strided]()
    scrambler = ImageScrambler((4, 6), seed=7)
    assert torch.equal(scrambler(x), naive.scramble(x, scrambler.key))
    if strided == "channels_last":
        assert scrambler(x).is_contiguous(memory_format=torch.channels_last)


def test_gradient_is_the_inverse_and_twice_differentiable():
    scrambler = ImageScrambler((3, 4), seed=0)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = torch.rand(2, 3, 3, 4, dtype=torch.float64).contiguous(memory_format=memory_format)
        x.requires_grad_()
        assert torch.autograd.gradcheck(scrambler, x)
        assert torch.autograd.gradgradcheck(lambda x: scrambler(x).pow(3), x)


def test_an_explicit_key_takes_the_first_keys_place():
    drawn = ImageScrambler(8, seed=5)
    given = ImageScrambler(8, seed=6, key=drawn.key)
    assert torch.equal(given.key, drawn.key) and given.fingerprint == drawn.fingerprint
    assert torch.equal(given.layer_keys().draw(9), ImageScrambler(8, seed=6).layer_keys().draw(9))
    given.key[0] = -1  # the scrambler owns a copy
    assert drawn.key[0] >= 0


def test_layer_keys_start_again_at_each_call():
    for scrambler in (ImageScrambler(8, seed=5), ImageScrambler(8)):
        first, second = scrambler.layer_keys(), scrambler.layer_keys()
        assert torch.equal(first.draw(16), second.draw(16))
        assert torch.equal(first.draw(4), second.draw(4))


def test_without_a_seed_keys_are_fresh():
    assert not torch.equal(ImageScrambler(32).key, ImageScrambler(32).key)
    assert not torch.equal(KeyStream().draw(100), KeyStream().draw(100))


def test_global_random_state_is_neither_read_nor_written():
    np.random.seed(3)
    torch.manual_seed(3)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    first = ImageScrambler(16, seed=1).key
    ImageScrambler(16)
    assert (np.random.get_state()[1] == before[0]).all()
    assert torch.equal(torch.get_rng_state(), before[1])
    np.random.seed(4)
    assert torch.equal(ImageScrambler(16, seed=1).key, first)


def test_keys_stay_out_of_the_state_dict_and_the_repr():
    scrambler = ImageScrambler(8, seed=5)
    assert scrambler.state_dict() == {}
    assert {"key", "inverse"} == set(dict(scrambler.named_buffers()))
    assert "tensor" not in repr(scrambler) and scrambler.fingerprint in repr(scrambler)


def test_fingerprint_tells_keys_and_shapes_apart():
    identity = torch.arange(12)
    prints = [ImageScrambler(size, key=identity).fingerprint for size in ((3, 4), (4, 3), (2, 6))]
    prints += [ImageScrambler((3, 4), seed=s).fingerprint for s in range(20)]
    assert len(set(prints)) == len(prints)
    assert all(len(p) == 16 and int(p, 16) >= 0 for p in prints)
    assert ImageScrambler(32, seed=1312).fingerprint == "f0023fe7c415cad5"


def test_a_secret_has_one_fingerprint_at_every_size():
    secret = SecretKey.generate()
    assert {ImageScrambler(n, secret=secret).fingerprint for n in (4, 5)} == {secret.fingerprint}
    given = ImageScrambler(4, key=torch.arange(16), secret=secret)  # its image key is another
    assert given.fingerprint == ImageScrambler(4, key=torch.arange(16)).fingerprint


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, "1312", True])
def test_bad_seeds_are_named(seed):
    with pytest.raises(ValueError, match=rf"seed must be .* 0\.\.4294967295, got {seed!r}"):
        ImageScrambler(8, seed=seed)


def test_bad_sizes_keys_and_images_are_named():
    with pytest.raises(ValueError, match=r"image_size .*got \(8, 0\)"):
        ImageScrambler((8, 0), seed=0)
    with pytest.raises(ValueError, match=r"key must be a permutation of 0\.\.3, got 1 twice"):
        ImageScrambler(2, key=[0, 1, 1, 2])
    with pytest.raises(ValueError, match=r"\(\.\.\., 8, 8\) for this key, got \(3, 8, 9\)"):
        ImageScrambler(8, seed=0)(torch.zeros(3, 8, 9))
