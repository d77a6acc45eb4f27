"""Offsets: the published vectors bit for bit, a nested-loop twin, and what bad geometry says."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings

from operators import ImageScrambler
from operators.offset import Geometry, disjoint_tiles, sampling_offsets
from tests.operators import naive
from tests.operators.geometry import geometries, key

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "keys.json").read_text())["seeds"]


def sha256(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("seed", VECTORS)
def test_keys_and_offsets_are_the_published_ones(seed):
    vector = VECTORS[seed]
    scrambler = ImageScrambler(32, seed=int(seed))
    assert scrambler.key[:16].tolist() == vector["image_key"]["first16"]
    assert sha256(scrambler.key) == vector["image_key"]["sha256"]
    stream, in_key, offsets = scrambler.layer_keys(), scrambler.key, 0
    for layer in vector["layers"]:
        out_key = stream.draw(layer["out"] ** 2)
        assert out_key[:8].tolist() == layer["key_first8"], layer["layer"]
        assert sha256(out_key) == layer["key_sha256"], layer["layer"]
        if "offset_sha256" in layer:  # a convolution
            offset = sampling_offsets(in_key, out_key, Geometry(layer["in"], 3, 1, 1))
            assert list(offset.shape) == layer["offset_shape"]
            assert offset[:, 0, 0].tolist() == layer["offset_first_column"]
            assert sha256(offset) == layer["offset_sha256"], layer["layer"]
            offsets += 1
        in_key = out_key
    assert offsets == 13


@settings(max_examples=60, deadline=None)
@given(geometries())
def test_offsets_equal_the_nested_loops(case):
    layer, keys, out_size, _ = case
    geometry = Geometry(keys["image_size"], **layer)
    offset = sampling_offsets(keys["in_key"], keys["out_key"], geometry)
    expected = naive.offsets(keys["in_key"], keys["out_key"], keys["image_size"], out_size, **layer)
    assert offset.dtype == torch.float32
    assert torch.equal(offset, expected)


def test_large_offsets_are_exact():
    in_key, out_key = key(512 * 512, 0), key(512 * 512, 1)
    offset = sampling_offsets(in_key, out_key, Geometry(512, 3, 1, 1))
    assert torch.equal(offset, offset.round()) and offset.abs().max() > 500


def test_disjoint_tiles_serve_poolings_and_pointwise_convolutions():
    assert disjoint_tiles(key(36, 0), key(9, 1), Geometry(6, 2, 2)) is not None
    assert disjoint_tiles(key(36, 0), key(36, 1), Geometry(6, 1)) is not None
    assert disjoint_tiles(key(36, 0), key(36, 1), Geometry(6, 3, 1, 1)) is None  # windows overlap
    assert disjoint_tiles(key(36, 0), key(9, 1), Geometry(6, 1, 2)) is None  # positions are skipped


@pytest.mark.parametrize("size", [1, 5, 6, 7, (4, 9)])
@pytest.mark.parametrize("kernel_size", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_output_size_is_torchs(size, kernel_size, stride, ceil_mode):
    height, width = (size, size) if isinstance(size, int) else size
    pool = torch.nn.MaxPool2d(kernel_size, stride, kernel_size // 2, ceil_mode=ceil_mode)
    expected = tuple(pool(torch.zeros(1, 1, height, width)).shape[2:])
    got = Geometry(size, kernel_size, stride, kernel_size // 2, ceil_mode=ceil_mode)
    assert got.output_size == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, r"image_size must be a whole number >= 1 .*got 0"),
        ({"kernel_size": (3, 0)}, r"kernel_size must be .* >= 1 .*got \(3, 0\)"),
        ({"kernel_size": (3, 3, 3)}, r"kernel_size .*got \(3, 3, 3\)"),
        ({"stride": -1}, r"stride must be .* >= 1 .*got -1"),
        ({"stride": 1.5}, r"stride .*got 1.5"),
        ({"padding": -1}, r"padding must be .* >= 0 .*got -1"),
        ({"padding": "same"}, r"padding .*got 'same'"),
        ({"dilation": 0}, r"dilation must be .* >= 1 .*got 0"),
        ({"dilation": True}, r"dilation .*got True"),
        ({"kernel_size": 9}, r"kernel_size \(9, 9\) .* does not fit into image_size \(4, 4\)"),
    ],
)
def test_bad_geometry_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Geometry(**({"image_size": 4, "kernel_size": 3} | arguments))
