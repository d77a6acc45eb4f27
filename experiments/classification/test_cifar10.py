"""Test a classifier on every test image (paper, table 1), with the key, without it, or plain.

    python3 test_cifar10.py -net "vgg16" -dataset "cifar10" -b 64 -seed 1312 -weights PATH
    python3 test_cifar10.py -net "vgg16_permuted" -dataset "cifar10" -permute -b 64 -seed 1312 \\
        -weights PATH
"""

import conf  # noqa: F401

from experiments.lib import testing
from models import is_keyed
from utils import cli
from utils.cli import flags
from utils.data.datasets import load_split
from utils.inference.evaluation import all_logits, count_correct
from utils.runtime.device import amp_is_on


def parse_args():
    parser = cli.Parser("Test a classifier on every image of the test set.")
    flags.add_network(parser)
    flags.add_data(parser)
    flags.add_cipher(parser)
    testing.add_flags(parser)
    args = parser.parse_args()
    testing.check_keys(parser, args)
    flags.check_cipher(parser, args, args.permute, is_keyed(args.net))
    return args


def main() -> None:
    args = parse_args()
    flags.writable_file(args.out, "-out")
    subject = testing.set_up(args)
    amp = amp_is_on(args.amp, subject.device)
    net, preprocess = subject.deployed.net, subject.deployed.preprocess
    data = load_split(args.dataset, "test", args.data_dir, subject.spec)
    logits = all_logits(net, preprocess, data, args.b, subject.device, amp)
    correct = count_correct(logits, data.labels)
    accuracy = correct / len(data)
    print(f"Accuracy: {accuracy:.2%} ({correct}/{len(data)})")
    testing.report(args, subject, {"accuracy": accuracy, "correct": correct}, len(data))


if __name__ == "__main__":
    cli.run(main)
