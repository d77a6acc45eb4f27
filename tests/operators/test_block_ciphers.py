"""Block ciphers against slow twins that follow their descriptions, block by block."""

import random

import numpy as np
import pytest
import torch

from operators import BlockCipher, ImageScrambler, PerImageScrambler, SecretKey, make_scrambler
from operators.blocks import block_permutation
from operators.cipher_keys import CHANNEL_ORDERS, parse_cipher

SECRET = SecretKey(bytes(range(32)))
ALL = ("etc:4", "etc:8", "etc_published", "le", "ele", "privconv")
LOSSLESS = tuple(cipher for cipher in ALL if cipher != "etc_published")


def pictures(count: int = 3, height: int = 32, width: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height)
    return torch.randint(256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def etc_twin(image: np.ndarray, draws: tuple, n: int, in_place: bool) -> np.ndarray:
    """EtC of ``(H, W, 3)``: each block turned, inverted, mirrored, recoloured; then the shuffle."""
    rotations, mirrors, codes, order, signs = draws
    columns = image.shape[1] // n
    blocks = []
    for b in range(len(order)):
        y, x = b // columns * n, b % columns * n
        block = image[y : y + n, x : x + n].copy()
        if rotations[b] < 3:
            block = np.rot90(block, rotations[b] + 1)
        if signs[b] == 0:
            block = 255 - block
        if mirrors[b] < 2:
            block = block[::-1] if mirrors[b] == 0 else block[:, ::-1]
        block = block.copy()
        names = ("RGB", "GRB", "BGR", "RBG", "BRG", "GBR")[codes[b]]
        read = block if in_place else block.copy()
        for channel, name in enumerate(names):
            block[..., channel] = read[..., "RGB".index(name)]
        blocks.append(block)
    out = np.empty_like(image)
    for i, b in enumerate(order):
        y, x = i // columns * n, i % columns * n
        out[y : y + n, x : x + n] = blocks[b]
    return out


def etc_draws(seed: int, blocks: int) -> tuple:
    r = random.Random(seed)
    turns = [(r.randint(0, 3), r.randint(0, 2), r.randint(0, 5)) for _ in range(blocks)]
    order = list(range(blocks))
    r.shuffle(order)
    signs = [1, 0] * (blocks // 2)
    r.shuffle(signs)
    return *zip(*turns, strict=True), order, signs


def nibbles_twin(image: np.ndarray, keys: list, order: list) -> np.ndarray:
    """LE and ELE of ``(H, W, 3)`` with 4x4 blocks, one nibble at a time."""
    columns = image.shape[1] // 4
    out = np.empty_like(image)
    for i, b in enumerate(order):
        y, x = b // columns * 4, b % columns * 4
        values = image[y : y + 4, x : x + 4].flatten().tolist()
        v = [value % 16 for value in values] + [value // 16 for value in values]
        key = keys[b].tolist()
        v = [15 - v[j] if key[j] > 48 else v[j] for j in range(96)]
        v = [v[key[j]] for j in range(96)]
        v = [15 - v[j] if key[j] > 48 else v[j] for j in range(96)]
        merged = [low + 16 * high for low, high in zip(v[:48], v[48:], strict=True)]
        y, x = i // columns * 4, i % columns * 4
        out[y : y + 4, x : x + 4] = np.array(merged, np.uint8).reshape(4, 4, 3)
    return out


def twin(cipher: str, image: np.ndarray, seed: int) -> np.ndarray:
    name, n = parse_cipher(cipher)
    n = n or 4
    blocks = image.shape[0] * image.shape[1] // n**2
    state = np.random.RandomState(seed)
    if name.startswith("etc"):
        return etc_twin(image, etc_draws(seed, blocks), n, in_place=name == "etc_published")
    if name == "le":
        return nibbles_twin(image, [state.permutation(96)] * blocks, list(range(blocks)))
    if name == "ele":
        order = list(range(blocks))
        random.Random(seed).shuffle(order)
        return nibbles_twin(image, [state.permutation(96) for _ in range(blocks)], order)
    order, inside = state.permutation(blocks), state.permutation(3 * n * n)
    out, columns = np.empty_like(image), image.shape[1] // n
    for i, b in enumerate(order):
        y, x = b // columns * n, b % columns * n
        values = image[y : y + n, x : x + n].flatten()[inside]
        y, x = i // columns * n, i % columns * n
        out[y : y + n, x : x + n] = values.reshape(n, n, 3)
    return out


@pytest.mark.parametrize("size", [(32, 32), (16, 24)])
@pytest.mark.parametrize("cipher", ALL)
def test_equals_the_description(cipher, size):
    images = pictures(2, *size)
    for seed in (30, 2**32 - 1):
        scrambled = BlockCipher(cipher, size, seed=seed)(images)
        for image, found in zip(images, scrambled, strict=True):
            expected = twin(cipher, image.permute(1, 2, 0).numpy(), seed)
            assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("key", [{"seed": 30}, {"secret": SECRET}, {}])
@pytest.mark.parametrize("cipher", LOSSLESS)
def test_unscrambles_any_batch(cipher, key):
    scrambler = BlockCipher(cipher, (16, 24), **key)
    for shape in [(3, 16, 24), (0, 3, 16, 24), (2, 2, 3, 16, 24)]:
        x = torch.randint(256, shape, dtype=torch.uint8)
        before = x.clone()
        scrambled = scrambler(x)
        assert scrambled.shape == x.shape and scrambled.dtype == torch.uint8
        assert torch.equal(scrambler.unscramble(scrambled), x)
        assert torch.equal(scrambler.unscramble(scrambled), x)
        assert torch.equal(x, before)
        if x.numel():
            assert not torch.equal(scrambled, x)


def test_the_published_code_loses_colour_in_58_of_64_blocks():
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    image[1], image[2] = 1, 2
    scrambler = BlockCipher("etc_published", 32, seed=30)
    blocks = scrambler(image).unfold(1, 4, 4).unfold(2, 4, 4)[..., 0, 0]  # (3, 8, 8)
    colours = [len(set(block)) for block in blocks.flatten(1).T.tolist()]
    assert colours.count(3) == 6 and len(colours) == 64
    with pytest.raises(ValueError, match="loses values"):
        scrambler.unscramble(image)


def test_from_a_secret_as_documented():
    key, n = SECRET.derive("etc:4"), 64
    bits = key.bits(3 * n, b"").tolist()
    symmetry = [bits[3 * b] + 2 * bits[3 * b + 1] + 4 * bits[3 * b + 2] for b in range(n)]
    # Quarter turns, then left to right, as rotation and mirroring of the published draws.
    rotations = [(s % 4 - 1) % 4 for s in symmetry]
    mirrors = [1 if s >= 4 else 2 for s in symmetry]
    orders = [tuple(key.permutation(3, 2 + b).tolist()) for b in range(n)]
    signs = [[1, 0][p % 2] for p in key.permutation(n, 1).tolist()]
    codes = [CHANNEL_ORDERS.index(order) for order in orders]
    draws = (rotations, mirrors, codes, key.permutation(n, 0).tolist(), signs)
    image = pictures(1)
    expected = etc_twin(image[0].permute(1, 2, 0).numpy(), draws, 4, in_place=False)
    found = BlockCipher("etc:4", 32, secret=SECRET)(image)[0].permute(1, 2, 0)
    assert np.array_equal(found.numpy(), expected)

    key = SECRET.derive("ele:4")
    keys = [key.permutation(96, 1 + b) for b in range(n)]
    expected = nibbles_twin(image[0].permute(1, 2, 0).numpy(), keys, key.permutation(n).tolist())
    found = BlockCipher("ele", 32, secret=SECRET)(image)[0].permute(1, 2, 0)
    assert np.array_equal(found.numpy(), expected)


@pytest.mark.parametrize("cipher", ["etc:2", "etc:4", "etc:16"])
@pytest.mark.parametrize("key", [{"seed": 30}, {"secret": SECRET}])
def test_etc_is_a_permutation_of_pixels_and_values_undone_in_place(cipher, key):
    scrambler, images = BlockCipher(cipher, 32, **key), pictures()
    pixels = scrambler.pixel_scrambler()
    assert torch.equal(scrambler.undo_values()(scrambler(images)), pixels(images))
    same = ImageScrambler(32, **key)
    assert torch.equal(pixels.layer_keys().draw(99), same.layer_keys().draw(99))


@pytest.mark.parametrize("cipher", ["etc_published", "le", "ele", "privconv"])
def test_other_ciphers_are_no_permutation_of_pixels(cipher):
    scrambler = BlockCipher(cipher, 32, seed=30)
    for split in (scrambler.pixel_scrambler, scrambler.undo_values):
        with pytest.raises(ValueError, match=f"a keyed network cannot take {cipher} pictures: it "):
            split()


def test_fingerprints_tell_ciphers_and_keys_apart():
    scramblers = [
        make_scrambler(cipher, 32, **key)
        for cipher in ("pixels", "blocks:4", "blocks:8", *ALL)
        for key in ({"seed": 1}, {"seed": 2}, {"secret": SECRET}, {"secret": SecretKey(bytes(32))})
    ]
    prints = {scrambler.fingerprint for scrambler in scramblers}
    assert len(prints) == len(scramblers) and {len(p) for p in prints} == {16}
    again = make_scrambler("ele", 32, seed=1)
    assert again.fingerprint == make_scrambler("ele", 32, seed=1).fingerprint
    assert again.fingerprint in repr(again) and again.state_dict() == {}


def test_a_block_key_moves_and_turns_blocks():
    image = np.arange(12 * 8).reshape(12, 8)
    order, symmetry = torch.tensor([2, 0, 5, 1, 4, 3]), torch.tensor([0, 1, 6, 3, 4, 2])
    expected = np.empty_like(image)
    for i, b in enumerate(order.tolist()):
        block = image[b // 2 * 4 : b // 2 * 4 + 4, b % 2 * 4 : b % 2 * 4 + 4]
        block = np.rot90(block, symmetry[b] % 4)
        block = block[:, ::-1] if symmetry[b] >= 4 else block
        expected[i // 2 * 4 : i // 2 * 4 + 4, i % 2 * 4 : i % 2 * 4 + 4] = block
    assert block_permutation((12, 8), 4, order, symmetry).tolist() == expected.flatten().tolist()


@pytest.mark.parametrize("key", [{"seed": 1312}, {"secret": SECRET}, {}])
def test_block_is_a_key_of_the_image_scrambler(key):
    scrambler = ImageScrambler((24, 16), block=8, **key)
    x = torch.rand(2, 3, 24, 16)
    assert torch.equal(scrambler.unscramble(scrambler(x)), x)
    rows = scrambler(torch.arange(24.0)[:, None].expand(24, 16) // 8)
    assert {
        len(set(block.flatten().tolist()))
        for block in rows.unfold(0, 8, 8).unfold(1, 8, 8).reshape(-1, 64)
    } == {1}
    if key:
        plain = ImageScrambler((24, 16), **key)
        assert torch.equal(scrambler.layer_keys().draw(50), plain.layer_keys().draw(50))
        assert not torch.equal(scrambler.key, plain.key)
        again = make_scrambler("blocks:8", (24, 16), **key)
        assert torch.equal(again.key, scrambler.key)
        assert again.fingerprint == scrambler.fingerprint != plain.fingerprint


def test_block_keys_from_a_seed():
    state = np.random.RandomState(1312)
    order, symmetry = np.argsort(state.rand(16)), np.floor(8 * state.rand(16)).astype(int)
    expected = block_permutation((32, 32), 8, torch.tensor(order), torch.tensor(symmetry))
    assert torch.equal(ImageScrambler(32, seed=1312, block=8).key, expected)


def test_block_keys_of_images():
    camera = PerImageScrambler((16, 24), SECRET, block=8)
    images, nonces = pictures(3, 16, 24), [b"a", b"b", b""]
    scrambled = camera.scramble(images, nonces)
    assert torch.equal(camera.unscramble(scrambled, nonces), images)
    fixed = ImageScrambler((16, 24), secret=SECRET, block=8)
    assert torch.equal(camera.rekey(scrambled, nonces), fixed(images))
    assert torch.equal(scrambled[2], fixed(images[2]))  # the empty nonce is the fixed key's
    order, symmetry = SECRET.blocks(6, 8, [b"b"])
    key = block_permutation((16, 24), 8, order[0], symmetry[0])
    assert torch.equal(scrambled[1], ImageScrambler((16, 24), key=key)(images[1]))
    assert camera.scramble(images[:0], []).shape == (0, 3, 16, 24)
    with pytest.raises(ValueError, match="values or a block, got both"):
        PerImageScrambler(16, SECRET, values=True, block=8)


def test_bad_blocks_images_and_keys_are_named():
    for cipher in ("blocks:5", "etc:5"):
        with pytest.raises(ValueError, match="divides the image's 32x32, got 5"):
            make_scrambler(cipher, 32, seed=0)
    with pytest.raises(ValueError, match="divides the image's 30x32, got 4"):
        make_scrambler("le", (30, 32), seed=0)
    with pytest.raises(ValueError, match=r"uint8 of shape \(\.\.\., 3, 32, 32\) .*float32"):
        make_scrambler("etc:4", 32, seed=0)(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match=r"got torch.uint8 \(1, 3, 32, 31\)"):
        make_scrambler("etc:4", 32, seed=0)(torch.zeros(1, 3, 32, 31, dtype=torch.uint8))
    with pytest.raises(ValueError, match="seed or a secret, got both"):
        make_scrambler("le", 32, seed=0, secret=SECRET)
    with pytest.raises(ValueError, match="seed must be"):
        make_scrambler("le", 32, seed=-1)
    with pytest.raises(ValueError, match="key or a block, got both"):
        ImageScrambler(8, key=torch.arange(64), block=4)
    with pytest.raises(ValueError, match="blocks:4 is a key of ImageScrambler"):
        BlockCipher("blocks:4", 32, seed=0)
