"""Export a trained network for machines without this project: ONNX or torch.export.

    python3 export.py -net vgg16_permuted -seed 1312 -weights PATH -out vgg16.onnx

A keyed network is written with the ``gather`` backend: reorderings are Gather, a standard operator,
so the file runs where DeformConv does not. The batch is dynamic. The exported file contains the
key: whoever holds it can read the images it is made for. A cipher that changes values, as etc:4
does, is undone inside it, so that it takes the uint8 picture as it arrives.
"""

from pathlib import Path

import conf
import torch
from torch import nn

import models
from models.fold import fold_batch_norm, fold_keys
from utils import cli
from utils.cli import flags
from utils.data.datasets import NAMES
from utils.inference.exporting import FORMATS, export, run_exported
from utils.inference.network import deploy, load
from utils.io.atomic import write_atomically
from utils.runtime.errors import UserError


def parse_args():
    parser = cli.Parser(
        "Export a trained network to ONNX or torch.export, with a dynamic batch. "
        "The file of a keyed network CONTAINS THE KEY: keep it as safe as the key itself."
    )
    flags.add_network(parser, "vgg16_permuted")
    parser.add_argument(
        "-dataset", choices=NAMES, default="cifar10", help="data set it was trained on"
    )
    flags.add_key(parser)
    flags.add_cipher(parser)
    flags.add_weights(parser, conf.CHECKPOINT_DIR)
    parser.add_argument(
        "-fold_keys",
        action="store_true",
        help="cancel the keys between layers: faster, but every map lies in natural order",
    )
    parser.add_argument(
        "-fold_batch_norm", action="store_true", help="let convolutions absorb batch normalisation"
    )
    parser.add_argument(
        "-out", type=Path, required=True, help="file to write: NAME.onnx or NAME.pt2"
    )
    args = parser.parse_args()
    given = args.seed is not None or args.key is not None
    if not models.is_keyed(args.net) and (given or args.fold_keys):
        parser.error(f"-net {args.net} has no key; -seed, -key and -fold_keys are for keyed nets")
    keyed = models.is_keyed(args.net)
    flags.check_cipher(parser, args, keyed, keyed)
    if args.out.suffix not in FORMATS:
        parser.error(f"-out: expected NAME.onnx or NAME.pt2, got {args.out}")
    return args


def main() -> None:
    args = parse_args()
    flags.writable_file(args.out, "-out")
    weights = flags.weights_from(args)
    if models.is_keyed(args.net):
        flags.take_run_key(args, weights)
        if args.seed is None and args.key is None:
            raise UserError(f"-net {args.net} needs its key: give -seed or -key")
    trained = load(weights, args.dataset)
    spec = trained.spec
    scrambler = flags.scrambler_from(args, spec.image_size)
    deployed = deploy(args.net, trained, torch.device("cpu"), scrambler, backend="gather")
    net = deployed.net
    if args.fold_keys:
        net = fold_keys(net)
    if args.fold_batch_norm:
        net = fold_batch_norm(net, spec.image_size)
    shape = (3, 3, *spec.image_size)
    images, takes = torch.randn(shape), f"in 0..1, less {spec.mean}, divided by {spec.std}"
    if deployed.preprocess.scramble is not None:  # what the cipher did to values is undone first
        net = nn.Sequential(deployed.preprocess, net).eval()
        images, takes = torch.randint(256, shape, dtype=torch.uint8), "as the client sends them"

    kind = args.out.suffix
    file = export(net, images[:2], kind)
    with torch.no_grad():
        exported, expected = run_exported(file, kind, images), net(images)  # another batch
    if exported is not None and not torch.allclose(exported, expected, rtol=1e-3, atol=1e-4):
        raise UserError(f"{FORMATS[kind]}: the exported network differs from {args.net}")
    mode = 0o600 if models.is_keyed(args.net) else 0o644
    write_atomically(args.out, lambda out: out.write(file), mode)

    print(f"{args.out}: {FORMATS[kind]}, {len(file) / 1e6:.1f} MB")
    dtype = str(images.dtype).removeprefix("torch.")
    scrambled = ", scrambled" if models.is_keyed(args.net) else ""
    height, width = spec.image_size
    print(f"input: images (batch, 3, {height}, {width}) {dtype} {takes}{scrambled}")
    checked = "not checked: no onnxruntime" if exported is None else "checked on 3 random images"
    print(f"output: logits (batch, {spec.num_classes}); {checked}")
    if models.is_keyed(args.net):
        print(f"This file contains the key {scrambler.fingerprint}: keep it as safe as the key.")


if __name__ == "__main__":
    cli.run(main)
