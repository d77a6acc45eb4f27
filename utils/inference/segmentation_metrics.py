"""How well label maps agree with the truth: one confusion matrix, and what follows from it.

A prediction is counted at its mask's own size, after it went back through resizing and padding.
Pixels whose truth is ignored count nowhere, whatever is predicted there.
"""

import torch
from torch import Tensor

from utils.data.masks import IGNORED, MaskSet
from utils.runtime.errors import UserError


def confusion_matrix(maps: Tensor, data: MaskSet) -> Tensor:
    """How many pixels of each class are taken for which; matrices of parts of a data set add up.

    Args:
        maps: predicted labels at the network's size, ``(N, H, W)``, of any integer type.
        data: the N pictures they belong to, K classes.

    Returns:
        int64 ``(K, K)``: the row is the truth, the column the prediction.
    """
    count = len(data.classes)
    matrix = torch.zeros(count * count, dtype=torch.int64)
    for labels, fit, truth in zip(maps.cpu(), data.fits, data.truth, strict=True):
        labelled = truth != IGNORED
        cells = truth[labelled].int() * count + fit.restore(labels)[labelled].int()
        matrix += cells.bincount(minlength=count * count)
    return matrix.view(count, count)


def scores(matrix: Tensor) -> dict[str, object]:
    """The scores of a confusion matrix ``(K, K)``, each in [0, 1].

    Returns:
        ``miou``, the mean of the intersections over unions of the classes; ``iou``, that of each
        class in label order, None for one that neither truth nor prediction has, which the mean
        leaves out; ``pixel_accuracy``, the part of the labelled pixels that is right.

    Raises:
        UserError: if no pixel was counted.

    Example:
        >>> scores(torch.tensor([[2, 1, 0], [0, 1, 0], [0, 0, 0]]))["iou"]
        [0.6666666666666666, 0.5, None]
    """
    if not matrix.any():
        raise UserError("no pixel to test on has a label")
    right, matrix = matrix.diag().double(), matrix.double()
    union = matrix.sum(0) + matrix.sum(1) - right
    iou = right / union
    return {
        "miou": float(iou[union > 0].mean()),
        "iou": [float(x) if there else None for x, there in zip(iou, union > 0, strict=True)],
        "pixel_accuracy": float(right.sum() / matrix.sum()),
    }
