"""Attack: try every key. Measures how fast, and what that means for seeds and 256-bit keys.

A scrambled image betrays the right key without any known plaintext: restored by it, neighbouring
pixels are alike, restored by a wrong one they are not. The attack restores one image by each seed
and keeps the smoothest.

    python3 key_search.py -data_dir DIR -seconds 60
"""

import time

import common
import numpy as np
import torch
from report import write

from operators import ImageScrambler, KeyStream
from utils import cli, options
from utils.data import DATASETS

YEAR = 365.25 * 24 * 3600


def parse_args():
    parser = common.parser(__doc__.splitlines()[0], "key_search")
    parser.add_argument(
        "-seconds", type=cli.positive_float, default=60.0, help="how long to measure the rate"
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


def main() -> None:
    args = parse_args()
    options.writable_folder(args.out_dir, "-out_dir")
    size = DATASETS[args.dataset].image_size
    images, _ = common.shuffled_images(args, "test", 1)
    step, tried, found = 1000, 0, None
    hidden = 7777  # the attack meets it on its way
    scrambled = ImageScrambler(size, seed=hidden)(images)[0]
    started, best = time.process_time(), np.inf
    while time.process_time() - started < args.seconds or tried <= hidden:
        seed, rough = attack(scrambled, range(tried, tried + step))
        if rough < best:
            best, found = rough, seed
        tried += step
    rate = tried / (time.process_time() - started)
    rows = [
        {
            "key": name,
            "keys": f"2^{bits}",
            "seconds on one core": f"{2.0**bits / rate:.2g}",
            "years on one core": f"{2.0**bits / rate / YEAR:.2g}",
            "years on 10,000 cores": f"{2.0**bits / rate / YEAR / 10_000:.2g}",
        }
        for name, bits in (("seed", 32), ("no seed, published stream", 128), ("key file", 256))
    ]
    verdict = "found" if found == hidden else "NOT found"
    write(
        args.out_dir,
        "key_search",
        rows,
        f"Exhaustive search from one scrambled image: {rate:,.0f} seeds per second of CPU time on "
        f"one core in Python; among {tried:,} seeds the right one was {verdict}. Times are for "
        "trying all keys, extrapolated from that rate.",
    )


if __name__ == "__main__":
    cli.run(main)
