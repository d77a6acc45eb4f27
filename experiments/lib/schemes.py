"""What every attack shares: its flags, the schemes under attack, their images.

An attacker sees what the server's network cable carries: scrambled images, and with per-image keys
their nonces. The keys of this module are drawn from fixed seeds so that a measurement can be
repeated; no attack is given them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from experiments.conf import ROOT
from operators import ImageScrambler, PerImageScrambler, SecretKey
from utils import cli
from utils.cli import flags
from utils.data.datasets import DATASETS, load_split
from utils.runtime.errors import UserError

RESULTS = ROOT / "experiments" / "attacks" / "results"
SEED = 1312
SECRET = SecretKey(bytes(range(32)))


@dataclass(frozen=True)
class Scheme:
    """A way to scramble, and its truth, which judges an attack and is not given to it.

    Attributes:
        scramble: uint8 images ``(N, 3, H, W)`` to what the server receives.
        positions: ``N`` to where the pixel at each scrambled position comes from, ``(N, H*W)``;
            with single values scrambled, where the value in the first channel comes from.
    """

    scramble: Callable[[torch.Tensor], torch.Tensor]
    positions: Callable[[int], torch.Tensor]


def nonces(count: int, first: int = 0) -> list[bytes]:
    """One nonce per image, its number from ``first`` on, the same in every run."""
    return [index.to_bytes(16, "little") for index in range(first, first + count)]


def _one_key(scrambler: ImageScrambler) -> Scheme:
    return Scheme(scrambler, lambda count: scrambler.key.expand(count, -1))


def _key_per_image(image_size: tuple[int, int], values: bool) -> Scheme:
    scrambler = PerImageScrambler(image_size, SECRET, values)
    plane = image_size[0] * image_size[1]

    def positions(count: int) -> torch.Tensor:
        keys = SECRET.permutations(3 * plane if values else plane, nonces(count))
        return keys[:, :plane] % plane

    return Scheme(lambda images: scrambler.scramble(images, nonces(len(images))), positions)


SCHEMES: dict[str, Callable[[tuple[int, int]], Scheme]] = {
    "published": lambda size: _one_key(ImageScrambler(size, seed=SEED)),
    "256-bit fixed": lambda size: _one_key(ImageScrambler(size, secret=SECRET)),
    "per-image": lambda size: _key_per_image(size, values=False),
    "per-image values": lambda size: _key_per_image(size, values=True),
}


def parser(description: str, name: str) -> cli.Parser:
    """A command line with the flags that all attacks have."""
    built = cli.Parser(description)
    flags.add_data(built, names=tuple(DATASETS))
    built.add_argument(
        "-out_dir", type=Path, default=RESULTS / name, help="folder for JSON, table and pictures"
    )
    return built


def add_schemes(built: cli.Parser) -> None:
    """Add ``-scheme``."""
    built.add_argument(
        "-scheme", choices=SCHEMES, nargs="+", default=list(SCHEMES), help="schemes to attack"
    )


def shuffled_images(args, split: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``count`` images and labels of a split in a fixed random order (files come by class)."""
    data = load_split(args.dataset, split, args.data_dir)
    if count > len(data):
        raise UserError(f"{args.dataset} has {len(data)} {split} images, {count} are needed")
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:count]
    return data.images[order], data.labels[order]
