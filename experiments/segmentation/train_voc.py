"""Train a network for segmentation on PASCAL VOC or another data set, plain or on scrambled images.

python3 train_voc.py -net "unet" -dataset "voc2012" -epochs 100 -save_weights -gpu
python3 train_voc.py -net "unet" -dataset "camvid" -data_dir DIR -preset unet-cpu -save_weights
python3 train_voc.py -net "unet" -dataset "camvid" -data_dir DIR -save_weights -resume latest
python3 train_voc.py -net "unet_permuted" -dataset "shapes_seg" -permute -crop_size 48x64
"""

import conf  # noqa: F401

from experiments.lib import training
from utils import cli
from utils.cli import flags
from utils.data.segmentation import mask_spec
from utils.training.segmentation import SEGMENTATION_PRESETS, Segmentation


def parse_args():
    parser = cli.Parser("Train a network for segmentation, on plain or on scrambled images.")
    flags.add_network(parser, "unet")
    flags.add_masks(parser)
    flags.add_mask_dir(parser)
    flags.add_mask_size(parser)
    parser.add_argument("-permute", action="store_true", help="scramble the images with the key")
    flags.add_per_image(parser)
    flags.add_key(parser)
    flags.add_backend(parser)
    flags.add_device(parser)
    flags.add_recipe(
        parser,
        "unet-cpu",
        SEGMENTATION_PRESETS,
        flags.SEGMENTATION_FLAGS,
        "experiments/segmentation/README.md",
    )
    training.add_flags(
        parser, "the data set's val split, or one of the training images where val is tested on"
    )
    args = parser.parse_args()
    training.check_flags(parser, args)
    flags.check_masks(parser, args)
    return args


def main() -> None:
    args = parse_args()
    training.run(
        args,
        flags.recipe_from(args, SEGMENTATION_PRESETS),
        Segmentation(),
        lambda run: mask_spec(run.dataset, run.data_dir, run.image_size).image_size,
    )


if __name__ == "__main__":
    cli.run(main)
