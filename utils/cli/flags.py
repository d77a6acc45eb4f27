"""Flags that several scripts share, each written once: its name, default, unit and help."""

import os
import shutil
import sys
import tempfile
from argparse import ArgumentTypeError
from dataclasses import fields, replace
from pathlib import Path

import models
from operators import (
    BACKENDS,
    BlockCipher,
    ImageScrambler,
    PerImageScrambler,
    SecretKey,
    make_scrambler,
)
from operators.block_ciphers import check_pixels, key_bits, parse_cipher
from utils import cli
from utils.cli.parser import Parser
from utils.data.augment import FLIPS
from utils.data.datasets import FOLDER, NAMES
from utils.io import checkpoint
from utils.runtime.device import AMP
from utils.runtime.errors import UserError
from utils.training.recipe import (
    INITS,
    OLD_SCHEDULES,
    OPTIMIZERS,
    PRESETS,
    SCHEDULES,
    Recipe,
)
from utils.training.run import RunOptions

SEED_BITS = 32
FEW_BITS = 80  # keys of so few bits are within reach of who has many machines
AMP_HELP = "bfloat16 autocast; auto: where a short trial finds bfloat16 faster than float32"
PRESETS_PAGE = "experiments/classification/README.md"
RECIPE_FLAGS = {
    "epochs": ("-epochs", cli.positive_int, "epochs to train"),
    "batch_size": ("-b", cli.positive_int, "images per step"),
    "lr": ("-lr", cli.positive_float, "peak learning rate of SGD or AdamW"),
    "warm": ("-warm", cli.non_negative_float, "warm-up: epochs of linear rise to the peak rate"),
    "optimizer": (
        "-optimizer",
        OPTIMIZERS,
        "sgd, adamw, or muon for the convolutions and sgd for the rest",
    ),
    "muon_lr": (
        "-muon_lr",
        cli.positive_float,
        "peak rate of Muon, relative to the weights' norms",
    ),
    "momentum": ("-momentum", cli.fraction, "momentum of SGD"),
    "nesterov": ("-nesterov", cli.switch, "Nesterov's form of momentum"),
    "weight_decay": ("-weight_decay", cli.non_negative_float, "weight decay of SGD or AdamW"),
    "schedule": ("-schedule", SCHEDULES, "learning rate after the warm-up"),
    "milestones": (
        "-milestones",
        cli.fractions,
        "multistep schedule: fractions of the run after which the rate falls, as 0.3,0.6,0.8",
    ),
    "gamma": (
        "-gamma",
        cli.positive_fraction,
        "factor at each milestone of the multistep schedule",
    ),
    "label_smoothing": ("-label_smoothing", cli.fraction, "label smoothing"),
    "ema": ("-ema", cli.fraction, "decay per step of the averaged weights; 0 for no average"),
    "clip": ("-clip", cli.non_negative_float, "largest gradient norm; 0 for no clipping"),
    "init": (
        "-init",
        INITS,
        "initialisation of a fresh network; whiten: the first convolution whitens patches of the "
        "images, the others are identities",
    ),
    "crop": ("-crop", cli.padding, "zero padding in pixels before the random crop"),
    "flip": (
        "-flip",
        FLIPS,
        "mirror a random half of the images, or alternate: a random half in the first epoch, the "
        "others in the second, and so on",
    ),
    "rotation": ("-rotation", cli.degrees, "largest random rotation in degrees"),
    "cutout": ("-cutout", cli.count, "side in pixels of a random square that is blanked"),
    "sizes": (
        "-sizes",
        cli.sides,
        "sides in pixels to which augmented images are shrunk in equal parts of the run, as "
        "16,24,32; the last is the images' own",
    ),
    "depth_kept": (
        "-depth_kept",
        cli.positive_fraction,
        "stochastic depth: probability that a step computes the last residual block, up to 1 for "
        "the first; 1 computes all",
    ),
    "amp": ("-amp", AMP, AMP_HELP),
    "channels_last": ("-channels_last", cli.switch, "channels_last memory format"),
    "compile": ("-compile", cli.switch, "torch.compile, which needs a C++ compiler on a CPU"),
    "sync_bn": ("-sync_bn", cli.switch, "batch-norm over the images of all GPUs, under torchrun"),
}

