"""What every attack shares: the repository on the path, the schemes under attack, their images.

An attacker sees what the server's network cable carries: scrambled images, and with per-image keys
their nonces. The keys of this module are drawn from fixed seeds so that a measurement can be
repeated; no attack is given them.
"""

import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from operators import ImageScrambler, Key, PerImageScrambler  # noqa: E402
from utils import cli, options  # noqa: E402
from utils.data import load_split  # noqa: E402

RESULTS = Path(__file__).resolve().parent / "results"
SECRET = Key(bytes(range(32)))

Scheme = Callable[[torch.Tensor], torch.Tensor]


def published(image_size: tuple[int, int]) -> Scheme:
    """The paper's: one permutation for all images, from a 32-bit seed."""
    return ImageScrambler(image_size, seed=1312)


def fixed_key(image_size: tuple[int, int]) -> Scheme:
    """One permutation for all images, from a 256-bit key."""
    return ImageScrambler(image_size, secret=SECRET)


def per_image(image_size: tuple[int, int]) -> Scheme:
    """A permutation of the pixels for each image."""
    scrambler = PerImageScrambler(image_size, SECRET)
    return lambda images: scrambler.forward(images, _nonces(len(images)))


def per_image_values(image_size: tuple[int, int]) -> Scheme:
    """A permutation of the values for each image, half of them inverted."""
    scrambler = PerImageScrambler(image_size, SECRET, values=True)
    return lambda images: scrambler.forward(images, _nonces(len(images)))


def unscrambled(image_size: tuple[int, int]) -> Scheme:
    """No scrambling: what the attack would reach at best."""
    return lambda images: images


SCHEMES = {
    "published": published,
    "256-bit fixed": fixed_key,
    "per-image": per_image,
    "per-image values": per_image_values,
}


def _nonces(count: int) -> list[bytes]:
    """Different for every image of a call, the same in every run."""
    return [index.to_bytes(16, "little") for index in range(count)]


def positions_seen(scheme: Scheme, image_size: tuple[int, int], count: int) -> torch.Tensor:
    """Where each scrambled pixel of ``count`` images comes from: int64 ``(count, H*W)``.

    For judging an attack, not for the attack. With single values scrambled, the position of the
    value that is now in the first channel.
    """
    height, width = image_size
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    plane = (rows * width + columns).expand(count, 3, height, width)
    if height * width > 256 * 256:
        raise ValueError(f"positions are marked by two bytes, got {height}x{width} pixels")
    # two passes with the same nonces, so that uint8 images can carry positions of two bytes
    low = scheme((plane % 256).to(torch.uint8)).long()
    high = scheme((plane // 256).to(torch.uint8)).long()
    return (low + 256 * high)[:, 0].flatten(1)


def parser(description: str, name: str) -> cli.Parser:
    """A command line with the flags that all attacks have."""
    built = cli.Parser(description)
    options.add_data(built)
    built.add_argument(
        "-out_dir", type=Path, default=RESULTS / name, help="folder for JSON, table and pictures"
    )
    return built


def shuffled_images(args, split: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``count`` images and labels of a split in a fixed random order (files come by class)."""
    data = load_split(args.dataset, split, args.data_dir)
    if count > len(data):
        raise cli.UserError(f"{args.dataset} has {len(data)} {split} images, {count} are needed")
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:count]
    return data.images[order], data.labels[order]
