"""Attack: the ciphertext-only attack, on what the server's memory holds after the first layer.

A keyed layer's map is scrambled under that layer's key. Some of its 64 channels show edges, which
tell little of which positions are neighbours; some are as smooth as the picture, and the attack
finds these by itself. What the machine holds, by scheme:

    published, 256-bit fixed  maps under one key for all images
    per-image                 images under keys of their own, rekeyed for a network with fixed keys
    per-image maps            maps, too, under a key of each image (``models.per_image``)
    folded                    maps in natural order (``models.fold.fold_keys``), as they lie

    python3 feature_maps.py -data_dir DIR -weights PATH -images 20 100 500
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import conf  # noqa: F401
import numpy as np
import torch
from ciphertext_only import best_symmetry
from torch import nn

from experiments.lib import schemes
from experiments.lib.recovery import candidates, correlations, misfit, standardise
from experiments.lib.report import placement, show, unscramble, write
from models import key_network
from models.fold import fold_keys
from models.per_image import PerImageNetwork
from operators import ImageScrambler, PerImageScrambler
from utils import cli
from utils.cli import flags
from utils.data.datasets import DATASETS
from utils.inference.network import deploy, load

SMOOTH_MAPS = (2, 3, 4, 6)  # how many are placed together
PATTERNS = 0.02  # share of all patterns that count as the few strongest


def parse_args():
    parser = schemes.parser(__doc__.splitlines()[0], "feature_maps")
    parser.add_argument(
        "-images",
        type=cli.positive_int,
        nargs="+",
        default=[20, 100, 500],
        help="how many images pass while the attacker watches",
    )
    parser.add_argument("-weights", type=Path, required=True, help="weights of vgg16")
    return parser.parse_args()


def attack(maps: torch.Tensor) -> np.ndarray:
    """Permutation ``(P,)`` from the scrambled maps ``(N, C, H, W)`` of one layer.

    Places the smoothest maps together, as many as ``SMOOTH_MAPS`` says in turn, and takes the
    permutation under which the similarity of all maps comes nearest to depending on displacement
    alone.
    """
    size = tuple(maps.shape[2:])
    planes = [standardise(plane) for plane in maps.flatten(2).transpose(0, 1).numpy()]
    every, alone = correlations(planes)
    smoothest = np.argsort([-smoothness(correlation) for correlation in alone])
    found = []
    for count in SMOOTH_MAPS:
        smooth, _ = correlations([planes[i] for i in smoothest[:count]])
        found += candidates(smooth, size)
    return min(found, key=lambda permutation: misfit(every, permutation, size))


def smoothness(correlation: np.ndarray) -> float:
    """Share of the variance in the few strongest patterns: high where neighbours are alike.

    Any order of the positions gives the same, so that an attacker can tell it of scrambled maps.

    Args:
        correlation: of positions, ``(P, P)``.
    """
    values = np.linalg.eigvalsh(correlation)  # ascending
    few = max(1, int(PATTERNS * len(values)))
    return float(values[-few:].sum() / values.sum())


class _Seen(Exception):
    """Ends a computation when what was to be seen has been."""


def watch(layer: nn.Module, run: Callable[[], object]) -> torch.Tensor:
    """What ``layer`` gives while ``run`` runs, which goes no further than it."""
    seen = []

    def stop(module, inputs, output):
        seen.append(output)
        raise _Seen

    hook = layer.register_forward_hook(stop)
    try:
        with torch.inference_mode(), contextlib.suppress(_Seen):
            run()
    finally:
        hook.remove()
    return seen[0]


@dataclass(frozen=True)
class View:
    """What one kind of server holds after its first layer, and the truth about it.

    Attributes:
        scheme: the kind of server.
        maps: ``(N, C, H, W)``.
        positions: natural position of what lies at each position, ``(N, H*W)``.
    """

    scheme: str
    maps: torch.Tensor
    positions: np.ndarray


def views(net: nn.Module, images: torch.Tensor) -> Iterator[View]:
    """Run every kind of server.

    Args:
        net: the plain VGG16.
        images: in natural order, preprocessed, ``(N, 3, H, W)``.
    """
    count, size = len(images), tuple(images.shape[2:])
    plane = size[0] * size[1]
    per_image, nonces = PerImageScrambler(size, schemes.SECRET), schemes.nonces(count)
    sent = per_image.scramble(images, nonces)
    one_key = {
        "published": ImageScrambler(size, seed=schemes.SEED),
        "256-bit fixed": per_image.fixed,
        "per-image": per_image.fixed,
    }
    for scheme, scrambler in one_key.items():
        keyed = key_network(net, scrambler)
        received = per_image.rekey(sent, nonces) if scheme == "per-image" else scrambler(images)
        maps = watch(keyed.conv1, lambda net=keyed, x=received: net(x))
        yield View(scheme, maps, keyed.conv1.out_key.expand(count, -1).numpy())
    own = PerImageNetwork(net, per_image)
    keys = schemes.SECRET.permutations(plane, nonces, index=1)
    yield View("per-image maps", watch(own.net.conv1, lambda: own(sent, nonces)), keys.numpy())
    folded = fold_keys(keyed)
    maps = watch(folded.conv1, lambda: folded(received))
    yield View("folded", maps, torch.arange(plane).expand(count, -1).numpy())


def main() -> None:
    args = parse_args()
    flags.writable_folder(args.out_dir, "-out_dir")
    size = DATASETS[args.dataset].image_size
    deployed = deploy("vgg16", load(args.weights, args.dataset), torch.device("cpu"))
    images, _ = schemes.shuffled_images(args, "test", max(args.images))
    rows, shown = [], {"image": images}
    for view in views(deployed.net, deployed.preprocess(images)):
        as_it_lies = placement(np.arange(size[0] * size[1]), view.positions, size[1])["exact"]
        for count in args.images:
            started = time.perf_counter()
            found = attack(view.maps[:count])
            seconds = time.perf_counter() - started
            score, found = best_symmetry(found, view.positions[:count], size)
            row = {"scheme": view.scheme, "images": count} | score
            rows.append(row | {"exact as it lies": as_it_lies, "seconds": seconds})
            show(rows[-1])
        seen = picture(view.maps)
        shown[f"first map, {view.scheme}"] = seen
        shown[f"unscrambled, {view.scheme}"] = unscramble(seen, torch.from_numpy(found))
    write(
        args.out_dir,
        "feature_maps",
        rows,
        "Maps after the first layer only. Shares of positions placed right, the symmetry of the "
        "grid forgiven; as it lies: without any attack.",
        shown,
    )


def picture(maps: torch.Tensor) -> torch.Tensor:
    """The first channel of maps ``(N, C, H, W)`` in grey, uint8 ``(N, 3, H, W)``."""
    first = maps[:, :1]
    low, high = first.amin((2, 3), keepdim=True), first.amax((2, 3), keepdim=True)
    grey = 255 * (first - low) / (high - low).clamp(min=1e-6)
    return grey.to(torch.uint8).expand(-1, 3, -1, -1)


if __name__ == "__main__":
    cli.run(main)
