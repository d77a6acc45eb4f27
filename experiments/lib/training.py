"""What the scripts that train share: the flags of a run, where it starts, its key."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

import models
from experiments.conf import CHECKPOINT_DIR, LOG_DIR
from operators import BlockCipher, ImageScrambler, SecretKey
from utils import cli
from utils.cli import flags
from utils.io import checkpoint
from utils.runtime import distributed
from utils.runtime.allocator import keep_freed_memory
from utils.runtime.errors import UserError
from utils.training.options import SELECTIONS, RunOptions
from utils.training.recipe import Recipe
from utils.training.run import train
from utils.training.seeds import train_seeds
from utils.training.task import Task


def add_flags(parser: cli.Parser, validation: str) -> None:
    """Add the flags that say where a run starts and what it leaves behind.

    Args:
        validation: what ``-select validation`` chooses by.
    """
    start = parser.add_argument_group("where to start")
    start.add_argument(
        "-load_weights",
        action="store_true",
        help="fine-tune: start from -weights",
    )
    start.add_argument(
        "-weights",
        type=Path,
        default=None,
        help="checkpoint or bare state_dict; default: the newest run of this net",
    )
    start.add_argument(
        "-resume",
        default=None,
        metavar="PATH|latest",
        help="continue a run exactly; latest: the newest of this net (default: none)",
    )
    seeds = start.add_mutually_exclusive_group()
    seeds.add_argument(
        "-train_seed",
        type=cli.seed,
        default=0,
        help="of weights, order, augmentation and dropout; not a key",
    )
    seeds.add_argument(
        "-seeds",
        type=cli.seed_list,
        default=None,
        metavar="N,N,...",
        help="train once with each as -train_seed; report mean and deviation (default: one run)",
    )

    results = parser.add_argument_group("results")
    results.add_argument(
        "-save_weights",
        action="store_true",
        help="write checkpoints and run.json, as -resume always does",
    )
    results.add_argument(
        "-save_every",
        type=cli.count,
        default=0,
        help="also write a checkpoint every N steps within an epoch",
    )
    results.add_argument(
        "-select",
        choices=SELECTIONS,
        default="last",
        help=f"epoch that is reported: the last, the best on {validation}, or, as published, the "
        "best on the test images",
    )
    results.add_argument(
        "-val_fraction",
        type=cli.fraction,
        default=None,
        help="part of the training images in the validation split (default: 0.1)",
    )
    results.add_argument(
        "-deterministic",
        action="store_true",
        help="same seeds, same weights, on a GPU, too; slower",
    )
    results.add_argument(
        "-checkpoint_dir", type=Path, default=CHECKPOINT_DIR, help="folder of all runs' weights"
    )
    results.add_argument(
        "-log_dir", type=Path, default=LOG_DIR, help="folder of all runs' TensorBoard logs"
    )


def check_flags(parser: cli.Parser, args) -> None:
    """Refuse flags of a run that do not go together."""
    if args.weights is not None and not args.load_weights:
        parser.error("-weights needs -load_weights")
    if args.resume == "":
        parser.error("-resume: expected a checkpoint or latest, got ''")
    if args.load_weights:
        flags.check_init(parser, args)
    if args.load_weights and args.resume:
        parser.error("-resume continues a run and -load_weights starts one; give one of them")
    if args.seeds is not None and args.resume:
        parser.error("-resume continues one run and -seeds starts several; give one of them")
    if args.val_fraction is not None and args.select != "validation":
        parser.error("-val_fraction needs -select validation")
    if args.val_fraction == 0:
        parser.error("-val_fraction: expected a number in (0, 1), got 0")
    saving = args.save_weights or args.resume
    if args.select != "last" and not saving:
        parser.error(f"-select {args.select} needs -save_weights, to go back to the best epoch")
    if args.save_every and not saving:
        parser.error("-save_every needs -save_weights")
    flags.check_backend(parser, args, models.is_keyed(args.net))
    flags.check_per_image(parser, args)
    flags.check_key(parser, args, args.permute)


def run(
    args, recipe: Recipe, task: Task, image_size_of: Callable[[RunOptions], tuple[int, int]]
) -> None:
    """Train as the flags say, once or with several seeds, in one process or in a group.

    Args:
        args: the command line, checked.
        recipe: how.
        task: what is learned.
        image_size_of: the size of a run's images, which a key is for.
    """
    device = distributed.device_of(args.gpu)
    flags.writable_folder(args.log_dir, "-log_dir")
    keep_freed_memory()
    if args.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
        torch.use_deterministic_algorithms(True)
    with distributed.process_group(device):
        weights, resume = distributed.broadcast(lambda: _start(args))
        options = flags.run_options(args, weights=weights, resume=resume, save=args.save_weights)
        scrambler = per_image = None
        if args.permute:
            image_size = image_size_of(options)
            given = args.seed is not None or args.key is not None
            scrambler, key = distributed.broadcast(
                lambda: _key(args, resume or weights, image_size)
            )
            options = options if given else replace(options, run_key=key)
            per_image = distributed.broadcast(lambda: flags.per_image_from(args, image_size))
        train_one = partial(
            train,
            recipe=recipe,
            scrambler=scrambler,
            device=device,
            per_image=per_image,
            task=task,
        )
        if args.seeds is None:
            train_one(options)
        else:
            train_seeds(args.seeds, options, task.score, train_one)
        if args.permute and distributed.is_main_process():
            flags.warn_of_few_keys(args, scrambler.image_size)


def _key(
    args, start: Path | None, image_size: tuple[int, int]
) -> tuple[ImageScrambler | BlockCipher, SecretKey | None]:
    """What scrambles the images, and its key unless that is a seed: given, found, or drawn."""
    flags.take_run_key(args, start)
    if args.seed is not None:
        return flags.scrambler_from(args, image_size), None
    if args.key is None and args.resume:
        raise UserError(
            f"-resume {start}: has no {checkpoint.KEY} beside it; give the run's -key or -seed"
        )
    key = SecretKey.generate() if args.key is None else flags.load_key(args.key)
    return flags.scrambler_from(args, image_size, key), key


def _start(args) -> tuple[Path | None, Path | None]:
    """The weights to fine-tune and the checkpoint to resume, where asked for."""
    weights, resume = args.weights, None
    if args.load_weights and weights is None:
        weights = checkpoint.newest_weights(args.checkpoint_dir, args.net)
    if args.resume == "latest":
        resume = checkpoint.newest(args.checkpoint_dir, args.net)
    elif args.resume:
        resume = Path(args.resume)
    return weights, resume
