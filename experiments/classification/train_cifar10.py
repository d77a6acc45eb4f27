"""Train a classifier on CIFAR-10 (paper, section 3), on plain or on scrambled images.

python3 train_cifar10.py -net "vgg16" -dataset "cifar10" -epochs 200 -save_weights -gpu
python3 train_cifar10.py -net "vgg16" -dataset "cifar10" -epochs 200 -permute -save_weights -gpu
python3 train_cifar10.py -net "vgg16" -preset fast -save_weights
"""

from pathlib import Path

import conf
import torch

from utils import checkpoint, cli, options
from utils.allocator import keep_freed_memory
from utils.data import DATASETS
from utils.training import SELECTIONS, RunOptions, train


def parse_args():
    parser = cli.Parser("Train a classifier on plain or on scrambled images.")
    options.add_network(parser)
    options.add_data(parser)
    parser.add_argument("-permute", action="store_true", help="scramble the images with the key")
    options.add_key(parser)
    options.add_device(parser)
    options.add_recipe(parser, preset="published")

    start = parser.add_argument_group("where to start")
    start.add_argument(
        "-load_weights",
        action="store_true",
        help="fine-tune: start from -weights, or else from the newest run of this net",
    )
    start.add_argument(
        "-weights",
        type=Path,
        default=None,
        help="checkpoint or bare state_dict for -load_weights; default: the newest run of this net",
    )
    start.add_argument(
        "-resume",
        default=None,
        metavar="PATH|latest",
        help="continue the run of this checkpoint exactly; latest: the newest run of this net; "
        "default: a new run",
    )
    start.add_argument(
        "-train_seed",
        type=cli.count,
        default=0,
        help="seed of initial weights, order, augmentation and dropout; not a key",
    )

    results = parser.add_argument_group("results")
    results.add_argument(
        "-save_weights", action="store_true", help="write checkpoints and run.json"
    )
    results.add_argument(
        "-select",
        choices=SELECTIONS,
        default="last",
        help="which epoch is reported: the last, the best on held-out training images, or the best "
        "on the test images (the published habit)",
    )
    results.add_argument(
        "-val_fraction",
        type=cli.fraction,
        default=None,
        help="share of the training images held out under -select validation (default: 0.1)",
    )
    results.add_argument(
        "-deterministic",
        action="store_true",
        help="refuse operations that are not deterministic; slower on a GPU",
    )
    results.add_argument(
        "-checkpoint_dir",
        type=Path,
        default=conf.CHECKPOINT_DIR,
        help="folder of all runs' weights",
    )
    results.add_argument(
        "-log_dir", type=Path, default=conf.LOG_DIR, help="folder of all runs' TensorBoard logs"
    )
    args = parser.parse_args()
    if args.weights is not None and not args.load_weights:
        parser.error("-weights needs -load_weights")
    if args.load_weights and args.resume:
        parser.error("-resume continues a run and -load_weights starts one; give one of them")
    if args.val_fraction is not None and args.select != "validation":
        parser.error("-val_fraction needs -select validation")
    if args.val_fraction == 0:
        parser.error("-val_fraction: expected a number in (0, 1), got 0")
    return args


def main() -> None:
    args = parse_args()
    device = cli.select_device(args.gpu)
    keep_freed_memory()
    torch.use_deterministic_algorithms(args.deterministic)
    weights, resume = args.weights, None
    if args.load_weights and weights is None:
        weights = checkpoint.newest(args.checkpoint_dir, args.net)
    if args.resume:
        latest = args.resume == "latest"
        resume = checkpoint.newest(args.checkpoint_dir, args.net) if latest else Path(args.resume)
    run = RunOptions(
        net=args.net,
        dataset=args.dataset,
        data_dir=args.data_dir,
        permute=args.permute,
        train_seed=args.train_seed,
        weights=weights,
        resume=resume,
        select=args.select,
        val_fraction=0.1 if args.val_fraction is None else args.val_fraction,
        save=args.save_weights,
        checkpoint_dir=args.checkpoint_dir,
        log_dir=args.log_dir,
    )
    scrambler = options.scrambler_from(args, DATASETS[args.dataset].image_size)
    train(run, options.recipe_from(args), scrambler, device)


if __name__ == "__main__":
    cli.run(main)
