"""The metrics against loops over pixels, at each mask's own size, through shrinking and padding."""

import pytest
import torch

from utils.data.masks import IGNORED, Fit, MaskSet
from utils.inference.segmentation_metrics import confusion_matrix, scores
from utils.runtime.errors import UserError

K, IMAGE_SIZE = 5, (12, 16)
SIZES = [(12, 16), (9, 10), (25, 31), (40, 16), (12, 40)]


@pytest.fixture
def data():
    """Masks of differing sizes, of which class 4 has none."""
    generator = torch.Generator().manual_seed(0)
    truth = []
    for size in SIZES:
        mask = torch.randint(0, K, size, generator=generator, dtype=torch.uint8)
        truth.append(mask.masked_fill_(mask == K - 1, IGNORED))
    fits = tuple(Fit.into(size, IMAGE_SIZE) for size in SIZES)
    n = len(SIZES)
    labels = torch.zeros(n, *IMAGE_SIZE, dtype=torch.uint8)
    return MaskSet(torch.zeros(n, 3, *IMAGE_SIZE), labels, tuple("abcde"), tuple(truth), fits)


def maps(high=K - 1):
    generator = torch.Generator().manual_seed(1)
    shape = (len(SIZES), *IMAGE_SIZE)
    return torch.randint(0, high, shape, generator=generator, dtype=torch.uint8)


def counted_one_by_one(predictions, data):
    """The naive twin: the pixel under the middle of each pixel of the mask, one after the other."""
    matrix = [[0] * K for _ in range(K)]
    for labels, truth, (h, w) in zip(predictions, data.truth, SIZES, strict=True):
        shrink = min(1, IMAGE_SIZE[0] / h, IMAGE_SIZE[1] / w)
        inner_h, inner_w = round(h * shrink), round(w * shrink)
        for y in range(h):
            for x in range(w):
                if truth[y, x] == IGNORED:
                    continue
                at = labels[int((y + 0.5) * inner_h / h), int((x + 0.5) * inner_w / w)]
                matrix[int(truth[y, x])][int(at)] += 1
    return matrix


def scored_one_by_one(matrix):
    iou = []
    for k in range(K):
        union = sum(matrix[k]) + sum(row[k] for row in matrix) - matrix[k][k]
        iou.append(matrix[k][k] / union if union else None)
    there = [x for x in iou if x is not None]
    right, total = sum(matrix[k][k] for k in range(K)), sum(map(sum, matrix))
    return {"miou": sum(there) / len(there), "iou": iou, "pixel_accuracy": right / total}


@pytest.mark.parametrize("high", [K - 1, K])  # class 4 absent from the prediction, too, or not
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_as_pixel_by_pixel(data, high, dtype):
    predictions = maps(high)
    matrix = confusion_matrix(predictions.to(dtype), data)
    expected = counted_one_by_one(predictions, data)
    assert matrix.dtype == torch.int64 and matrix.tolist() == expected
    found, naive = scores(matrix), scored_one_by_one(expected)
    assert (found["iou"][-1] is None) == (high < K)
    assert found["iou"] == pytest.approx(naive["iou"])
    assert found["miou"] == pytest.approx(naive["miou"])
    assert found["pixel_accuracy"] == pytest.approx(naive["pixel_accuracy"])


def test_every_labelled_pixel_counts_once(data):
    assert confusion_matrix(maps(), data).sum() == sum((t != IGNORED).sum() for t in data.truth)


def test_padding_and_ignored_pixels_count_nowhere(data):
    predictions = maps()
    matrix = confusion_matrix(predictions, data)
    padded = predictions.clone()
    for labels, fit in zip(padded, data.fits, strict=True):
        labels[fit.inner[0] :], labels[:, fit.inner[1] :] = 4, 4
    assert not torch.equal(padded, predictions)
    assert torch.equal(confusion_matrix(padded, data), matrix)
    ignored = predictions.clone()  # the first mask has the network's size
    ignored[0][data.truth[0] == IGNORED] = 4
    assert torch.equal(confusion_matrix(ignored, data), matrix)


def test_parts_add_up(data):
    predictions, index = maps(), torch.tensor([0, 3])
    rest = torch.tensor([1, 2, 4])
    parts = [confusion_matrix(predictions[i], data.subset(i)) for i in (index, rest)]
    assert torch.equal(sum(parts), confusion_matrix(predictions, data))


def test_the_truth_itself_is_right_everywhere(data):
    first = data.subset(torch.tensor([0]))
    found = scores(confusion_matrix(first.truth[0].clamp(max=3)[None], first))
    assert found == {"miou": 1.0, "iou": [1.0] * 4 + [None], "pixel_accuracy": 1.0}


def test_nothing_to_count_is_said():
    with pytest.raises(UserError, match="no pixel to test on has a label"):
        scores(torch.zeros(3, 3, dtype=torch.int64))
