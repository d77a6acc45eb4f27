"""One way to report an attack: scores, a JSON file, a Markdown table and a PNG figure."""

import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from torchvision.utils import make_grid

from experiments.lib.results import write_results
from experiments.lib.tables import markdown_table
from utils.io.pictures import save_png

# of the columns that hold no shares
DIGITS = {"PSNR": 1, "seconds": 1, "SSIM": 3, "loss": 3, "chi-square": 0, "entropy": 2}
DIGITS |= dict.fromkeys(("horizontal", "vertical", "diagonal"), 3)


def placement(permutation: np.ndarray, positions: np.ndarray, width: int) -> dict[str, float]:
    """How near a permutation puts pixels to where they belong.

    Args:
        permutation: ``(P,)`` or ``(N, P)``, estimated natural position of each scrambled pixel.
        positions: the same, true.
        width: of the plane, in pixels.

    Returns:
        Shares of pixels placed exactly, and within 1 and 2 pixels in both directions.
    """
    y, x = np.divmod(permutation, width)
    true_y, true_x = np.divmod(positions, width)
    error = np.maximum(np.abs(y - true_y), np.abs(x - true_x))
    return {
        "exact": float((error == 0).mean()),
        "within 1 px": float((error <= 1).mean()),
        "within 2 px": float((error <= 2).mean()),
    }


def unscramble(scrambled: torch.Tensor, permutation: torch.Tensor) -> torch.Tensor:
    """Put pixels ``(N, C, H, W)`` where a permutation ``(P,)``, or one each ``(N, P)``, says."""
    flat = scrambled.flatten(2)
    index = permutation.expand(len(flat), -1)[:, None].expand_as(flat)
    return torch.empty_like(flat).scatter_(-1, index, flat).reshape(scrambled.shape)


def psnr(images: torch.Tensor, recovered: torch.Tensor) -> float:
    """Mean peak signal-to-noise ratio in dB of uint8 images; an exact one counts as 60 dB."""
    error = (images.float() - recovered.float()).square().mean((1, 2, 3))
    return float((10 * (255**2 / error.clamp(min=255**2 / 1e6)).log10()).mean())


def ssim(images: torch.Tensor, recovered: torch.Tensor) -> float:
    """Mean structural similarity of uint8 images' luminance (Wang et al. 2004), windows of 7x7."""
    a, b = (x.float().mean(1, keepdim=True) for x in (images, recovered))

    def average(x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(x, 7, stride=1)

    mean_a, mean_b = average(a), average(b)
    variance_a, variance_b = average(a * a) - mean_a**2, average(b * b) - mean_b**2
    covariance = average(a * b) - mean_a * mean_b
    small, smaller = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    score = (2 * mean_a * mean_b + small) * (2 * covariance + smaller)
    score /= (mean_a**2 + mean_b**2 + small) * (variance_a + variance_b + smaller)
    return float(score.mean())


def write(
    out_dir: Path,
    name: str,
    rows: list[dict],
    about: str,
    pictures: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write ``name.json``, ``name.md`` and, of pictures, ``name.png``, and print the table.

    Args:
        out_dir: a folder, made if it is missing.
        name: of the attack.
        rows: one result each; keys are the columns, in order, shares as numbers in [0, 1].
        about: one line that says what the table shows.
        pictures: what each column of the figure shows, and its images, uint8 ``(N, 3, H, W)``.
    """
    table = markdown(rows)
    text = f"{about}\n\n{table}"
    if pictures is not None:
        text += f"\n![the figure]({name}.png)\n\nColumns: {'; '.join(pictures)}.\n"
    write_results(out_dir, name, {"attack": name, "about": about, "rows": rows}, text)
    if pictures is not None:
        figure(out_dir / f"{name}.png", list(pictures.values()))
    print(table, end="")


def show(row: dict) -> None:
    """Say what was measured, on stderr, while other rows are still to come."""
    cells = (f"{column}: {_cell(column, value)}" for column, value in row.items())
    print(", ".join(cells), file=sys.stderr, flush=True)


def markdown(rows: list[dict]) -> str:
    """The rows as a Markdown table; numbers in the cells' own precision."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return markdown_table(columns, ([_cell(c, row.get(c)) for c in columns] for row in rows))


def _cell(column: str, value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:.{DIGITS[column]}f}" if column in DIGITS else f"{value:.1%}"


def figure(path: Path, columns: list[torch.Tensor], count: int = 6, scale: int = 3) -> None:
    """Write a picture: one row per image, one column for each of uint8 ``(N, 3, H, W)``."""
    cells = torch.stack([column[:count] for column in columns], dim=1).flatten(0, 1)
    cells = cells.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    save_png(make_grid(cells, nrow=len(columns), padding=4, pad_value=255), path)
