"""The flags of a training run: a preset, and what overrides its recipe."""

import os
import shutil
from dataclasses import fields, replace

from utils import cli
from utils.cli.flags.data import folder_image_size
from utils.cli.parser import Parser
from utils.data.augment import FLIPS
from utils.runtime.device import AMP
from utils.runtime.errors import UserError
from utils.training.options import RunOptions
from utils.training.recipe import (
    INITS,
    OLD_SCHEDULES,
    OPTIMIZERS,
    PRESETS,
    SCHEDULES,
    Recipe,
)

AMP_HELP = "bfloat16 autocast; auto: where a short trial finds it faster"
METAVARS = {
    cli.fractions: "N,N,...",
    cli.sides: "N,N,...",
    cli.factors: "N,N",
    cli.image_size: "HxW",
}
RECIPE_FLAGS = {
    "epochs": ("-epochs", cli.positive_int, "epochs to train"),
    "batch_size": ("-b", cli.positive_int, "images per step"),
    "lr": ("-lr", cli.positive_float, "peak learning rate of SGD or AdamW"),
    "warm": ("-warm", cli.non_negative_float, "epochs of linear rise to the peak rate"),
    "optimizer": (
        "-optimizer",
        OPTIMIZERS,
        "muon is for the convolutions, sgd for the rest",
    ),
    "muon_lr": (
        "-muon_lr",
        cli.positive_float,
        "peak rate of Muon, relative to weights' norms",
    ),
    "momentum": ("-momentum", cli.fraction, "momentum of SGD"),
    "nesterov": ("-nesterov", cli.switch, "Nesterov's form of momentum"),
    "weight_decay": ("-weight_decay", cli.non_negative_float, "weight decay of SGD or AdamW"),
    "schedule": ("-schedule", SCHEDULES, "learning rate after the warm-up"),
    "milestones": (
        "-milestones",
        cli.fractions,
        "multistep: fractions of the run after which the rate falls",
    ),
    "gamma": (
        "-gamma",
        cli.positive_fraction,
        "multistep: factor at each milestone",
    ),
    "label_smoothing": ("-label_smoothing", cli.fraction, "label smoothing"),
    "ema": ("-ema", cli.fraction, "decay per step of the averaged weights; 0: none"),
    "clip": ("-clip", cli.non_negative_float, "largest gradient norm; 0 for no clipping"),
    "init": (
        "-init",
        INITS,
        "whiten: the first convolution whitens patches, others are identities",
    ),
    "crop": ("-crop", cli.padding, "zero padding before the random crop, in pixels"),
    "flip": (
        "-flip",
        FLIPS,
        "mirror a random half of the images; alternate: the others in the next epoch",
    ),
    "rotation": ("-rotation", cli.degrees, "largest random rotation in degrees"),
    "cutout": ("-cutout", cli.count, "side of a random square that is blanked, in pixels"),
    "sizes": (
        "-sizes",
        cli.sides,
        "sides in pixels that images are shrunk to in equal parts of the run; at last their own",
    ),
    "depth_kept": (
        "-depth_kept",
        cli.positive_fraction,
        "stochastic depth: how often the last residual block is computed",
    ),
    "amp": ("-amp", AMP, AMP_HELP),
    "channels_last": ("-channels_last", cli.switch, "channels_last memory format"),
    "compile": ("-compile", cli.switch, "torch.compile; on a CPU with a C++ compiler"),
    "sync_bn": ("-sync_bn", cli.switch, "batch-norm over all GPUs, under torchrun"),
}

