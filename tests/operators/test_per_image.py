"""operators/per_image.py: each image under its own key, restored and rekeyed exactly."""

import pytest
import torch

from models import create_model
from operators import ImageScrambler, Key, PerImageScrambler
from operators.key import new_nonces

SECRET = Key(bytes(range(32)))


def batch(n=5, size=(4, 6)):
    return torch.randint(0, 256, (n, 3, *size), dtype=torch.uint8), new_nonces(n)


def test_equals_a_loop_over_images():
    images, nonces = batch()
    scrambled = PerImageScrambler((4, 6), SECRET).forward(images, nonces)
    for image, seen, nonce in zip(images, scrambled, nonces, strict=True):
        key = SECRET.permutation(24, nonce=nonce)
        for position in range(24):
            assert torch.equal(seen.flatten(1)[:, position], image.flatten(1)[:, key[position]])


@pytest.mark.parametrize("values", [False, True])
def test_no_images(values):
    empty, scrambler = (
        torch.empty(0, 3, 4, 6, dtype=torch.uint8),
        PerImageScrambler((4, 6), SECRET, values),
    )
    assert scrambler.rekey(scrambler.forward(empty, []), []).shape == empty.shape


@pytest.mark.parametrize("values", [False, True])
def test_restore_and_rekey(values):
    images, nonces = batch()
    scrambler = PerImageScrambler((4, 6), SECRET, values)
    scrambled = scrambler.forward(images, nonces)
    assert not torch.equal(scrambled, images)
    assert torch.equal(scrambler.backward(scrambled, nonces), images)
    fixed = ImageScrambler((4, 6), secret=SECRET)
    assert torch.equal(scrambler.rekey(scrambled, nonces), fixed(images))


def test_images_do_not_share_a_key():
    image = torch.arange(1024).reshape(1, 1, 32, 32).repeat(8, 1, 1, 1)
    scrambled = PerImageScrambler(32, SECRET).forward(image, new_nonces(8))
    same = (scrambled[:, None] == scrambled[None]).float().mean((2, 3, 4))
    assert same.fill_diagonal_(0).max() < 0.01


def test_values_take_colours_apart():
    image = torch.full((1, 3, 32, 32), 200, dtype=torch.uint8)
    seen = PerImageScrambler(32, SECRET, values=True).forward(image, new_nonces(1))
    assert set(seen.unique().tolist()) == {55, 200}
    assert abs((seen == 200).float().mean() - 0.5) < 0.05


def test_logits_are_those_of_the_plain_network():
    torch.manual_seed(0)
    plain = create_model("vgg16").eval()
    scrambler = PerImageScrambler(32, SECRET, values=True)
    keyed = create_model("vgg16_permuted", scrambler=scrambler.fixed).eval()
    keyed.load_state_dict(plain.state_dict())
    images, nonces = batch(2, (32, 32))
    with torch.inference_mode():
        expected = plain(images / 255)
        received = keyed(scrambler.rekey(scrambler.forward(images, nonces), nonces) / 255)
    torch.testing.assert_close(received, expected, rtol=1e-4, atol=1e-4)


def test_refusals():
    images, nonces = batch()
    with pytest.raises(ValueError, match="5 images need as many nonces, got 4"):
        PerImageScrambler((4, 6), SECRET).forward(images, nonces[1:])
    with pytest.raises(ValueError, match="images 0 and 1 share the nonce 61"):
        PerImageScrambler((4, 6), SECRET).forward(images[:2], [b"a", b"a"])
    with pytest.raises(ValueError, match=r"\(N, C, 6, 4\), got \(5, 3, 4, 6\)"):
        PerImageScrambler((6, 4), SECRET).forward(images, nonces)
    with pytest.raises(ValueError, match=r"needs uint8 images, got torch\.float32"):
        PerImageScrambler((4, 6), SECRET, values=True).forward(images / 255, nonces)
