"""The rule of sizes: where a picture and its mask go, and how a prediction comes back."""

import numpy as np
import pytest
import torch
from PIL import Image

from utils.data.masks import IGNORED, Fit, MaskSet

FILL = (7, 8, 9)


@pytest.mark.parametrize(
    ("size", "image_size", "inner"),
    [
        ((180, 240), (180, 240), (180, 240)),
        ((375, 500), (512, 512), (375, 500)),  # never enlarged
        ((375, 500), (250, 250), (188, 250)),
        ((500, 375), (250, 300), (250, 188)),
        ((1, 900), (30, 30), (1, 30)),
    ],
)
def test_a_picture_keeps_its_aspect_and_is_never_enlarged(size, image_size, inner):
    assert Fit.into(size, image_size).inner == inner


def test_pictures_are_filled_with_the_mean_and_masks_with_ignored():
    fit, pixels = Fit.into((4, 6), (8, 8)), np.full((4, 6, 3), 200, np.uint8)
    picture = fit.picture(Image.fromarray(pixels), (8, 8), FILL)
    labels = fit.mask(np.full((4, 6), 3, np.uint8), (8, 8))
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[:4, :6] = True
    assert picture.shape == (3, 8, 8) and picture.dtype == labels.dtype == torch.uint8
    assert (picture[:, inside] == 200).all() and (labels[inside] == 3).all()
    assert picture[:, ~inside].unique(dim=1).flatten().tolist() == list(FILL)
    assert (labels[~inside] == IGNORED).all()


def nearest(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The pixel under the middle of each new pixel, one after the other."""
    (h, w), out = labels.shape, np.empty(size, labels.dtype)
    for y in range(size[0]):
        for x in range(size[1]):
            out[y, x] = labels[int((y + 0.5) * h / size[0]), int((x + 0.5) * w / size[1])]
    return out


@pytest.mark.parametrize("size", [(23, 37), (60, 41), (9, 50), (20, 30)])
def test_masks_go_and_predictions_return_by_the_nearest_pixel(size):
    labels = np.random.default_rng(0).integers(0, 21, size).astype(np.uint8)
    fit = Fit.into(size, (20, 30))
    shown = fit.mask(labels, (20, 30))
    expected = nearest(labels, fit.inner)
    assert np.array_equal(shown[: fit.inner[0], : fit.inner[1]], expected)
    for dtype in (torch.uint8, torch.int64):
        restored = fit.restore(shown.to(dtype))
        assert restored.dtype == dtype and np.array_equal(restored, nearest(expected, size))


def test_a_subset_keeps_pictures_masks_and_fits_together():
    fits = tuple(Fit((4, 4), (4, 4 + i)) for i in range(5))
    labels = torch.arange(5, dtype=torch.uint8)[:, None, None].expand(5, 4, 4)
    data = MaskSet(labels[:, None].expand(5, 3, 4, 4), labels, ("a",) * 5, labels.unbind(), fits)
    for index in (torch.tensor([3, 1]), torch.tensor([False, True, False, True, False])):
        part = data.subset(index)
        order = torch.arange(5)[index]
        assert part.labels[:, 0, 0].tolist() == order.tolist()
        assert torch.stack(part.truth).equal(part.labels)
        assert part.fits == tuple(fits[i] for i in order)
        assert torch.cat(list(data.batches([order]))).equal(part.images)
    assert len(data.to(torch.device("cpu"))) == 5
