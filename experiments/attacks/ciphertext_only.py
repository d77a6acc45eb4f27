"""Attack: recover the key from scrambled images alone, none of them known.

Correlation of pixels tells where they belong (see ``experiments/lib/recovery.py``). Rows named
``public images`` give the attacker the correlations of the training set's plain images, the others
nothing at all.
Placement is scored under the symmetry of the grid that suits it best; with public pictures the
attack finds the symmetry itself.

    python3 ciphertext_only.py -data_dir DIR -images 100 500 2000 -weights PATH
"""

import time
from pathlib import Path

import conf  # noqa: F401
import numpy as np
import torch

from experiments.lib import schemes
from experiments.lib.recovery import (
    colour_planes,
    correlations,
    orient,
    recover_permutation,
    symmetries,
)
from experiments.lib.report import placement, psnr, show, ssim, unscramble, write
from utils import cli
from utils.cli import flags
from utils.data.datasets import DATASETS, ImageSet
from utils.inference.evaluation import all_logits, count_correct
from utils.inference.network import deploy, load

PUBLIC_IMAGES = 5000
SCORED_IMAGES = 500


def parse_args():
    parser = schemes.parser(__doc__.splitlines()[0], "ciphertext_only")
    parser.add_argument(
        "-images",
        type=cli.positive_int,
        nargs="+",
        default=[100, 500, 2000],
        help="how many scrambled images the attacker has",
    )
    schemes.add_schemes(parser)
    parser.add_argument(
        "-weights",
        type=Path,
        default=None,
        help="plain vgg16 that classifies recovered images; default: no accuracy is measured",
    )
    return parser.parse_args()


def similarities(images: torch.Tensor) -> tuple[np.ndarray, list[np.ndarray]]:
    """Correlation ``(P, P)`` of positions over images ``(N, 3, H, W)``, and that of each plane."""
    return correlations(colour_planes(images.flatten(2).numpy()))


def attack(scrambled: torch.Tensor) -> np.ndarray:
    """Permutation ``(P,)`` of the plane from scrambled images ``(N, 3, H, W)`` alone."""
    return recover_permutation(*similarities(scrambled), tuple(scrambled.shape[2:]))


def attack_with_public(
    scrambled: torch.Tensor, permutation: np.ndarray, reference: np.ndarray
) -> np.ndarray:
    """What ``attack`` found, improved by the correlations ``(P, P)`` of public pictures."""
    return orient(similarities(scrambled)[0], permutation, tuple(scrambled.shape[2:]), reference)


def best_symmetry(
    permutation: np.ndarray, positions: np.ndarray, size: tuple[int, int]
) -> tuple[dict[str, float], np.ndarray]:
    """Score a permutation under the symmetry that suits it best; the score and the turned one."""
    scored = [(placement(t, positions, size[1]), t) for t in symmetries(permutation, size)]
    return max(scored, key=lambda pair: tuple(pair[0].values()))


def main() -> None:
    args = parse_args()
    flags.writable_folder(args.out_dir, "-out_dir")
    size = DATASETS[args.dataset].image_size
    classify = None if args.weights is None else _classifier(args)
    images, labels = schemes.shuffled_images(args, "test", max(*args.images, SCORED_IMAGES))
    public, _ = schemes.shuffled_images(args, "train", PUBLIC_IMAGES)
    reference, _ = similarities(public)

    rows, shown = [], {"image": images}
    for name in args.scheme:
        scheme = schemes.SCHEMES[name](size)
        scrambled = scheme.scramble(images)
        positions = scheme.positions(len(images)).numpy()
        for count in args.images:
            started = time.perf_counter()
            permutation = attack(scrambled[:count])
            alone = time.perf_counter() - started
            upright = attack_with_public(scrambled[:count], permutation, reference)
            seconds = {"nothing": alone, "public images": time.perf_counter() - started}
            score, permutation = best_symmetry(permutation, positions[:count], size)
            found = {
                "nothing": (score, permutation),
                "public images": (placement(upright, positions[:count], size[1]), upright),
            }
            for knows, (score, permutation) in found.items():
                recovered = unscramble(scrambled, torch.from_numpy(permutation))
                row = {"scheme": name, "images": count, "attacker knows": knows} | score
                row |= _quality(images, recovered, labels, classify)
                rows.append(row | {"seconds": seconds[knows]})
                show(rows[-1])
        shown |= {f"scrambled, {name}": scrambled, f"recovered, {name}": recovered}
    write(
        args.out_dir,
        "ciphertext_only",
        rows,
        "Scrambled images only. Shares of pixels placed right; quality and accuracy of the "
        f"recovered images ({SCORED_IMAGES} of them). With no other knowledge, placements are "
        "scored up to the symmetries of the grid; the correlations of "
        f"{PUBLIC_IMAGES:,} plain training images tell the right one.",
        shown,
    )


def _quality(images, recovered, labels, classify) -> dict[str, float]:
    images, recovered, labels = (x[:SCORED_IMAGES] for x in (images, recovered, labels))
    quality = {"PSNR": psnr(images, recovered), "SSIM": ssim(images, recovered)}
    return quality if classify is None else quality | {"accuracy": classify(recovered, labels)}


def _classifier(args):
    cpu = torch.device("cpu")
    deployed = deploy("vgg16", load(args.weights, args.dataset), cpu)

    def accuracy(images: torch.Tensor, labels: torch.Tensor) -> float:
        data = ImageSet(images, labels, deployed.classes)
        logits = all_logits(deployed.net, deployed.preprocess, data, 100, cpu, quiet=True)
        return count_correct(logits, labels) / len(labels)

    return accuracy


if __name__ == "__main__":
    cli.run(main)
