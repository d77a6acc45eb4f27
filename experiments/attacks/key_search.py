"""Attack: try every key. Measures how fast, and what that means for seeds and 256-bit keys.

A scrambled image betrays the right key without any known plaintext: restored by it, neighbouring
pixels are alike, restored by a wrong one they are not. The attack restores one image by each seed
and keeps the smoothest.

    python3 key_search.py -data_dir DIR -seconds 60
"""

import time
from collections.abc import Callable

import conf  # noqa: F401
import numpy as np
import torch

from experiments.lib import schemes
from experiments.lib.report import write
from operators import ImageScrambler, KeyStream, SecretKey
from utils import cli
from utils.cli import flags
from utils.data.datasets import DATASETS

YEAR = 365.25 * 24 * 3600
HIDDEN = 7777  # the seed to find ...
SEARCHED = 10_000  # ... among so many


def parse_args():
    parser = schemes.parser(__doc__.splitlines()[0], "key_search")
    parser.add_argument(
        "-seconds", type=cli.positive_float, default=60.0, help="how long to measure the rates"
    )
    return parser.parse_args()


def roughness(scrambled: np.ndarray, key: np.ndarray, width: int) -> float:
    """Mean squared difference of horizontal neighbours after restoring by a key.

    Args:
        scrambled: one channel, float32 ``(P,)``.
        key: ``(P,)``.
        width: of the plane.
    """
    restored = np.empty_like(scrambled)
    restored[key] = scrambled
    steps = np.diff(restored.reshape(-1, width), axis=1).ravel()
    return float(steps @ steps) / steps.size


def attack(scrambled: torch.Tensor, seeds: range) -> tuple[int, float]:
    """The seed whose key restores a scrambled image ``(3, H, W)`` smoothest, and the roughness."""
    luminance = scrambled.float().mean(0).flatten().numpy()
    best = (np.inf, -1)
    for seed in seeds:
        key = KeyStream(seed).draw(luminance.size).numpy()
        best = min(best, (roughness(luminance, key, scrambled.shape[-1]), seed))
    return best[1], best[0]


def rate(scrambled: torch.Tensor, keys: Callable[[int], torch.Tensor], seconds: float) -> float:
    """Keys tried per second of CPU time; ``keys(i)`` derives the one that is tried ``i``-th."""
    luminance = scrambled.float().mean(0).flatten().numpy()
    started, tried = time.process_time(), 0
    while (spent := time.process_time() - started) < seconds or not tried:
        roughness(luminance, keys(tried).numpy(), scrambled.shape[-1])
        tried += 1
    return tried / spent


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for unit, length in (("years", YEAR), ("days", 24 * 3600), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.2g} {unit}"
    return f"{seconds:.2g} seconds"


def main() -> None:
    args = parse_args()
    flags.writable_folder(args.out_dir, "-out_dir")
    size = DATASETS[args.dataset].image_size
    images, _ = schemes.shuffled_images(args, "test", 1)
    scrambler = ImageScrambler(size, seed=HIDDEN)
    scrambled = scrambler(images)
    found, _ = attack(scrambled[0], range(SEARCHED))
    plane = size[0] * size[1]
    seeds = rate(scrambled[0], lambda seed: KeyStream(seed).draw(plane), args.seconds / 2)
    secrets = rate(
        scrambled[0],
        lambda i: SecretKey(i.to_bytes(32, "big")).permutation(plane),
        args.seconds / 2,
    )
    rows = [
        {
            "scheme": name,
            "keys": f"2^{bits}",
            "keys per second": round(speed),
            "one core": duration(2.0**bits / speed),
            "10,000 cores": duration(2.0**bits / speed / 10_000),
        }
        for name, bits, speed in (
            ("published", 32, seeds),
            ("256-bit fixed", 256, secrets),
            ("per-image", 256, secrets),
            ("per-image values", 256, secrets),
        )
    ]
    verdict = "found" if found == HIDDEN else "NOT found"
    write(
        args.out_dir,
        "key_search",
        rows,
        f"Exhaustive search from one scrambled image. Of the seeds below {SEARCHED:,} the right "
        f"one was {verdict}. Times are for trying every key, extrapolated from the measured rate "
        "of a search in Python; other programs and machines are faster by a constant factor.",
        {
            "image": images,
            "scrambled": scrambled,
            "restored by the seed found": ImageScrambler(size, seed=found).unscramble(scrambled),
            "by another seed": ImageScrambler(size, seed=found + 1).unscramble(scrambled),
        },
    )


if __name__ == "__main__":
    cli.run(main)
