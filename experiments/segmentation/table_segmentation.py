"""Measure segmentation with and without the key, from plain weights, and what the key costs.

    python3 table_segmentation.py -net "unet" -dataset "camvid" -data_dir DIR -seed 1312 \\
        -weights PATH -out_dir results

Every row is tested on all test pictures, at each mask's own size. Where a network has no key but
gets scrambled pictures, the client puts the labels back where the pixels came from, which is the
best that it can do. The cost is that of one picture at a time. Writes ``table_segmentation.json``
and ``table_segmentation.md``.
"""

import time
from pathlib import Path

import conf
import torch
from torch import Tensor

import models
from experiments.lib.results import write_results
from experiments.lib.segmentation_table import RIGHT_KEY, markdown
from experiments.lib.testing import load_with_key, training_of
from experiments.lib.timing import peak_memory, time_side_by_side
from operators import ImageScrambler
from utils import cli
from utils.cli import flags
from utils.data.masks import MaskSet
from utils.data.segmentation import load_masks
from utils.inference.evaluation import all_labels
from utils.inference.label_keys import LabelKeys
from utils.inference.network import Trained, build, deploy, wrong_scrambler
from utils.inference.segmentation_metrics import confusion_matrix, scores
from utils.io import checkpoint

SIZES = [(180, 240), (512, 512)]


def parse_args():
    parser = cli.Parser("Measure segmentation with and without the key, and what the key costs.")
    parser.add_argument(
        "-net", type=flags.plain_network, default="unet", help="network, in its plain form"
    )
    flags.add_masks(parser)
    flags.add_mask_dir(parser)
    flags.add_key(parser)
    flags.add_backend(parser)
    flags.add_device(parser)
    flags.add_weights(parser, conf.CHECKPOINT_DIR)
    parser.add_argument("-b", type=cli.positive_int, default=8, help="images per batch")
    parser.add_argument(
        "-sizes",
        nargs="+",
        type=cli.image_size,
        default=SIZES,
        metavar="HxW",
        help="sizes of images at which the cost is measured",
    )
    parser.add_argument("-rounds", type=cli.positive_int, default=7, help="rounds that are timed")
    parser.add_argument("-out_dir", type=Path, required=True, help="folder of the results")
    args = parser.parse_args()
    flags.check_backend(parser, args, keyed=True)
    return args


def main() -> None:
    args = parse_args()
    flags.writable_folder(args.out_dir, "-out_dir")
    device, trained, key = load_with_key(args)
    data = load_masks(args.dataset, "test", args.data_dir, spec=trained.spec)
    net = deploy(args.net, trained, device, maps=True).net
    found = label_maps(args, trained, key, data, device)
    table = {
        "net": models.public_name(args.net),
        "dataset": args.dataset,
        "classes": list(data.classes),
        "key": key.fingerprint,
        "weights": trained.path.name,
        "weights_sha256": checkpoint.digest(net.state_dict()),
        "images": len(data),
        "rows": [row(name, maps, found["plain images"], data) for name, maps in found.items()],
        "cost": [cost(args, size, trained.spec.num_classes, device) for size in args.sizes],
        "training": training_of(trained),
    }
    write_results(args.out_dir, "table_segmentation", table, markdown(table))
    print(markdown(table))
    flags.warn_of_few_keys(args, key.image_size)


def label_maps(
    args, trained: Trained, key: ImageScrambler, data: MaskSet, device: torch.device
) -> dict[str, Tensor]:
    """The label maps of each row, uint8 ``(N, H, W)``, as the client has them in the end."""
    keyed = args.net + models.KEYED_SUFFIX

    def maps(net: str, scramble: ImageScrambler | None) -> Tensor:
        backend = args.backend if models.is_keyed(net) else "auto"
        deployed = deploy(net, trained, device, key, scramble, backend, maps=True)
        keys = LabelKeys.of(net, key if scramble is not None else None, None)
        restore = None if keys is None else keys.restore
        return all_labels(deployed.net, deployed.preprocess, data, args.b, device, restore=restore)

    most = torch.cat([truth.flatten() for truth in data.truth]).bincount(minlength=256)[:255]
    plain = maps(args.net, None)
    return {
        "plain images": plain,
        "same weights, scrambled images": maps(args.net, key),
        RIGHT_KEY: maps(keyed, key),
        "keyed network, wrong key": maps(keyed, wrong_scrambler(key.image_size, args.seed)),
        "the most frequent class everywhere": torch.full_like(plain, int(most.argmax())),
    }


def row(name: str, maps: Tensor, plain: Tensor, data: MaskSet) -> dict:
    """Scores, and how many maps, and how much of all pixels, are the plain network's."""
    same = maps == plain
    return {
        "name": name,
        **scores(confusion_matrix(maps, data)),
        "same_maps": int(same.flatten(1).all(1).sum()),
        "same_pixels": float(same.double().mean()),
    }


def cost(args, size: tuple[int, int], num_classes: int, device: torch.device) -> dict:
    """Time and memory of one picture, keyed and plain; the time to key and check the network."""
    key, cpu = ImageScrambler(size, seed=0), torch.device("cpu")
    plain = build(args.net, num_classes, size, None, cpu, maps=True)
    started = time.perf_counter()
    keyed = models.key_network(plain, key, args.backend, scramble_output=True)
    built = time.perf_counter() - started
    images, faster = torch.rand(1, 3, *size), {"memory_format": torch.channels_last}
    inputs = {"plain": images.to(device, **faster), "keyed": key(images).to(device, **faster)}
    nets = {
        name: net.eval().to(device, **faster) for name, net in (("plain", plain), ("keyed", keyed))
    }

    def call(name: str) -> None:
        with torch.inference_mode():
            nets[name](inputs[name])

    calls = {name: lambda name=name: call(name) for name in nets}
    timings = time_side_by_side(calls, dict.fromkeys(calls, "plain"), args.rounds, device)
    return {
        "size": list(size),
        "device": device.type,
        "plain_s": timings["plain"].median,
        "keyed_s": timings["keyed"].median,
        "ratio": timings["keyed"].ratio,
        "rounds": args.rounds,
        "peak_bytes": {name: peak_memory(calls[name], device) for name in calls},
        "build_s": built,
    }


if __name__ == "__main__":
    cli.run(main)
