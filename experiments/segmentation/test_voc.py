"""Test a network for segmentation on every test image, with the key, without it, or plain.

    python3 test_voc.py -net "unet" -dataset "camvid" -data_dir DIR -weights PATH
    python3 test_voc.py -net "unet_permuted" -dataset "camvid" -data_dir DIR -permute -seed 1312 \\
        -weights PATH

Predictions are compared with each mask at the mask's own size. A keyed network returns its label
maps scrambled, and the client's key restores them before they are compared.
"""

import conf  # noqa: F401

from experiments.lib import testing
from utils import cli
from utils.cli import flags
from utils.data.segmentation import load_masks
from utils.inference.evaluation import all_labels
from utils.inference.segmentation_metrics import confusion_matrix, scores
from utils.runtime.device import amp_is_on


def parse_args():
    parser = cli.Parser("Test a network for segmentation on every image of the test set.")
    flags.add_network(parser, "unet")
    flags.add_masks(parser)
    flags.add_mask_dir(parser)
    testing.add_flags(parser, batch=8)
    args = parser.parse_args()
    testing.check_keys(parser, args)
    return args


def main() -> None:
    args = parse_args()
    flags.writable_file(args.out, "-out")
    subject = testing.set_up(args, maps=True)
    amp = amp_is_on(args.amp, subject.device)
    net, preprocess = subject.deployed.net, subject.deployed.preprocess
    data = load_masks(args.dataset, "test", args.data_dir, spec=subject.spec)
    restore = None if subject.label_keys is None else subject.label_keys.restore
    maps = all_labels(net, preprocess, data, args.b, subject.device, amp, restore=restore)
    found = scores(confusion_matrix(maps, data))
    for name, iou in zip(data.classes, found["iou"], strict=True):
        print(f"{name:<16}{'-' if iou is None else f'{iou:7.2%}'}")
    print(
        f"Mean IoU: {found['miou']:.2%}, pixel accuracy {found['pixel_accuracy']:.2%} "
        f"({len(data)} images)"
    )
    testing.report(args, subject, found | {"classes": list(data.classes)}, len(data))


if __name__ == "__main__":
    cli.run(main)