# fields of a recipe that are read only where another field has this value
READ_WHERE = {
    "muon_lr": ("optimizer", "muon"),
    "milestones": ("schedule", "multistep"),
    "gamma": ("schedule", "multistep"),
}


def add_recipe(parser: Parser, preset: str) -> None:
    """Add ``-preset``, and a flag for each field of a recipe that can be overridden."""
    group = parser.add_argument_group(
        "recipe", f"the preset, and flags that override it; {PRESETS_PAGE} has the presets' values"
    )
    group.add_argument(
        "-preset",
        choices=PRESETS,
        default=preset,
        metavar="NAME",
        help=f"training recipe: {', '.join(PRESETS)}",
    )
    for name, (flag, kind, text) in RECIPE_FLAGS.items():
        options = {"choices": kind} if isinstance(kind, tuple) else {"type": kind, "metavar": "N"}
        if kind is SCHEDULES:
            options["type"] = lambda given: OLD_SCHEDULES.get(given, given)
        if kind is cli.switch:
            options |= {"nargs": "?", "const": True, "metavar": "on|off"}
        elif kind in (cli.fractions, cli.sides):
            options |= {"metavar": "N,N,..."}
        text = f"{text} (default: the preset's)"
        group.add_argument(flag, dest=name, default=None, help=text, **options)


def recipe_from(args) -> Recipe:
    """The preset of ``args`` with the fields that were given as flags.

    Raises:
        UserError: if the warm-up fills the whole run, a multistep schedule has no step, or
            Nesterov's momentum none, if a flag was given that the recipe does not read, or there is
            no compiler to compile with.
    """
    given = {f.name: getattr(args, f.name, None) for f in fields(Recipe)}
    if getattr(args, "resume", None) and given["amp"] is None:
        given["amp"] = "auto"  # that of the run
    recipe = replace(PRESETS[args.preset], **{n: v for n, v in given.items() if v is not None})
    for name, (owner, needed) in READ_WHERE.items():
        if given[name] is not None and getattr(recipe, owner) != needed:
            raise UserError(
                f"{RECIPE_FLAGS[name][0]} needs -{owner} {needed}, which is "
                f"{getattr(recipe, owner)} here"
            )
    if recipe.schedule != "multistep" and recipe.warm >= recipe.epochs:
        raise UserError(
            f"-warm {recipe.warm:g}: the {recipe.schedule} schedule needs a warm-up of fewer than "
            f"its {recipe.epochs} epochs"
        )
    if recipe.schedule == "multistep" and not recipe.milestones:
        raise UserError("-schedule multistep needs -milestones, as 0.3,0.6,0.8")
    for name in ("momentum", "nesterov"):
        if given[name] is not None and recipe.optimizer == "adamw":
            raise UserError(f"-{name} needs -optimizer sgd or muon, which is adamw here")
    if recipe.nesterov and not recipe.momentum:
        raise UserError("-nesterov needs a -momentum above 0")
    if recipe.compile and recipe.depth_kept < 1:
        raise UserError(
            f"-depth_kept {recipe.depth_kept:g} makes another program of every step; "
            "give -compile off"
        )
    compilers = (os.environ.get("CXX"), "g++", "clang++", "cl")
    if recipe.compile and not any(name and shutil.which(name) for name in compilers):
        raise UserError("-compile needs a C++ compiler and finds none; give -compile off")
    return recipe


def add_amp(parser: Parser) -> None:
    """Add ``-amp`` where there is no recipe."""
    parser.add_argument("-amp", choices=AMP, default="off", help=AMP_HELP)


def check_init(parser: Parser, args) -> None:
    """Refuse ``-init`` where training starts from weights."""
    if args.init is not None:
        parser.error(f"-init {args.init} is for a fresh network; this one starts from weights")


def add_network(parser: Parser, net: str = "vgg16") -> None:
    """Add ``-net``."""
    plain = [name for name in models.names() if not models.is_keyed(name)]
    parser.add_argument(
        "-net",
        type=network,
        default=net,
        metavar="NET",
        help=f"network: {', '.join(plain)}, or torchvision:NAME; with {models.KEYED_SUFFIX} "
        "appended, its keyed twin",
    )


