"""What the scripts that test a network share: their flags, the network and its keys, the result."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from experiments.conf import CHECKPOINT_DIR
from models import is_keyed, public_name
from operators import BlockCipher, ImageScrambler, PerImageScrambler, SecretKey
from utils import cli
from utils.cli import flags
from utils.data.datasets import DatasetSpec
from utils.inference.label_keys import LabelKeys
from utils.inference.network import (
    Deployed,
    Trained,
    check_cipher,
    deploy,
    load,
    per_image_scrambling,
    wrong_scrambler,
)
from utils.io.run_record import write_json
from utils.runtime.allocator import keep_freed_memory
from utils.runtime.device import select_device
from utils.runtime.errors import UserError


def add_keys(parser: cli.Parser, wrong: bool = True) -> None:
    """Add the flags of a network's weights, its key, and where it runs.

    Args:
        wrong: whether images may be scrambled with another key than the network's.
    """
    parser.add_argument("-permute", action="store_true", help="scramble the images with the key")
    if wrong:
        parser.add_argument(
            "-wrong_key",
            action="store_true",
            help="with -permute: scramble with another key than the network's",
        )
    flags.add_per_image(parser)
    flags.add_key(parser)
    flags.add_backend(parser)
    flags.add_device(parser)
    flags.add_weights(parser, CHECKPOINT_DIR)


def add_flags(parser: cli.Parser, batch: int = 64) -> None:
    """Add the flags of a test, but for those of the network and the data.

    Args:
        batch: the default of ``-b``.
    """
    add_keys(parser)
    parser.add_argument("-b", type=cli.positive_int, default=batch, help="images per batch")
    flags.add_amp(parser)
    parser.add_argument(
        "-out", type=Path, default=None, help="JSON file for the result; default: none is written"
    )


def check_keys(parser: cli.Parser, args) -> None:
    """Refuse flags of ``add_keys`` that do not go together."""
    flags.check_backend(parser, args, is_keyed(args.net))
    if args.wrong_key and not args.permute:
        parser.error("-wrong_key needs -permute")
    flags.check_per_image(parser, args)
    flags.check_key(parser, args, args.permute)


@dataclass(frozen=True)
class Subject:
    """A network that is tested, and how images reach it.

    Attributes:
        deployed: the network with what surrounds it.
        spec: the data that it was trained on.
        scrambler: what it is keyed for.
        camera: what scrambles images; None for plain ones.
        per_image: what scrambles each image under a key of its own; None for one key.
        label_keys: what restores its label maps, where it is to give some; None where they are in
            order.
        device: where it runs.
        started: when it was ready, by ``time.perf_counter``.
    """

    deployed: Deployed
    spec: DatasetSpec
    scrambler: ImageScrambler | BlockCipher
    camera: ImageScrambler | BlockCipher | None
    per_image: PerImageScrambler | None
    label_keys: LabelKeys | None
    device: torch.device
    started: float


def load_with_key(
    args, scrambled: bool = True
) -> tuple[torch.device, Trained, ImageScrambler | BlockCipher]:
    """Where to compute, the weights that the flags name, and what scrambles by their key.

    Args:
        args: the command line, checked.
        scrambled: whether the key of the run that made the weights serves where none is given.
    """
    device = select_device(args.gpu)
    keep_freed_memory()
    weights = flags.weights_from(args)
    if scrambled:
        flags.take_run_key(args, weights)
    trained = load(weights, args.dataset)
    return device, trained, flags.scrambler_from(args, trained.spec.image_size)


def training_of(trained: Trained) -> dict | None:
    """The record of the run that made the weights: in the checkpoint, or beside bare weights."""
    beside = trained.path.with_suffix(".json")
    if "record" in trained.state or not beside.is_file():
        return trained.state.get("record")
    try:
        return json.loads(beside.read_text())
    except OSError as error:
        raise UserError(f"{beside}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{beside}: damaged or no record of a run ({error})") from error


def set_up(args, maps: bool = False) -> Subject:
    """The network that the flags name, ready to be tested.

    Args:
        args: the command line, checked.
        maps: whether it is to give logits for every pixel.
    """
    device, trained, scrambler = load_with_key(args, args.permute)
    image_size = trained.spec.image_size
    if args.permute:
        check_cipher(args.net, trained.state, scrambler)
    camera, per_image = scrambler, flags.per_image_from(args, image_size)
    if args.wrong_key:
        camera = wrong_scrambler(image_size, args.seed, scrambler.cipher)
    scramble = camera
    if per_image is not None:
        server = per_image if is_keyed(args.net) else None
        if args.wrong_key:
            other = SecretKey.generate()
            per_image = PerImageScrambler(image_size, other, block=per_image.block)
        scramble = per_image_scrambling(per_image, server)
    received = scramble if args.permute else None
    keys = None
    if maps and args.permute:
        keys = LabelKeys.of(args.net, scrambler if is_keyed(args.net) else camera, per_image)
    return Subject(
        deployed=deploy(args.net, trained, device, scrambler, received, args.backend, maps),
        spec=trained.spec,
        scrambler=scrambler,
        camera=camera if args.permute else None,
        per_image=per_image,
        label_keys=keys,
        device=device,
        started=time.perf_counter(),
    )


def report(args, subject: Subject, scores: dict, images: int) -> None:
    """Write the result where ``-out`` says, and warn of a key that could be guessed.

    Args:
        args: the command line.
        subject: what was tested.
        scores: what was found, by name.
        images: on how many images.
    """
    if args.out is not None:
        result = {
            "net": public_name(args.net),
            "dataset": args.dataset,
            **scores,
            "images": images,
            "permute": args.permute,
            "wrong_key": args.wrong_key,
            "per_image": args.per_image,
            "cipher": subject.scrambler.cipher if args.permute else None,
            "key": subject.scrambler.fingerprint if args.permute else None,
            "parameters": subject.deployed.parameters,
            "seconds": time.perf_counter() - subject.started,
        }
        write_json(args.out, result)
    warn(args, subject)


def warn(args, subject: Subject) -> None:
    """Say where the key of a subject could be guessed."""
    if args.permute:
        flags.warn_of_few_keys(args, subject.scrambler.image_size)
