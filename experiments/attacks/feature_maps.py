"""Attack: the ciphertext-only layout, on what the server's memory holds between the layers.

After the first convolution the map is scrambled under that layer's key. Its 64 channels say more
about which positions are neighbours than three colours do. With per-image keys at the input the
layers' keys may still be the same for all images, so the rows are those of the network's keys.
A folded network (``fold_keys``) holds maps in their natural order: there is nothing to attack.

    python3 feature_maps.py -data_dir DIR -weights PATH -images 20 100 500
"""

import time
from pathlib import Path

import common
import numpy as np
import torch
from ciphertext_only import best_symmetry
from layout import recover_layout, standardise
from report import write
from torch import nn

from operators import ImageScrambler
from utils import cli, options
from utils.data import DATASETS
from utils.deploy import deploy

SEED = 1312


def parse_args():
    parser = common.parser(__doc__.splitlines()[0], "feature_maps")
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
    """Layout ``(P,)`` from the scrambled maps ``(N, C, H, W)`` of one layer."""
    planes = [standardise(plane) for plane in maps.flatten(2).transpose(0, 1).numpy()]
    return recover_layout(planes, tuple(maps.shape[2:]))


def watch(net: nn.Module, layer: str, images: torch.Tensor) -> torch.Tensor:
    """What a layer gives for preprocessed images ``(N, C, H, W)``, computed no further than it."""

    class Seen(Exception):
        pass

    seen = []

    def stop(module, inputs, output):
        seen.append(output)
        raise Seen

    hook = net.get_submodule(layer).register_forward_hook(stop)
    try:
        for part in images.split(100):
            with torch.inference_mode():
                try:
                    net(part)
                except Seen:
                    continue
    finally:
        hook.remove()
    return torch.cat(seen)


def main() -> None:
    args = parse_args()
    options.writable_folder(args.out_dir, "-out_dir")
    size = DATASETS[args.dataset].image_size
    images, _ = common.shuffled_images(args, "test", max(args.images))
    scrambler = ImageScrambler(size, seed=SEED)
    deployed = deploy(
        "vgg16_permuted", args.dataset, args.weights, scrambler, scrambler, torch.device("cpu")
    )
    stream = scrambler.layer_keys()
    keys = {layer: stream.draw(size[0] * size[1]).numpy() for layer in ("conv1", "conv2")}
    rows = []
    for layer, key in keys.items():
        maps = watch(deployed.net, layer, deployed.preprocess(images))
        for count in args.images:
            started = time.perf_counter()
            score, _ = best_symmetry(attack(maps[:count]), key, size)
            row = {"what the server holds": layer, "images": count} | score
            rows.append(row | {"seconds": time.perf_counter() - started})
            print(rows[-1], flush=True)
    write(
        args.out_dir,
        "feature_maps",
        rows,
        "Scrambled feature maps only. Shares of positions of the layer's map placed right.",
    )


if __name__ == "__main__":
    cli.run(main)