_PAIRS_HAVE_NOT = ("crop", "cutout", "sizes", "depth_kept", "init")
SEGMENTATION_FLAGS = {
    **{name: flag for name, flag in RECIPE_FLAGS.items() if name not in _PAIRS_HAVE_NOT},
    "scale": (
        "-scale",
        cli.factors,
        "least and largest random factor of the size of picture and mask, as 0.5,2",
    ),
    "crop_size": (
        "-crop_size",
        cli.image_size,
        "random crop after the scaling, as 144x192; with -permute that of the images",
    ),
    "jitter": (
        "-jitter",
        cli.fraction,
        "largest random change of brightness, contrast and saturation, as a fraction",
    ),
    "class_weights": (
        "-class_weights",
        cli.switch,
        "weigh each pixel by the root of its class's inverse frequency",
    ),
}

# fields of a recipe that are read only where another field has this value
READ_WHERE = {
    "muon_lr": ("optimizer", "muon"),
    "milestones": ("schedule", "multistep"),
    "gamma": ("schedule", "multistep"),
}


def add_recipe(
    parser: Parser,
    preset: str,
    presets: dict[str, Recipe] = PRESETS,
    overrides: dict[str, tuple] = RECIPE_FLAGS,
    page: str = "experiments/classification/README.md",
) -> None:
    """Add ``-preset``, and a flag for each field of a recipe that can be overridden.

    Args:
        preset: the default.
        presets: by name.
        overrides: of a field of a recipe the flag, the type of its value and its help.
        page: that describes the presets.
    """
    group = parser.add_argument_group(
        "recipe",
        f"the preset, and flags that override it (default: its values, which are in {page})",
    )
    group.add_argument(
        "-preset",
        choices=presets,
        default=preset,
        metavar="NAME",
        help=f"training recipe: {', '.join(presets)}",
    )
    for name, (flag, kind, text) in overrides.items():
        options = {"choices": kind} if isinstance(kind, tuple) else {"type": kind, "metavar": "N"}
        if kind is SCHEDULES:
            options["type"] = lambda given: OLD_SCHEDULES.get(given, given)
        if kind is cli.switch:
            options |= {"nargs": "?", "const": True, "metavar": "on|off"}
        elif kind in METAVARS:
            options |= {"metavar": METAVARS[kind]}
        group.add_argument(flag, dest=name, default=None, help=text, **options)


def recipe_from(args, presets: dict[str, Recipe] = PRESETS) -> Recipe:
    """The preset of ``args`` with the fields that were given as flags.

    Where the preset's own warm-up would fill the whole run, it keeps its share of the run instead.

    Raises:
        UserError: if a given warm-up fills the whole run, a multistep schedule has no step, or
            Nesterov's momentum none, if a flag was given that the recipe does not read, or there is
            no compiler to compile with.
    """
    preset = presets[args.preset]
    given = {f.name: getattr(args, f.name, None) for f in fields(preset)}
    if getattr(args, "resume", None) and given["amp"] is None:
        given["amp"] = "auto"  # that of the run
    recipe = replace(preset, **{n: v for n, v in given.items() if v is not None})
    for name, (owner, needed) in READ_WHERE.items():
        if given[name] is not None and getattr(recipe, owner) != needed:
            raise UserError(
                f"{RECIPE_FLAGS[name][0]} needs -{owner} {needed}, which is "
                f"{getattr(recipe, owner)} here"
            )
    if recipe.warm >= recipe.epochs:
        if given["warm"] is not None:
            raise UserError(
                f"-warm {recipe.warm:g}: the {recipe.schedule} schedule needs a warm-up of fewer "
                f"than its {recipe.epochs} epochs"
            )
        recipe = replace(recipe, warm=preset.warm * recipe.epochs / preset.epochs)
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
    if getattr(args, "init", None) is not None:
        parser.error(f"-init {args.init} is for a fresh network; this one starts from weights")


def run_options(args, **settled: object) -> RunOptions:
    """The options of a run: what ``args`` say, then what is ``settled``; defaults for the rest."""
    known = {field.name for field in fields(RunOptions)}
    given = {n: value for n, value in vars(args).items() if n in known and value is not None}
    given |= {"data_dir": args.data_dir, "image_size": folder_image_size(args)}
    return RunOptions(**(given | settled))
