"""Scrambling beside a plain copy, and the training loop's data path beside the step it feeds.

    python3 pipeline.py -out_dir results

GB/s counts the bytes of the batch once. Ratios refer to ``clone()`` of the same batch for
scrambling, to the same path without a key for the data path, and, where that is timed beside a
training step, to the step: they are the share of the step that goes into preparing its images.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, replace

import conf  # noqa: F401
import torch

from experiments.lib import benchmark_flags
from experiments.lib.results import write_results
from experiments.lib.tables import markdown_table
from experiments.lib.timing import spread, time_side_by_side
from models import create_model
from operators import ImageScrambler
from utils import cli
from utils.data.augment import Preprocess, augment, plan_epoch
from utils.data.datasets import DATASETS, ImageSet
from utils.runtime.stop import StopSignal
from utils.training.recipe import PRESETS, Recipe
from utils.training.trainer import Trainer

SEED = 1312
SPEC = DATASETS["cifar10"]
BATCHES = (  # (images, side in pixels, dtype)
    (10_000, 32, torch.uint8),
    (128, 32, torch.uint8),
    (512, 32, torch.float32),
    (200, 224, torch.uint8),
    (64, 224, torch.float32),
)


def parse_args():
    parser = cli.Parser("Time scrambling beside a copy, and the training loop's data path.")
    parser.add_argument("-b", type=cli.positive_int, default=512, help="images per training batch")
    benchmark_flags.add(parser, "pipeline.json and the table pipeline.md")
    return parser.parse_args()


def rows_of(what: str, calls: dict[str, Callable], images: torch.Tensor, rounds: int) -> list[dict]:
    """Time calls on one batch side by side; the first is the base of all ratios."""
    base = next(iter(calls))
    timings = time_side_by_side(calls, dict.fromkeys(calls, base), rounds, images.device)
    return [
        {
            "what": what,
            "candidate": name,
            **asdict(timing),
            "gigabytes_per_second": images.nbytes / timing.median / 1e9,
            "images_per_second": len(images) / timing.median,
        }
        for name, timing in timings.items()
    ]


def scrambling(count: int, side: int, dtype: torch.dtype, rounds: int, device) -> list[dict]:
    """Scrambling and restoring beside a copy of the same batch."""
    scrambler = ImageScrambler(side, seed=SEED).to(device)
    images = torch.randint(256, (count, 3, side, side), device=device).to(dtype)
    calls = {
        "clone": images.clone,
        "scramble": lambda: scrambler(images),
        "restore": lambda: scrambler.unscramble(images),
    }
    name = str(dtype).removeprefix("torch.")
    return rows_of(f"{count} x 3x{side}x{side} {name}", calls, images, rounds)


def preprocess_of(recipe: Recipe, scramble: ImageScrambler | None, device) -> Preprocess:
    return Preprocess(SPEC.mean, SPEC.std, scramble, recipe.channels_last).to(device)


def data_path(
    data: ImageSet, recipe: Recipe, scramble: ImageScrambler | None, device
) -> Callable[[], torch.Tensor]:
    """From images in memory to the network's input: draw, pick, crop, flip, (scramble,) scale."""
    preprocess = preprocess_of(recipe, scramble, device)

    def prepare() -> torch.Tensor:
        plan = plan_epoch(len(data), recipe, SEED, epoch=0)
        (images,) = data.batches([plan.order])
        return preprocess(augment(images, plan, recipe))

    return prepare


def training_step(data: ImageSet, recipe: Recipe, device) -> Callable[[], object]:
    """A step of VGG16 from images in memory to updated weights: an epoch over one batch."""
    net, preprocess = create_model("vgg16").to(device), preprocess_of(recipe, None, device)
    trainer = Trainer(net, recipe, data, preprocess, device, SEED)
    return lambda: trainer.train_epoch(StopSignal(), save=lambda: None)


def training(batch: int, rounds: int, device) -> list[dict]:
    """The data path with and without a key, by itself and beside a training step."""
    recipe = replace(PRESETS["fast"], batch_size=batch)
    images = torch.randint(256, (batch, 3, *SPEC.image_size)).to(device, torch.uint8)
    data = ImageSet(images, torch.randint(SPEC.num_classes, (batch,)), SPEC.classes)
    scrambler = ImageScrambler(SPEC.image_size, seed=SEED).to(device)
    paths = {
        "plain": data_path(data, recipe, None, device),
        "scrambled": data_path(data, recipe, scrambler, device),
    }
    step = {"training step": training_step(data, recipe, device)}
    beside = {f"its data path, {name}": path for name, path in paths.items()}
    return [
        *rows_of(f"data path, batch {batch}", paths, images, rounds),
        *rows_of(f"training step of VGG16, batch {batch}", step | beside, images, rounds),
    ]


def markdown(rows: list[dict]) -> str:
    """The rows as a Markdown table."""
    headings = ["batch", "what", "median, ms (quartiles)", "x first", "GB/s", "images/s"]
    lines = [
        (
            *(row["what"], row["candidate"], spread(row, digits=2), f"{row['ratio']:.3g}"),
            f"{row['gigabytes_per_second']:.2f}",
            f"{row['images_per_second']:,.0f}",
        )
        for row in rows
    ]
    return markdown_table(headings, lines)


def main() -> None:
    args = parse_args()
    device = benchmark_flags.set_up(args)
    started = time.perf_counter()
    rows = []
    for count, side, dtype in BATCHES:
        rows += scrambling(count, side, dtype, args.rounds, device)
    rows += training(args.b, args.rounds, device)
    print(markdown(rows))
    if args.out_dir is not None:
        record = {"rows": rows, "device": device.type, "seconds": time.perf_counter() - started}
        write_results(args.out_dir, "pipeline", record, markdown(rows))


if __name__ == "__main__":
    cli.run(main)
