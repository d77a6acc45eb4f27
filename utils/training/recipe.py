"""Training recipes: every number that decides how a network is trained, and the named presets.

``published`` is the paper's recipe (section 3), ``preresnet`` that of record for PreResNet-110.
``fast`` was tuned for VGG16 in a few epochs on a CPU; ``preresnet-cpu`` is for PreResNet-110 in a
night on two cores that do bfloat16 fast. ``vgg16-best``, ``preresnet110-best`` and ``vgg16-speed``
are meant for a GPU and have not been run to their end yet. A preset is a starting
point: each field can be replaced by its flag (``utils.cli.flags.run.RECIPE_FLAGS``).
"""

import math
from dataclasses import dataclass, fields, replace

from utils.data.augment import Augmentation

OPTIMIZERS = ("sgd", "muon", "adamw")
SCHEDULES = ("multistep", "linear", "cosine")
OLD_SCHEDULES = {"onecycle": "linear"}  # spellings of older commands and checkpoints
INITS = ("default", "whiten")


@dataclass(frozen=True, kw_only=True)
class Recipe(Augmentation):
    """How a network is trained, augmentation included.

    Milestones are fractions of the run, so they scale with ``epochs``.
    ``muon_lr`` is that of the convolution weights under ``optimizer="muon"``, which keeps their
    norms; all other parameters are then trained by SGD with ``lr`` and ``weight_decay``, as they
    are under ``optimizer="sgd"``. ``amp="auto"`` is for a run to settle when it starts. ``sizes``
    are the sides, in pixels, to which images are shrunk in equal parts of the run; none for images
    as they are. ``depth_kept`` is the probability that the last residual block takes part in a step
    (``models.stochastic_depth``).
    """

    epochs: int
    batch_size: int
    lr: float
    warm: float
    optimizer: str = "sgd"
    muon_lr: float = 0.025
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    schedule: str = "multistep"
    milestones: tuple[float, ...] = ()
    gamma: float = 0.2
    label_smoothing: float = 0.0
    ema: float = 0.0
    clip: float = 0.0
    init: str = "default"
    sizes: tuple[int, ...] = ()
    depth_kept: float = 1.0
    amp: str = "off"
    channels_last: bool = False
    compile: bool = False
    sync_bn: bool = False


_FAST = Recipe(
    epochs=30,
    batch_size=512,
    lr=0.05,
    warm=2,
    optimizer="muon",
    nesterov=True,
    schedule="linear",
    label_smoothing=0.1,
    init="whiten",
    flip="alternate",
    cutout=8,
    amp="auto",
    channels_last=True,
)
_PRERESNET = Recipe(
    epochs=164,
    batch_size=128,
    lr=0.1,
    warm=0,
    weight_decay=1e-4,
    milestones=(81 / 164, 122 / 164),
    gamma=0.1,
)
PRESETS = {
    "published": Recipe(
        epochs=200, batch_size=128, lr=0.1, warm=1, milestones=(0.3, 0.6, 0.8), rotation=15.0
    ),
    "fast": _FAST,
    "vgg16-best": replace(_FAST, epochs=160, cutout=12, compile=True),
    "vgg16-speed": replace(_FAST, epochs=40, batch_size=1024, muon_lr=0.035, compile=True),
    "preresnet": _PRERESNET,
    "preresnet110-best": replace(
        _PRERESNET,
        epochs=300,
        warm=5,
        nesterov=True,
        weight_decay=5e-4,
        schedule="cosine",
        label_smoothing=0.1,
        flip="alternate",
        cutout=12,
        amp="auto",
        channels_last=True,
        compile=True,
    ),
    # Madono et al., AAAI workshops 2020, for ELE and EtC
    "shakedrop": Recipe(
        epochs=305,
        batch_size=512,
        lr=0.1,
        warm=0,
        nesterov=True,
        milestones=(150 / 305, 225 / 305),
        gamma=0.1,
        amp="auto",
        channels_last=True,
    ),
    # PrivConv's is not public; this one stands in for it, on 224x224 pixels
    "convmixer": Recipe(
        epochs=100,
        batch_size=512,
        lr=0.05,
        warm=50,
        optimizer="adamw",
        weight_decay=0.005,
        schedule="linear",
        crop=28,
        rotation=15.0,
        amp="auto",
        channels_last=True,
    ),
    "preresnet-cpu": replace(
        _FAST,
        epochs=300,
        batch_size=128,
        warm=3,
        init="default",
        cutout=12,
        sizes=(16, 24, 32),
        depth_kept=0.8,
    ),
}


def from_saved(saved: dict, kind: type[Recipe] = Recipe) -> Recipe:
    """The recipe that a checkpoint holds; what later versions added to recipes has its default."""
    known = {f.name: saved[f.name] for f in fields(kind) if f.name in saved}
    if isinstance(known["amp"], bool):  # before there was "auto"
        known["amp"] = "on" if known["amp"] else "off"
    known["schedule"] = OLD_SCHEDULES.get(known["schedule"], known["schedule"])
    return kind(**known)


def lr_factor(recipe: Recipe, epoch: float) -> float:
    """The learning rate at a moment of the run, as a fraction of the recipe's.

    A function of the moment alone, so that a run resumes in the midst of an epoch without the state
    of a ``torch.optim.lr_scheduler``.

    Rises linearly from 0 to 1 over ``warm`` epochs; after that ``multistep`` multiplies by
    ``gamma`` at every milestone, ``linear`` falls linearly to 0 and ``cosine`` along half a
    cosine.

    Args:
        recipe: the recipe.
        epoch: epochs done before the step, with the fraction of the current one; 0 at the start.

    Example:
        >>> lr_factor(PRESETS["published"], 60.0), lr_factor(PRESETS["published"], 0.5)
        (0.2, 0.5)
    """
    if epoch < recipe.warm:
        return epoch / recipe.warm
    if recipe.schedule == "multistep":
        # at whole epochs, as published; the slack undoes the rounding of 81 / 164 * 164
        passed = sum(
            int(epoch) + 1e-6 >= fraction * recipe.epochs for fraction in recipe.milestones
        )
        return recipe.gamma**passed
    left = max(0.0, recipe.epochs - epoch) / max(recipe.epochs - recipe.warm, 1e-12)
    return left if recipe.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2


def side_of_epoch(recipe: Recipe, epoch: int) -> int | None:
    """The side of the images of an epoch, which counts from 0; None for images as they are.

    Where the parts cannot be equal, larger images have the longer ones; the last epoch has the
    largest.

    Example:
        >>> recipe = replace(PRESETS["published"], epochs=5, sizes=(16, 32))
        >>> [side_of_epoch(recipe, epoch) for epoch in range(5)]
        [16, 16, 32, 32, 32]
    """
    if not recipe.sizes:
        return None
    left = recipe.epochs - 1 - epoch
    return recipe.sizes[-1 - left * len(recipe.sizes) // recipe.epochs]
