"""The flags that say which network runs, with what weights, where, and how it computes."""

from argparse import ArgumentTypeError
from pathlib import Path

import models
from operators import BACKENDS
from utils.cli.parser import Parser
from utils.io import checkpoint


def add_network(parser: Parser, net: str = "vgg16") -> None:
    """Add ``-net``."""
    variants = (models.KEYED_SUFFIX, "_basic", "_adapted", "_adapted_le")
    names = [name for name in models.names() if not name.endswith(variants)]
    parser.add_argument(
        "-net",
        type=network,
        default=net,
        metavar="NET",
        help=f"network: {', '.join(names)} (models/README.md has their variants), "
        "torchvision:NAME, timm:NAME, or PATH.py:FACTORY, which RUNS that file and calls "
        "FACTORY(num_classes=K); "
        f"{models.KEYED_SUFFIX} appended: its keyed twin",
    )


def network(text: str) -> str:
    """The name of a network, as a type for argparse; a file that it names is run."""
    try:
        return models.check_name(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error


def plain_network(text: str) -> str:
    """The name of a network that is not keyed: its keyed twin is what is measured beside it."""
    name = network(text)
    if models.is_keyed(name):
        raise ArgumentTypeError(f"expected a plain network, got {text!r}")
    return name


def add_backend(parser: Parser) -> None:
    """Add ``-backend``."""
    parser.add_argument(
        "-backend",
        choices=BACKENDS,
        default="auto",
        metavar="NAME",
        help="of keyed layers: deform is the paper's deformable convolution, gather reorders "
        "pixels around an ordinary one, triton is a GPU kernel that does both, auto is gather",
    )


def check_backend(parser: Parser, args, keyed: bool) -> None:
    """Refuse a backend where no layer is ``keyed``, and one for GPUs on the CPU."""
    if args.backend == "triton" and not args.gpu:
        parser.error("-backend triton needs -gpu")
    if args.backend != "auto" and not keyed:
        parser.error(f"-backend {args.backend} needs a keyed network, got -net {args.net}")


def add_device(parser: Parser) -> None:
    """Add ``-gpu``."""
    parser.add_argument("-gpu", action="store_true", help="run on a CUDA GPU instead of the CPU")


def add_weights(parser: Parser, checkpoint_dir: Path) -> None:
    """Add ``-weights`` and ``-checkpoint_dir``."""
    parser.add_argument(
        "-weights",
        type=Path,
        default=None,
        help="checkpoint or bare state_dict; default: the newest run of this net",
    )
    parser.add_argument(
        "-checkpoint_dir", type=Path, default=checkpoint_dir, help="folder of all runs' weights"
    )


def weights_from(args) -> Path:
    """The weights that ``args`` names, or those of the newest run of its network."""
    plain = args.net.removesuffix(models.KEYED_SUFFIX)
    return args.weights or checkpoint.newest_weights(args.checkpoint_dir, plain, args.net)
