"""What the training engine does not know by itself: the task.

Data, augmentation, loss, and what is counted when a network is tested differ between tasks. All the
rest of a run (order, optimiser, averaging, processes, checkpoints, record) does not.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from operators import BlockCipher, ImageScrambler, PerImageScrambler
from utils.data.augment import EpochPlan, augment
from utils.data.datasets import (
    DatasetSpec,
    ImageSet,
    load_split,
    load_train,
    split_train_validation,
)
from utils.data.masks import MaskSet
from utils.data.stream import ImageFiles
from utils.inference.evaluation import all_logits, count_correct
from utils.training.options import RunOptions
from utils.training.recipe import Recipe

TEST_BATCH = 500  # images
Data = ImageSet | ImageFiles | MaskSet


class Splits(NamedTuple):
    """The images of a run.

    Attributes:
        train, validation, test: to train on, to choose by (or None) and to test on.
        spec: what they are.
        held_out: the fraction of the training images that the validation split took; None where it
            has images of its own.
    """

    train: Data
    validation: Data | None
    test: Data
    spec: DatasetSpec
    held_out: float | None = None


class Task(Protocol):
    """What differs between tasks.

    Attributes:
        score: the name of the score in [0, 1] that a run reports first and is selected by.
        maps: whether a network gives logits for every pixel.
    """

    score: str
    maps: bool

    def load(self, options: RunOptions) -> Splits:
        """The splits of a run.

        Raises:
            UserError: if they cannot be loaded.
        """

    def prepare(
        self,
        net: str,
        recipe: Recipe,
        data: Data,
        permuting: ImageScrambler | BlockCipher | None,
        per_image: PerImageScrambler | None,
    ) -> "Task":
        """The task as a run needs it, with what follows from its data and its keys.

        Raises:
            UserError: naming the flag of what does not go together.
        """

    def augment(
        self, images: Tensor, labels: Tensor, plan: EpochPlan, recipe: Recipe
    ) -> tuple[Tensor, Tensor]:
        """Vary uint8 images ``(n, 3, H, W)`` and with them their labels, as the plan says."""

    def loss_sum(self, logits: Tensor, labels: Tensor, recipe: Recipe) -> Tensor:
        """The sum over a batch of each image's loss, differentiable."""

    def right(self, logits: Tensor, labels: Tensor) -> Tensor:
        """How many images of a batch are answered rightly; parts of an image count as such."""

    def tally(
        self,
        net: nn.Module,
        preprocess: nn.Module,
        data: Data,
        device: torch.device,
        amp: bool,
        quiet: bool,
    ) -> Tensor:
        """What is counted over ``data``, int64; tallies of parts of a data set add up."""

    def scores(self, tally: Tensor, images: int) -> dict[str, object]:
        """The scores that follow from a tally over so many images, for the record of a run."""

    def examples(
        self,
        data: Data,
        permuting: ImageScrambler | BlockCipher | None,
        per_image: PerImageScrambler | None,
    ) -> list[Tensor]:
        """Rows of pictures that show what is trained on, each uint8 ``(n, 3, H, W)``."""


@dataclass(frozen=True)
class Classification:
    """One label for each image."""

    score: str = "accuracy"
    maps: bool = False

    def load(self, options: RunOptions) -> Splits:
        where = (options.data_dir, options.image_size, options.workers)
        data, spec = load_train(options.dataset, *where)
        test = load_split(options.dataset, "test", options.data_dir, spec, options.workers)
        if options.select == "validation":
            held_out = options.val_fraction
            data, validation = split_train_validation(data, held_out, options.train_seed)
            return Splits(data, validation, test, spec, held_out)
        return Splits(data, test if options.select == "test" else None, test, spec)

    def prepare(self, net, recipe, data, permuting, per_image) -> "Classification":
        return self

    def augment(
        self, images: Tensor, labels: Tensor, plan: EpochPlan, recipe: Recipe
    ) -> tuple[Tensor, Tensor]:
        return augment(images, plan, recipe), labels

    def loss_sum(self, logits: Tensor, labels: Tensor, recipe: Recipe) -> Tensor:
        return F.cross_entropy(
            logits, labels, label_smoothing=recipe.label_smoothing, reduction="sum"
        )

    def right(self, logits: Tensor, labels: Tensor) -> Tensor:
        return (logits.argmax(1) == labels).sum()

    def tally(self, net, preprocess, data, device, amp, quiet) -> Tensor:
        if len(data) == 0:  # there may be more processes than images
            return torch.tensor(0)
        logits = all_logits(net, preprocess, data, TEST_BATCH, device, amp, quiet)
        return torch.tensor(count_correct(logits, data.labels))

    def scores(self, tally: Tensor, images: int) -> dict[str, object]:
        return {"correct": int(tally), "accuracy": int(tally) / images}

    def examples(self, data, permuting, per_image) -> list[Tensor]:
        return pictures_sent(example_images(data), permuting, per_image)


def example_images(data: Data) -> Tensor:
    """The first images of a data set, uint8 ``(n, 3, H, W)``."""
    return next(iter(data.batches([torch.arange(min(8, len(data)))])))


def pictures_sent(
    images: Tensor,
    permuting: ImageScrambler | BlockCipher | None,
    per_image: PerImageScrambler | None,
) -> list[Tensor]:
    """Images, and where they are scrambled, their scrambled and their restored forms."""
    if permuting is None:
        return [images]
    if per_image is None:
        scrambled = permuting(images)
        if isinstance(permuting, BlockCipher) and not permuting.lossless:
            return [images, scrambled]
        return [images, scrambled, permuting.unscramble(scrambled)]
    nonces = per_image.nonces_for(images)
    scrambled = per_image.scramble(images, nonces)
    return [images, scrambled, per_image.unscramble(scrambled, nonces)]
