"""shapes10: ten classes of small colour pictures that the project draws itself.

For machines that cannot have CIFAR-10, and for demo and tests: each 32x32 picture shows one form on
a background. Only the form tells the class. Foreground area, colours, place, angle, aspect
and noise are drawn from the same distributions for every class, so that a bag of pixels (which is
all that is left of a scrambled picture for whoever lacks the key) says next to nothing.
shapes_seg has two of these forms on a wider canvas, with a label for every pixel.

Forms are implicit functions, negative inside and growing by one per unit of length, evaluated for
all pictures of a class at once: https://iquilezles.org/articles/distfunctions2d/ explains the kind.
"""

import numpy as np
import torch

IMAGE_SIZE = 32
SPLIT_SIZES = {"train": 4000, "test": 1000}
_SEEDS = {"train": 20240414, "test": 20240419}  # the first and the last day of ICASSP 2024
SEG_SIZE = (48, 64)  # of the pictures of shapes_seg
_SEG_SPLITS = {"train": (300, 20240415), "val": (40, 20240416), "test": (40, 20240417)}

AREA = (90.0, 170.0)  # of the form, in pixels
SHIFT = 5.0  # of its centre from the picture's, in pixels, along an axis of 32
ASPECT = 1.2  # largest ratio of the stretches along its two axes
CONTRAST = 0.3  # least difference of form and background, per channel, of 1
SHADE = 0.15  # largest departure of the shading in a corner, of 1
NOISE = 0.1  # largest departure of a pixel's noise, of 1


def _box(x, y, half_x, half_y):
    return np.maximum(np.abs(x) - half_x, np.abs(y) - half_y)


def _star(x, y):
    """Five points at radius 1, notches at radius 0.45."""
    sector = 2 * np.pi / 5
    angle = np.abs(np.mod(np.arctan2(x, y) + sector / 2, sector) - sector / 2)
    radius = np.hypot(x, y)
    notch_x, notch_y = 0.45 * np.sin(sector / 2), 0.45 * np.cos(sector / 2)
    edge = np.hypot(notch_x, 1 - notch_y)  # from the point (0, 1) to the notch
    return ((radius * np.cos(angle) - 1) * notch_x + radius * np.sin(angle) * (1 - notch_y)) / edge


def _heart(x, y):
    """A square on its corner, and a circle on each of its upper edges."""
    side, x = np.sqrt(0.5), np.abs(x)
    square = (x + np.abs(y)) * side - side
    return np.minimum(square, np.hypot(x - 0.5, y - 0.5) - side)


_FORMS = {
    "circle": lambda x, y: np.hypot(x, y) - 1,
    "square": lambda x, y: _box(x, y, 1, 1),
    "triangle": lambda x, y: np.maximum(-y, np.abs(x) * np.sqrt(0.75) + y / 2) - 0.5,
    "star": _star,
    "cross": lambda x, y: np.minimum(_box(x, y, 1, 0.33), _box(x, y, 0.33, 1)),
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.75) - 0.25,
    "crescent": lambda x, y: np.maximum(np.hypot(x, y) - 1, 0.85 - np.hypot(x - 0.5, y)),
    "heart": _heart,
    "bars": lambda x, y: _box(x, np.abs(y) - 0.6, 1, 0.3),
    "ell": lambda x, y: np.minimum(_box(x + 0.5, y, 0.33, 1), _box(x, y + 0.67, 0.83, 0.33)),
}
SHAPES10_CLASSES: tuple[str, ...] = tuple(_FORMS)
SHAPES_SEG_CLASSES: tuple[str, ...] = ("background", *_FORMS)


