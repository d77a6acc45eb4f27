"""A horizontal bar chart as a PNG, drawn with Pillow alone."""

import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from utils.io.atomic import write_atomically

COLOURS = ("#4c72b0", "#55a868", "#c44e52", "#8172b2", "#ccb974", "#64b5cd", "#8c8c8c")
ROW, GAP, LEFT, PLOT, MARGIN = 24, 16, 250, 560, 24


def bar_chart(path: Path, title: str, groups: dict[str, dict[str, float]]) -> None:
    """Draw groups of bars on a logarithmic axis with a line at 1.

    Args:
        path: the PNG to write.
        title: first line of the picture.
        groups: group name to bar name to value above 0; a bar name has the same colour everywhere.
    """
    font, small = ImageFont.load_default(16), ImageFont.load_default(13)
    values = [value for bars in groups.values() for value in bars.values()]
    low, high = math.log(min(0.8, *values) * 0.95), math.log(max(1.25, *values) * 1.1)
    names = list(dict.fromkeys(name for bars in groups.values() for name in bars))
    height = 2 * MARGIN + 40 + sum(ROW * (len(bars) + 1) + GAP for bars in groups.values())
    image = Image.new("RGB", (LEFT + PLOT + 4 * MARGIN, height), "white")
    draw = ImageDraw.Draw(image)

    def x(value: float) -> float:
        return LEFT + PLOT * (math.log(value) - low) / (high - low)

    draw.text((MARGIN, MARGIN), title, "black", font)
    y = MARGIN + 40
    draw.line([(x(1), y), (x(1), height - MARGIN)], "#444444")
    for group, bars in groups.items():
        draw.text((MARGIN, y), group, "black", small)
        y += ROW
        for name, value in bars.items():
            draw.text((MARGIN + 16, y + 2), name, "#222222", small)
            left, right = sorted((x(1), x(value)))
            colour = COLOURS[names.index(name) % len(COLOURS)]
            draw.rectangle([left, y + 2, max(right, left + 1), y + ROW - 4], fill=colour)
            draw.text((max(right, x(1)) + 6, y + 2), f"{value:.2f}x", "#222222", small)
            y += ROW
        y += GAP
    write_atomically(path, lambda file: image.save(file, format="PNG"))