def add_backend(parser: Parser) -> None:
    """Add ``-backend``."""
    parser.add_argument(
        "-backend",
        choices=BACKENDS,
        default="auto",
        help="how the layers of a keyed network compute: deform is the paper's deformable "
        "convolution, gather reorders pixels around an ordinary one, triton does both in one "
        "kernel on a GPU, auto is gather",
    )


def check_backend(parser: Parser, args, keyed: bool) -> None:
    """Refuse a backend where no layer is ``keyed``, and one for GPUs on the CPU."""
    if args.backend == "triton" and not args.gpu:
        parser.error("-backend triton needs -gpu")
    if args.backend != "auto" and not keyed:
        parser.error(f"-backend {args.backend} needs a keyed network, got -net {args.net}")


def network(text: str) -> str:
    """The name of a network, as a type for argparse."""
    try:
        return models.check_name(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error


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
        help="folder of the data set: torchvision's files or <split>/<class>/<image>; "
        "default: data/ in the repository, into which CIFAR is downloaded",
    )


def add_folder(parser: Parser) -> None:
    """Add ``-image_size`` and ``-workers``, which ``-dataset folder`` takes."""
    parser.add_argument(
        "-image_size",
        type=cli.side,
        default=None,
        help="of -dataset folder, which needs it: side in pixels to which images are cropped and "
        "resized; default: none",
    )
    parser.add_argument(
        "-workers",
        type=cli.count,
        default=None,
        help="of -dataset folder: processes that decode images while training runs; default: "
        "all images are kept in memory, or, where they take half of it, one for each core",
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
    side = getattr(args, "image_size", None)
    return None if side is None else (side, side)


def add_key(parser: Parser) -> None:
    """Add ``-seed`` and ``-key``, of which one may be given."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "-seed",
        type=cli.seed,
        default=None,
        help=f"the key, as a seed in 0..{cli.MAX_SEED}; default: the one in the folder of the "
        "run whose weights are used, or a fresh one",
    )
    group.add_argument(
        "-key",
        type=Path,
        default=None,
        help="the key, as a file made by scramble.py keygen; default: none",
    )


def check_key(parser: Parser, args, scrambled: bool) -> None:
    """Refuse a ``-key``, or a keyed network, where the images are not ``scrambled``.

    ``-seed`` may be given with plain ones, as published.
    """
    if not scrambled and models.is_keyed(args.net):
        parser.error(f"-net {args.net} takes scrambled images; give -permute")
    if not scrambled and args.key is not None:
        parser.error("-key: nothing is scrambled; give -permute with it")


def add_cipher(parser: Parser) -> None:
    """Add ``-cipher``."""
    parser.add_argument(
        "-cipher",
        type=cipher,
        default=None,
        metavar="CIPHER",
        help="how images are scrambled: pixels, the paper's way; blocks:N, squares of NxN that "
        "move, turn and are mirrored; etc:N, inverted and recoloured, too (EtC), "
        "etc_published as its code does it; le, ele, privconv (default: pixels)",
    )


def cipher(text: str) -> str:
    """The name of a cipher, as a type for argparse."""
    try:
        parse_cipher(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error
    return text


def check_cipher(parser: Parser, args, scrambled: bool) -> None:
    """Refuse ``-cipher`` where nothing is ``scrambled``, or where it does not go with the rest."""
    if args.cipher is None:
        return
    if not scrambled:
        parser.error(f"-cipher {args.cipher}: nothing is scrambled; give -permute with it")
    if args.per_image and parse_cipher(args.cipher)[0] not in ("pixels", "blocks"):
        parser.error(f"-per_image takes -cipher pixels or blocks:N, got {args.cipher}")
    if models.is_keyed(args.net):
        try:
            check_pixels(args.cipher)
        except ValueError as error:
            parser.error(f"-net {args.net}: {error}")


def cipher_of(args) -> str:
    """The cipher that ``args`` ask for; ``pixels`` where a script has no such flag."""
    return getattr(args, "cipher", None) or "pixels"


def add_per_image(parser: Parser) -> None:
    """Add ``-per_image``."""
    parser.add_argument(
        "-per_image",
        action="store_true",
        help="with -permute and -key: scramble each image under a key of its own",
    )


def check_per_image(parser: Parser, args) -> None:
    """Refuse ``-per_image`` where nothing is scrambled, or without a key to derive others from."""
    if args.per_image and not (args.permute and args.key):
        parser.error("-per_image needs -permute and -key")


def per_image_from(args, image_size: tuple[int, int]) -> PerImageScrambler | None:
    """What scrambles each image under a key of its own, where ``args`` ask for that."""
    if not args.per_image:
        return None
    _, block = parse_cipher(cipher_of(args))
    try:
        return PerImageScrambler(image_size, load_key(args.key), block=block)
    except ValueError as error:
        raise UserError(f"-cipher {args.cipher}: {error}") from error


def run_options(args, **settled: object) -> RunOptions:
    """The options of a run: what ``args`` say, then what is ``settled``; defaults for the rest."""
    known = {field.name for field in fields(RunOptions)}
    given = {n: value for n, value in vars(args).items() if n in known and value is not None}
    given |= {"data_dir": args.data_dir, "image_size": folder_image_size(args)}
    return RunOptions(**(given | settled))


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


def take_run_key(args, weights: Path | None) -> None:
    """Where ``args`` name no key, take the one that the run of ``weights`` keeps, and say so."""
    if args.seed is not None or args.key is not None or weights is None:
        return
    key = weights.parent / checkpoint.KEY
    if key.is_file():
        args.key = key
        print(f"key: taken from {key}", file=sys.stderr)


def scrambler_from(
    args, image_size: tuple[int, int], secret: SecretKey | None = None
) -> ImageScrambler | BlockCipher:
    """What scrambles as ``-cipher`` says, by ``secret``, the key that ``args`` name or a fresh one.

    Raises:
        UserError: if the images cannot be divided into the blocks of the cipher.
    """
    if args.key is not None and secret is None:
        secret = load_key(args.key)
    try:
        return make_scrambler(cipher_of(args), image_size, args.seed, secret)
    except ValueError as error:
        raise UserError(f"-cipher {cipher_of(args)}: {error}") from error


def warn_of_few_keys(args, image_size: tuple[int, int]) -> None:
    """Say on stderr, once the work is done, that all keys could be tried: a seed's, a cipher's."""
    seed, bits = getattr(args, "seed", None), key_bits(cipher_of(args), image_size)
    if bits < FEW_BITS and (seed is None or bits < SEED_BITS):
        height, width = image_size
        print(
            f"warning: -cipher {cipher_of(args)} has 2^{bits:.0f} keys on {height}x{width} images, "
            "few enough to try them all",
            file=sys.stderr,
        )
    elif seed is not None:
        print(
            f"warning: -seed is one of 2^{SEED_BITS} keys, few enough to try them all; "
            "for pictures that matter use -key",
            file=sys.stderr,
        )


def load_key(path: Path) -> SecretKey:
    """The key in a file.

    Raises:
        UserError: if it cannot be read, others may read it, or it is no key file.
    """
    try:
        return SecretKey.load(path)
    except PermissionError as error:
        raise UserError(f"-key: {error}") from error
    except OSError as error:
        raise UserError(f"-key {path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"-key: {error}") from error


def writable_folder(path: Path, flag: str) -> None:
    """Refuse, before any work, a folder that could not be made or written after it; makes nothing.

    Raises:
        UserError: naming the flag and the path.
    """
    there = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not there.is_dir():
        raise UserError(f"{flag} {path}: {there} is not a folder; expected one to write to")
    _check_writable(there, f"{flag} {path}")


def writable_file(path: Path | None, flag: str) -> None:
    """Refuse, before any work, a file that could not be written after it.

    Raises:
        UserError: naming the flag and the path.
    """
    if path is None:
        return
    if path.exists() and not path.is_file():
        raise UserError(f"{flag} {path}: is there and is not a file; expected a file to write")
    if not path.parent.is_dir():
        raise UserError(f"{flag} {path}: there is no folder {path.parent}")
    _check_writable(path.parent, f"{flag} {path}")


def _check_writable(folder: Path, what: str) -> None:
    """Try it with a nameless file: permissions alone do not tell on a read-only file system."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"{what}: cannot be written ({error.strerror})") from error