def shapes10(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one split of shapes10; the same pictures every time, in about a second.

    The random numbers come from a private ``RandomState``, whose streams numpy has promised to keep
    for good; the global random state is neither read nor written.

    Args:
        split: ``train`` (4000 pictures) or ``test`` (1000); each class has a tenth of them.

    Returns:
        Images, uint8 ``(N, 3, 32, 32)``, and labels, int64 ``(N,)``, which index
        ``SHAPES10_CLASSES``.

    Raises:
        ValueError: another split.

    Example:
        >>> images, labels = shapes10("test")
        >>> images.shape, SHAPES10_CLASSES[labels[3]]
        (torch.Size([1000, 3, 32, 32]), 'star')
    """
    if split not in SPLIT_SIZES:
        raise ValueError(f"split must be one of {tuple(SPLIT_SIZES)}, got {split!r}")
    n, random = SPLIT_SIZES[split], np.random.RandomState(_SEEDS[split])
    labels = np.arange(n) % len(_FORMS)
    images = _paint(_coverage(labels, IMAGE_SIZE, IMAGE_SIZE, random)[:, None], random)
    return torch.from_numpy(images), torch.from_numpy(labels)


def shapes_seg(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one split of shapes_seg: two forms beside each other, with the class of each pixel.

    Args:
        split: ``train`` (300 pictures), ``val`` (40) or ``test`` (40).

    Returns:
        Images, uint8 ``(N, 3, 48, 64)``, and labels, uint8 ``(N, 48, 64)``, which index
        ``SHAPES_SEG_CLASSES``; 255 on edges, where form and background share a pixel.

    Raises:
        ValueError: another split.
    """
    if split not in _SEG_SPLITS:
        raise ValueError(f"split must be one of {tuple(_SEG_SPLITS)}, got {split!r}")
    n, seed = _SEG_SPLITS[split]
    random, (height, width) = np.random.RandomState(seed), SEG_SIZE
    forms = random.randint(len(_FORMS), size=(n, 2))
    halves = _coverage(forms.ravel(), height, width // 2, random).reshape(n, 2, height, -1)
    coverage = np.zeros((n, 2, height, width))
    coverage[:, 0, :, : width // 2], coverage[:, 1, :, width // 2 :] = halves[:, 0], halves[:, 1]
    whole = (coverage == 1) * (forms[:, :, None, None] + 1)  # (N, 2, H, W)
    labels = np.where((coverage > 0) & (coverage < 1), 255, whole).sum(1).astype(np.uint8)
    return torch.from_numpy(_paint(coverage, random)), torch.from_numpy(labels)


def _paint(coverage: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Pictures of forms: their coverage ``(N, forms, H, W)`` to uint8 ``(N, 3, H, W)``."""
    n, count, height, width = coverage.shape
    # a channel of a form is that of the background, moved round the circle [0, 1)
    background = random.random_sample((n, 1, 3, 1, 1))
    form = np.mod(background + _uniform(random, CONTRAST, 1 - CONTRAST, (n, count, 3, 1, 1)), 1)
    slope_x, slope_y = _uniform(random, -SHADE, SHADE, (2, n, 1, 1, 1)) / 2
    # in place: the temporaries of one long expression would take longer than the arithmetic
    pixels = _uniform(random, -NOISE, NOISE, (n, 3, height, width))
    for i in range(count):
        pixels += coverage[:, i, None] * (form - background)[:, i]
    pixels += background[:, 0] + slope_x * np.linspace(-1, 1, width)  # (N, 3, 1, W)
    pixels += slope_y * np.linspace(-1, 1, height)[:, None]  # (N, 1, H, 1)
    np.clip(pixels, 0, 1, out=pixels)
    pixels *= 255
    return np.rint(pixels, out=pixels).astype(np.uint8)


def _coverage(
    labels: np.ndarray, height: int, width: int, random: np.random.RandomState
) -> np.ndarray:
    """The fraction of each pixel that its picture's form covers, ``(N, H, W)`` in [0, 1]."""
    n = len(labels)
    area = _uniform(random, *AREA, (n, 1, 1))
    shift = SHIFT + (np.array([width, height]).reshape(2, 1, 1, 1) - IMAGE_SIZE) / 2
    centre_x, centre_y = _uniform(random, -shift, shift, (2, n, 1, 1))
    angle = _uniform(random, 0, 2 * np.pi, (n, 1, 1))
    stretch = ASPECT ** _uniform(random, -0.5, 0.5, (n, 1, 1))

    x = np.arange(width) - (width - 1) / 2 - centre_x  # (N, 1, W)
    y = (np.arange(height) - (height - 1) / 2)[:, None] - centre_y  # (N, H, 1)
    along = (x * np.cos(angle) + y * np.sin(angle)) * stretch  # (N, H, W)
    across = (y * np.cos(angle) - x * np.sin(angle)) / stretch
    coverage = np.empty((n, height, width))
    for label, form in enumerate(_FORMS.values()):
        mine = labels == label
        unit = np.sqrt(area[mine] / _area(form))  # pixels per unit of the form's own length
        distance = unit * form(along[mine] / unit, across[mine] / unit)
        coverage[mine] = np.clip(0.5 - distance, 0, 1)  # the edge is one pixel wide
    return coverage


def _area(form) -> float:
    """Area inside a form, in its own units; every form lies within [-1.5, 1.5] both ways."""
    step = 0.01
    points = np.arange(-1.5 + step / 2, 1.5, step)
    return float((form(points, points[:, None]) < 0).sum()) * step**2


def _uniform(random: np.random.RandomState, low, high, shape: tuple) -> np.ndarray:
    values = random.random_sample(shape)
    values *= high - low
    values += low
    return values
