"""The flags that say on what data a script runs."""

from pathlib import Path

from utils import cli
from utils.cli.parser import Parser
from utils.data.datasets import FOLDER, NAMES
from utils.data.segmentation import MASK_NAMES


def add_data(parser: Parser, names: tuple[str, ...] = NAMES) -> None:
    """Add ``-dataset``, one of ``names``, and ``-data_dir``."""
    folder = ", folder is any tree of class folders" if FOLDER in names else ""
    parser.add_argument(
        "-dataset",
        choices=names,
        default="cifar10",
        help=f"data set; shapes10 is built in{folder}",
    )
    parser.add_argument(
        "-data_dir",
        type=Path,
        default=None,
        help="torchvision's files, or <split>/<class>/<image>; default: data/ in the repository, "
        "into which CIFAR is downloaded",
    )


def add_masks(parser: Parser) -> None:
    """Add ``-dataset``, one for segmentation."""
    parser.add_argument(
        "-dataset",
        choices=MASK_NAMES,
        default="voc2012",
        help="data set; shapes_seg is built in, folder is anyone's images and masks",
    )


def add_mask_dir(parser: Parser) -> None:
    """Add ``-data_dir``, of a data set for segmentation."""
    parser.add_argument(
        "-data_dir",
        type=Path,
        default=None,
        help="folder of the data set: VOCdevkit/VOC2012, or <split>/images/ and <split>/masks/; "
        "default: data/ in the repository, into which VOC is downloaded",
    )


def add_mask_size(parser: Parser) -> None:
    """Add ``-image_size``, which ``-dataset folder`` needs."""
    parser.add_argument(
        "-image_size",
        type=cli.image_size,
        default=None,
        metavar="HxW",
        help="height and width in pixels into which pictures are fitted; default: the data "
        "set's, which folder has not",
    )


def check_masks(parser: Parser, args) -> None:
    """Refuse ``-dataset folder`` without what it needs."""
    if args.dataset == FOLDER and (args.image_size is None or args.data_dir is None):
        parser.error("-dataset folder needs -data_dir DIR and -image_size HxW")


def add_folder(parser: Parser) -> None:
    """Add ``-image_size`` and ``-workers``, which ``-dataset folder`` takes."""
    parser.add_argument(
        "-image_size",
        type=cli.side,
        default=None,
        help="of -dataset folder: side to which images are cropped and resized; default: none",
    )
    parser.add_argument(
        "-workers",
        type=cli.count,
        default=None,
        help="of -dataset folder: processes that decode images; default: none, or, where "
        "images take half of the memory, one for each core",
    )


def check_folder(parser: Parser, args) -> None:
    """Refuse what ``-dataset folder`` lacks, and its flags with another data set."""
    if args.dataset == FOLDER:
        if args.image_size is None or args.data_dir is None:
            parser.error("-dataset folder needs -data_dir DIR and -image_size N")
    elif args.image_size is not None or args.workers is not None:
        parser.error("-image_size and -workers need -dataset folder")


def folder_image_size(args) -> tuple[int, int] | None:
    """``-image_size`` as ``(H, W)``; None for a data set that has its own."""
    size = getattr(args, "image_size", None)
    return (size, size) if isinstance(size, int) else size
