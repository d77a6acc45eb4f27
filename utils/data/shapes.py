"""shapes10: ten classes of small colour pictures that the project draws itself.

For machines that cannot have CIFAR-10, and for demo and tests: each 32x32 picture shows one form on
a background. Only the form tells the class. Foreground area, colours, place, angle, aspect
and noise are drawn from the same distributions for every class, so that a bag of pixels (which is
all that is left of a scrambled picture for whoever lacks the key) says next to nothing.

Forms are implicit functions, negative inside and growing by one per unit of length, evaluated for
all pictures of a class at once: https://iquilezles.org/articles/distfunctions2d/ explains the kind.
"""

import numpy as np
import torch

IMAGE_SIZE = 32
SPLIT_SIZES = {"train": 4000, "test": 1000}
_SEEDS = {"train": 20240414, "test": 20240419}  # the first and the last day of ICASSP 2024

AREA = (90.0, 170.0)  # of the form, in pixels
SHIFT = 5.0  # of its centre from the picture's, in pixels, along each axis
ASPECT = 1.2  # largest ratio of the stretches along its two axes
CONTRAST = 0.3  # least difference of form and background, per channel, of 1
SHADE = 0.15  # largest departure of the shading in a corner, of 1
NOISE = 0.1  # largest departure of a pixel's noise, of 1


def _box(x, y, half_x, half_y):
    return np.maximum(np.abs(x) - half_x, np.abs(y) - half_y)


def _circle(x, y):
    return np.hypot(x, y) - 1


def _square(x, y):
    return _box(x, y, 1, 1)


def _triangle(x, y):
    return np.maximum(-y, np.abs(x) * np.sqrt(0.75) + y / 2) - 0.5


def _star(x, y):
    """Five points at radius 1, notches at radius 0.45."""
    sector = 2 * np.pi / 5
    angle = np.abs(np.mod(np.arctan2(x, y) + sector / 2, sector) - sector / 2)
    radius = np.hypot(x, y)
    notch_x, notch_y = 0.45 * np.sin(sector / 2), 0.45 * np.cos(sector / 2)
    edge = np.hypot(notch_x, 1 - notch_y)  # from the point (0, 1) to the notch
    return ((radius * np.cos(angle) - 1) * notch_x + radius * np.sin(angle) * (1 - notch_y)) / edge


def _cross(x, y):
    return np.minimum(_box(x, y, 1, 0.33), _box(x, y, 0.33, 1))


def _ring(x, y):
    return np.abs(np.hypot(x, y) - 0.75) - 0.25


def _crescent(x, y):
    return np.maximum(np.hypot(x, y) - 1, 0.85 - np.hypot(x - 0.5, y))


def _heart(x, y):
    """A square on its corner, and a circle on each of its upper edges."""
    side, x = np.sqrt(0.5), np.abs(x)
    square = (x + np.abs(y)) * side - side
    return np.minimum(square, np.hypot(x - 0.5, y - 0.5) - side)


def _bars(x, y):
    return _box(x, np.abs(y) - 0.6, 1, 0.3)


def _ell(x, y):
    return np.minimum(_box(x + 0.5, y, 0.33, 1), _box(x, y + 0.67, 0.83, 0.33))


_FORMS = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
    "crescent": _crescent,
    "heart": _heart,
    "bars": _bars,
    "ell": _ell,
}
SHAPES10_CLASSES: tuple[str, ...] = tuple(_FORMS)


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
    coverage = _coverage(labels, random)[:, None]  # (N, 1, H, W)

    # a channel of the form is that of the background, moved round the circle [0, 1)
    background = random.random_sample((n, 3, 1, 1))
    form = np.mod(background + _uniform(random, CONTRAST, 1 - CONTRAST, (n, 3, 1, 1)), 1)
    slope_x, slope_y = _uniform(random, -SHADE, SHADE, (2, n, 1, 1, 1)) / 2
    ramp = np.linspace(-1, 1, IMAGE_SIZE)
    # in place: the temporaries of one long expression would take longer than the arithmetic
    pixels = _uniform(random, -NOISE, NOISE, (n, 3, IMAGE_SIZE, IMAGE_SIZE))
    pixels += coverage * (form - background)
    pixels += background + slope_x * ramp  # (N, 3, 1, W)
    pixels += slope_y * ramp[:, None]  # (N, 1, H, 1)
    np.clip(pixels, 0, 1, out=pixels)
    pixels *= 255
    images = np.rint(pixels, out=pixels).astype(np.uint8)
    return torch.from_numpy(images), torch.from_numpy(labels)


def _coverage(labels: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """The fraction of each pixel that its picture's form covers, ``(N, H, W)`` in [0, 1]."""
    n = len(labels)
    area = _uniform(random, *AREA, (n, 1, 1))
    centre_x, centre_y = _uniform(random, -SHIFT, SHIFT, (2, n, 1, 1))
    angle = _uniform(random, 0, 2 * np.pi, (n, 1, 1))
    stretch = ASPECT ** _uniform(random, -0.5, 0.5, (n, 1, 1))

    middles = np.arange(IMAGE_SIZE) - (IMAGE_SIZE - 1) / 2
    x, y = middles - centre_x, middles[:, None] - centre_y  # (N, 1, W), (N, H, 1)
    along = (x * np.cos(angle) + y * np.sin(angle)) * stretch  # (N, H, W)
    across = (y * np.cos(angle) - x * np.sin(angle)) / stretch
    coverage = np.empty((n, IMAGE_SIZE, IMAGE_SIZE))
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


def _uniform(random: np.random.RandomState, low: float, high: float, shape: tuple) -> np.ndarray:
    values = random.random_sample(shape)
    values *= high - low
    values += low
    return values
