"""Test a classifier on every test image (paper, table 1), with the key, without it, or plain.

    python3 test_cifar10.py -net "vgg16" -dataset "cifar10" -b 64 -seed 1312 -weights PATH
    python3 test_cifar10.py -net "vgg16_permuted" -dataset "cifar10" -permute -b 64 -seed 1312 \\
        -weights PATH
"""

import time
from pathlib import Path

import conf

from models import is_keyed
from operators import PerImageScrambler, SecretKey
from utils import cli
from utils.cli import flags
from utils.data.datasets import load_split
from utils.inference.evaluation import all_logits, count_correct
from utils.inference.network import (
    check_cipher,
    deploy,
    load,
    per_image_scrambling,
    wrong_scrambler,
)
from utils.io.run_record import write_json
from utils.runtime.allocator import keep_freed_memory
from utils.runtime.device import amp_is_on, select_device


def parse_args():
    parser = cli.Parser("Test a classifier on every image of the test set.")
    flags.add_network(parser)
    flags.add_data(parser)
    parser.add_argument("-permute", action="store_true", help="scramble the images with the key")
    parser.add_argument(
        "-wrong_key",
        action="store_true",
        help="with -permute: scramble with another key than the network's",
    )
    flags.add_cipher(parser)
    flags.add_per_image(parser)
    flags.add_key(parser)
    flags.add_backend(parser)
    flags.add_device(parser)
    flags.add_weights(parser, conf.CHECKPOINT_DIR)
    parser.add_argument("-b", type=cli.positive_int, default=64, help="images per batch")
    flags.add_amp(parser)
    parser.add_argument(
        "-out", type=Path, default=None, help="JSON file for the result; default: none is written"
    )
    args = parser.parse_args()
    flags.check_backend(parser, args, is_keyed(args.net))
    if args.wrong_key and not args.permute:
        parser.error("-wrong_key needs -permute")
    flags.check_per_image(parser, args)
    flags.check_cipher(parser, args, args.permute, is_keyed(args.net))
    flags.check_key(parser, args, args.permute)
    return args


def main() -> None:
    args = parse_args()
    device = select_device(args.gpu)
    keep_freed_memory()
    flags.writable_file(args.out, "-out")
    weights = flags.weights_from(args)
    trained = load(weights, args.dataset)
    image_size = trained.spec.image_size
    if args.permute:
        flags.take_run_key(args, weights)
    scrambler = flags.scrambler_from(args, image_size)
    if args.permute:
        check_cipher(args.net, trained.state, scrambler)
    scramble = scrambler
    if args.wrong_key:
        scramble = wrong_scrambler(image_size, args.seed, scrambler.cipher)
    if args.per_image:
        scramble = _per_image(args, image_size)
    received = scramble if args.permute else None
    deployed = deploy(args.net, trained, device, scrambler, received, args.backend)
    data = load_split(args.dataset, "test", args.data_dir, trained.spec)

    started = time.perf_counter()
    amp = amp_is_on(args.amp, device)
    logits = all_logits(deployed.net, deployed.preprocess, data, args.b, device, amp)
    correct = count_correct(logits, data.labels)
    print(f"Accuracy: {correct / len(data):.2%} ({correct}/{len(data)})")
    if args.out is not None:
        write_json(
            args.out,
            {
                "net": args.net,
                "dataset": args.dataset,
                "accuracy": correct / len(data),
                "correct": correct,
                "images": len(data),
                "permute": args.permute,
                "wrong_key": args.wrong_key,
                "per_image": args.per_image,
                "cipher": scrambler.cipher if args.permute else None,
                "key": scrambler.fingerprint if args.permute else None,
                "parameters": deployed.parameters,
                "seconds": time.perf_counter() - started,
            },
        )
    if args.permute:
        flags.warn_of_few_keys(args, scrambler.image_size)


def _per_image(args, image_size: tuple[int, int]):
    server = flags.per_image_from(args, image_size)
    camera = server
    if args.wrong_key:
        camera = PerImageScrambler(image_size, SecretKey.generate(), block=server.block)
    return per_image_scrambling(camera, server if is_keyed(args.net) else None)


if __name__ == "__main__":
    cli.run(main)
