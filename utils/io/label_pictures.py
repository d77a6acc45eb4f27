"""Label maps as pictures: in colour, over the picture they belong to, and a legend.

Convention: labels are class numbers ``(..., H, W)`` of any integer type; pictures are uint8 RGB.
"""

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from utils.io.pictures import to_tensor

NONE = 255  # a pixel without a label
BACKGROUND = "background"
CAMVID_COLOURS = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}
LINE, SWATCH, MARGIN = 16, 12, 4  # of a legend, in pixels


def palette(classes: tuple[str, ...]) -> Tensor:
    """The colour of every label, uint8 ``(256, 3)``.

    CamVid's usual colours for its classes, those of PASCAL VOC by label for all others, without
    VOC's black where there is no background.
    """
    index = torch.arange(256) if classes[0] == BACKGROUND else torch.arange(1, 257)
    index[NONE] = NONE
    # VOC: bits 0, 3, 6 of a label are the first of red, 1, 4, 7 of green, 2, 5 of blue
    channels = [
        sum(((index >> (3 * place + channel)) & 1) << (7 - place) for place in range(3))
        for channel in range(3)
    ]
    colours = torch.stack(channels, 1).to(torch.uint8)
    if set(classes) <= set(CAMVID_COLOURS):
        colours[: len(classes)] = torch.tensor([CAMVID_COLOURS[name] for name in classes])
    return colours


def coloured(labels: Tensor, classes: tuple[str, ...]) -> Tensor:
    """Label maps ``(..., H, W)`` in colour, uint8 ``(..., 3, H, W)``."""
    return palette(classes)[labels.cpu().int()].movedim(-1, -3)


def overlay(image: Tensor, labels: Tensor, classes: tuple[str, ...]) -> Tensor:
    """Half the picture, half the colours of its labels; the picture itself where there is none.

    Args:
        image: uint8 ``(..., 3, H, W)``.
        labels: ``(..., H, W)``.
    """
    image, labels = image.cpu(), labels.cpu()
    mixed = ((image.int() + coloured(labels, classes).int() + 1) // 2).to(torch.uint8)
    return torch.where((labels == NONE).unsqueeze(-3), image, mixed)


def legend(labels: Tensor, classes: tuple[str, ...]) -> Tensor:
    """The names of the classes that occur in ``labels``, each beside its colour.

    Returns:
        uint8 ``(3, h, w)``: black on white, a line for each.
    """
    seen = [label for label in labels.unique().tolist() if label != NONE]
    font, colours = ImageFont.load_default(), palette(classes)
    text = 2 * MARGIN + SWATCH
    width = text + max((int(font.getlength(classes[label])) for label in seen), default=0) + MARGIN
    image = Image.new("RGB", (width, LINE * len(seen) + MARGIN), "white")
    draw = ImageDraw.Draw(image)
    for line, label in enumerate(seen):
        top = MARGIN + line * LINE
        box = (MARGIN, top, MARGIN + SWATCH - 1, top + SWATCH - 1)
        draw.rectangle(box, fill=tuple(colours[label].tolist()))
        draw.text((text, top), classes[label], fill="black", font=font)
    return to_tensor(image)
