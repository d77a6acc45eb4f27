"""Train a classifier on CIFAR-10 (paper, section 3), on plain or on scrambled images.

python3 train_cifar10.py -net "vgg16" -dataset "cifar10" -epochs 200 -save_weights -gpu
python3 train_cifar10.py -net "vgg16" -dataset "cifar10" -epochs 200 -permute -save_weights -gpu
python3 train_cifar10.py -net "vgg16" -preset fast -save_weights
python3 train_cifar10.py -net "vgg16" -preset fast -save_weights -resume latest
python3 train_cifar10.py -net "vgg16" -preset fast -permute -per_image -key my.key
torchrun --nproc_per_node=4 train_cifar10.py -net "vgg16" -save_weights -gpu
"""

import conf  # noqa: F401

import models
from experiments.lib import training
from utils import cli
from utils.cli import flags
from utils.data.datasets import DATASETS
from utils.training.task import Classification


def parse_args():
    parser = cli.Parser("Train a classifier on plain or on scrambled images.")
    flags.add_network(parser)
    flags.add_data(parser)
    flags.add_folder(parser)
    parser.add_argument("-permute", action="store_true", help="scramble the images with the key")
    flags.add_cipher(parser)
    flags.add_per_image(parser)
    flags.add_key(parser)
    flags.add_backend(parser)
    flags.add_device(parser)
    flags.add_recipe(parser, preset="published")
    training.add_flags(parser, "a validation split of the training images")
    args = parser.parse_args()
    training.check_flags(parser, args)
    flags.check_folder(parser, args)
    flags.check_cipher(parser, args, args.permute, models.is_keyed(args.net))
    return args


def main() -> None:
    args = parse_args()
    training.run(
        args,
        flags.recipe_from(args),
        Classification(),
        lambda run: run.image_size or DATASETS[run.dataset].image_size,
    )


if __name__ == "__main__":
    cli.run(main)
