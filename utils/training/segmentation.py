"""Segmentation as a task of the training engine: a label for every pixel, 255 for none."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from operators import ImageScrambler, PerImageScrambler
from utils.data.augment import EpochPlan
from utils.data.augment_pair import PairAugmentation, augment_pair
from utils.data.masks import IGNORED, MaskSet
from utils.data.segmentation import has_validation, load_masks, mask_spec
from utils.inference.evaluation import all_labels
from utils.inference.label_keys import LabelKeys
from utils.inference.segmentation_metrics import confusion_matrix, scores
from utils.io.label_pictures import coloured
from utils.runtime.errors import UserError
from utils.runtime.streams import generator
from utils.training.options import RunOptions
from utils.training.recipe import Recipe
from utils.training.task import Splits, example_images, pictures_sent

TEST_BATCH = 8  # images


@dataclass(frozen=True, kw_only=True)
class SegmentationRecipe(Recipe, PairAugmentation):
    """How a network for segmentation is trained.

    Of the augmentation of ``Recipe``, flips and rotation apply; ``PairAugmentation`` has the rest.
    ``class_weights`` weighs a pixel by the root of its class's inverse frequency in the training
    images, such that the mean weight of a labelled pixel is 1.
    """

    class_weights: bool = False


SEGMENTATION_PRESETS = {
    "unet-cpu": SegmentationRecipe(
        epochs=100,
        batch_size=8,
        lr=2e-3,
        warm=3,
        optimizer="adamw",
        weight_decay=0.02,
        schedule="cosine",
        label_smoothing=0.05,
        ema=0.998,
        clip=1.0,
        crop_size=(144, 192),
        scale=(0.6, 1.7),
        jitter=0.4,
        class_weights=True,
        amp="auto",
        channels_last=True,
    ),
}


@dataclass(frozen=True)
class Segmentation:
    """A label for every pixel of each image.

    Attributes:
        class_weights: what a pixel of each class counts, ``(num_classes,)``; None for 1.
        keys: under which the network returns its maps.
    """

    class_weights: Tensor | None = None
    keys: LabelKeys | None = None
    score: str = "miou"
    maps: bool = True

    def load(self, options: RunOptions) -> Splits:
        spec = mask_spec(options.dataset, options.data_dir, options.image_size)
        data, test = (
            load_masks(options.dataset, split, options.data_dir, spec=spec)
            for split in ("train", "test")
        )
        validation, held_out = test if options.select == "test" else None, None
        if options.select == "validation" and has_validation(options.dataset, options.data_dir):
            validation = load_masks(options.dataset, "val", options.data_dir, spec=spec)
        elif options.select == "validation":
            held_out = options.val_fraction
            if len(data) < 2:
                raise UserError(
                    f"-select validation: the training split has {len(data)} image; "
                    "at least 2 are needed for a validation split"
                )
            draws = generator("hold out", options.train_seed)
            order = torch.randperm(len(data), generator=draws)
            chosen = order < min(max(1, round(held_out * len(data))), len(data) - 1)
            data, validation = data.subset(~chosen), data.subset(chosen)
        return Splits(data, validation, test, spec, held_out)

    def prepare(
        self,
        net: str,
        recipe: SegmentationRecipe,
        data: MaskSet,
        scrambler: ImageScrambler | None,
        per_image: PerImageScrambler | None,
    ) -> "Segmentation":
        height, width = data.images.shape[2:]
        if recipe.crop_size not in (None, (height, width)) and scrambler is not None:
            raise UserError(
                f"-crop_size {recipe.crop_size[0]}x{recipe.crop_size[1]}: a key scrambles images "
                f"of one size; give -crop_size {height}x{width} with -permute"
            )
        weights = class_weights(data) if recipe.class_weights else None
        return replace(self, class_weights=weights, keys=LabelKeys.of(net, scrambler, per_image))

    def augment(
        self, images: Tensor, labels: Tensor, plan: EpochPlan, recipe: SegmentationRecipe
    ) -> tuple[Tensor, Tensor]:
        images, labels = augment_pair(images, labels, plan, recipe)
        return images, labels if self.keys is None else self.keys.scramble(labels, images)

    def loss_sum(self, logits: Tensor, labels: Tensor, recipe: SegmentationRecipe) -> Tensor:
        weights = self.class_weights
        total = F.cross_entropy(
            logits,
            labels.long(),
            weight=None if weights is None else weights.to(logits),
            ignore_index=IGNORED,
            label_smoothing=recipe.label_smoothing,
            reduction="sum",
        )
        return total / labels[0].numel()

    def right(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Of each image the part of its labelled pixels that is right."""
        labelled = (labels != IGNORED).sum((1, 2))
        right = (logits.argmax(1) == labels).sum((1, 2))
        return (right / labelled.clamp(min=1)).sum()

    def tally(self, net, preprocess, data, device, amp, quiet) -> Tensor:
        matrix = torch.zeros(len(data.classes), len(data.classes), dtype=torch.int64)
        if len(data):  # there may be more processes than images
            restore = None if self.keys is None else self.keys.restore
            maps = all_labels(net, preprocess, data, TEST_BATCH, device, amp, quiet, restore)
            matrix += confusion_matrix(maps, data)
        return matrix

    def scores(self, tally: Tensor, images: int) -> dict[str, object]:
        return scores(tally)

    def examples(self, data, permuting, per_image) -> list[Tensor]:
        images = example_images(data)
        return [
            *pictures_sent(images, permuting, per_image),
            coloured(data.labels[: len(images)], data.classes),
        ]


def class_weights(data: MaskSet) -> Tensor:
    """The root of each class's inverse frequency, of mean 1 over the labelled pixels.

    Returns:
        float32 ``(num_classes,)``; 0 for a class that no pixel has.
    """
    counts = torch.bincount(data.labels.flatten().int(), minlength=IGNORED + 1)
    counts = counts[: len(data.classes)].double()
    roots = counts.clamp(min=1).rsqrt() * (counts > 0)
    return (roots * counts.sum() / (roots * counts).sum()).float()
