"""Attack: recover the key from images that the attacker knows plain and scrambled.

A scrambled position can only come from positions that show the same colours in every known pair.
Where that leaves one, the key is known there; among several the attack guesses. Chosen images need
no luck: one image of H*W different colours gives the whole key, and as long as H*W <= 256^3 no
attack can do with less than one. The last column tries the key found on an image outside the pairs.

    python3 known_plaintext.py -data_dir DIR -pairs 1 2 5
"""

import conf  # noqa: F401
import numpy as np
import torch

from experiments.lib import schemes
from experiments.lib.report import placement, psnr, unscramble, write
from utils import cli
from utils.cli import flags
from utils.data.datasets import DATASETS

TRIALS = 20
EXAMPLES = 6  # images of the figure


def parse_args():
    parser = schemes.parser(__doc__.splitlines()[0], "known_plaintext")
    parser.add_argument(
        "-pairs", type=cli.positive_int, nargs="+", default=[1, 2, 5], help="known pairs"
    )
    return parser.parse_args()


def attack(images: torch.Tensor, scrambled: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Match positions by their colours in all pairs.

    Args:
        images: known images, uint8 ``(M, 3, H, W)``.
        scrambled: the same as the server received them.

    Returns:
        The key ``(P,)`` as far as known, guessed elsewhere, and which positions are certain,
        ``(P,)``.
    """
    plain, seen = (x.flatten(2).flatten(0, 1).T.contiguous().numpy() for x in (images, scrambled))
    # positions with equal colours get equal numbers: (P,) each
    _, colour = np.unique(np.concatenate([plain, seen]), axis=0, return_inverse=True)
    colour_of_plain, colour_of_seen = np.split(colour.ravel(), 2)
    by_plain, by_seen = (np.argsort(c, kind="stable") for c in (colour_of_plain, colour_of_seen))
    key = np.empty_like(by_plain)
    key[by_seen] = by_plain  # if one key made all pairs, both lists show the same colours
    counts = np.bincount(colour_of_plain, minlength=colour.max() + 1)
    return key, counts[colour_of_seen] == 1


def chosen_image(size: tuple[int, int]) -> torch.Tensor:
    """An image whose pixels all have different colours, uint8 ``(1, 3, H, W)``."""
    number = torch.arange(size[0] * size[1])
    channels = torch.stack([number % 256, number // 256 % 256, number // 65536])
    return channels.reshape(1, 3, *size).to(torch.uint8)


def main() -> None:
    args = parse_args()
    flags.writable_folder(args.out_dir, "-out_dir")
    size = DATASETS[args.dataset].image_size
    images, _ = schemes.shuffled_images(args, "test", TRIALS * max(args.pairs) + 1)
    rows, shown = [], {"image": images[1:]}
    for name, make in schemes.SCHEMES.items():
        scheme = make(size)
        for count in args.pairs:
            trials = [images[t * count :][: count + 1] for t in range(TRIALS)]
            rows.append({"scheme": name, "known pairs": str(count)} | _average(scheme, trials))
        trials = [torch.cat([chosen_image(size), x[None]]) for x in images[:TRIALS]]
        rows.append({"scheme": name, "known pairs": "1 chosen"} | _average(scheme, trials))
        scrambled, recovered = example(scheme, images[: 1 + EXAMPLES])
        shown |= {f"scrambled, {name}": scrambled, f"recovered, {name}": recovered}
    write(
        args.out_dir,
        "known_plaintext",
        rows,
        f"Known pairs, mean of {TRIALS} trials. Share of the key that is certain, that is right "
        "with the rest guessed (of the first pair's key), and what the key found does to an image "
        "outside the pairs. The attack matches pixels; single values have none to match. The "
        "figure shows other images, recovered with what one known pair gave away.",
        shown,
    )


def example(scheme: schemes.Scheme, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Know the first of images ``(1 + N, 3, H, W)``; the others scrambled, and what it opens."""
    scrambled = scheme.scramble(images)
    key, _ = attack(images[:1], scrambled[:1])
    return scrambled[1:], unscramble(scrambled[1:], torch.from_numpy(key))


def _average(scheme: schemes.Scheme, trials: list[torch.Tensor]) -> dict[str, float]:
    """Attack all but the last image of each trial and try the key on the last."""
    scores = []
    for images in trials:
        scrambled, positions = scheme.scramble(images), scheme.positions(len(images)).numpy()
        key, certain = attack(images[:-1], scrambled[:-1])
        other = placement(key, positions[-1], images.shape[3])["exact"]
        recovered = unscramble(scrambled[-1:], torch.from_numpy(key))
        right = placement(key, positions[0], images.shape[3])["exact"]
        sure = (certain & (key == positions[0])).mean()
        scores.append([sure, right, other, psnr(images[-1:], recovered)])
    columns = ("certain and right", "right", "right on another image", "PSNR")
    return dict(zip(columns, np.mean(scores, axis=0).tolist(), strict=True))


if __name__ == "__main__":
    cli.run(main)
