"""operators/per_image.py: each image under its own key, restored and rekeyed exactly."""

import pytest
import torch

from models import create_model
from operators import ImageScrambler, PerImageScrambler, SecretKey
from operators.key import new_nonces, require_distinct

SECRET = SecretKey(bytes(range(32)))


def batch(n=5, size=(4, 6)):
    return torch.randint(0, 256, (n, 3, *size), dtype=torch.uint8), new_nonces(n)


def test_equals_a_loop_over_images():
    images, nonces = batch()
    scrambled = PerImageScrambler((4, 6), SECRET).scramble(images, nonces)
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
    assert scrambler.rekey(scrambler.scramble(empty, []), []).shape == empty.shape


@pytest.mark.parametrize("values", [False, True])
def test_restore_and_rekey(values):
    images, nonces = batch()
    scrambler = PerImageScrambler((4, 6), SECRET, values)
    scrambled = scrambler.scramble(images, nonces)
    assert not torch.equal(scrambled, images)
    assert torch.equal(scrambler.unscramble(scrambled, nonces), images)
    assert torch.equal(scrambler.backward(scrambler.forward(images, nonces), nonces), images)
    fixed = ImageScrambler((4, 6), secret=SECRET)
    assert torch.equal(scrambler.rekey(scrambled, nonces), fixed(images))


def test_images_do_not_share_a_key():
    image = torch.arange(1024).reshape(1, 1, 32, 32).repeat(8, 1, 1, 1)
    scrambled = PerImageScrambler(32, SECRET).scramble(image, new_nonces(8))
    same = (scrambled[:, None] == scrambled[None]).float().mean((2, 3, 4))
    assert same.fill_diagonal_(0).max() < 0.01


def test_values_take_colours_apart():
    image = torch.full((1, 3, 32, 32), 200, dtype=torch.uint8)
    seen = PerImageScrambler(32, SECRET, values=True).scramble(image, new_nonces(1))
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
        received = keyed(scrambler.rekey(scrambler.scramble(images, nonces), nonces) / 255)
    torch.testing.assert_close(received, expected, rtol=1e-4, atol=1e-4)


def test_refusals():
    images, nonces = batch()
    with pytest.raises(ValueError, match="5 images need as many nonces, got 4"):
        PerImageScrambler((4, 6), SECRET).scramble(images, nonces[1:])
    with pytest.raises(ValueError, match="images 0 and 1 share the nonce 61"):
        PerImageScrambler((4, 6), SECRET).scramble(images[:2], [b"a", b"a"])
    with pytest.raises(ValueError, match=r"\(N, C, 6, 4\), got \(5, 3, 4, 6\)"):
        PerImageScrambler((6, 4), SECRET).scramble(images, nonces)
    with pytest.raises(ValueError, match=r"needs uint8 images, got torch\.float32"):
        PerImageScrambler((4, 6), SECRET, values=True).scramble(images / 255, nonces)


def test_nonces_for_a_batch_come_again_with_it_alone():
    images, _ = batch()
    scrambler = PerImageScrambler((4, 6), SECRET)
    nonces = scrambler.nonces_for(images)
    assert nonces == scrambler.nonces_for(images.clone(memory_format=torch.channels_last))
    others = [scrambler.nonces_for(part) for part in (images[:4], images.roll(1, 0), images + 1)]
    require_distinct([*nonces, *(nonce for other in others for nonce in other)])
    # equal images of one batch do not share one either
    require_distinct(scrambler.nonces_for(images[:1].expand(5, -1, -1, -1)))


@pytest.mark.parametrize("receive", ["backward", "rekey"])
def test_a_server_reports_a_repeated_nonce(receive, recwarn):
    images, nonces = batch(3)
    scrambler = PerImageScrambler((4, 6), SECRET)
    seen = scrambler.scramble(images, nonces)
    once = getattr(scrambler, receive)(seen, nonces)
    assert not recwarn
    with pytest.warns(UserWarning, match="images 0 and 2 share the nonce"):
        again = getattr(scrambler, receive)(seen[[0, 1, 0]], [nonces[i] for i in (0, 1, 0)])
    assert torch.equal(again, once[[0, 1, 0]])
