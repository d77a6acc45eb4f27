"""A whole training run: from named parts to checkpoints, TensorBoard logs and a record.

Files of a run named RUN of a network NET: ``checkpoints/NET/RUN/`` holds ``last.pt``,
``previous.pt``, ``best.pt`` and ``run.json``; ``runs/NET/RUN/`` holds the TensorBoard events.
"""

from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import make_grid

import models
from operators import ImageScrambler
from utils import checkpoint
from utils.batches import Preprocess
from utils.cli import UserError
from utils.data import DATASETS, hold_out, load_split
from utils.engine import Trainer
from utils.recipe import Recipe
from utils.run_record import environment, public_command, write_json

SELECTIONS = ("last", "validation", "test")


@dataclass(frozen=True)
class RunOptions:
    """What a run trains, on what, and where its files go.

    Attributes:
        net: a name of the registry of networks.
        dataset: a key of ``DATASETS``.
        data_dir: where the data set is; None for the default.
        permute: scramble the images.
        train_seed: seed of initial weights, order, augmentation and dropout.
        weights: start from these weights, or None.
        resume: a checkpoint to continue from, or None.
        select: ``last``: no selection; ``validation``: ``best.pt`` is the best epoch on held-out
            training images; ``test``: on the test images, as was published.
        val_fraction: share of the training images that is held out under ``validation``.
        save: write checkpoints and the record.
        checkpoint_dir, log_dir: the roots of the files of all runs.
    """

    net: str
    dataset: str
    data_dir: Path | None
    permute: bool
    train_seed: int
    weights: Path | None
    resume: Path | None
    select: str
    val_fraction: float
    save: bool
    checkpoint_dir: Path
    log_dir: Path


def train(
    options: RunOptions, recipe: Recipe, scrambler: ImageScrambler | None, device: torch.device
) -> dict:
    """Train a network and report on the test set, which is looked at once, at the end.

    Args:
        options: what and where.
        recipe: how.
        scrambler: the key; needed with ``permute`` and by keyed networks.
        device: on which device.

    Returns:
        The record of the run, as in ``run.json``.

    Raises:
        UserError: for anything that the user can mend.
    """
    spec = DATASETS[options.dataset]
    resumed = checkpoint.read(options.resume) if options.resume else None
    fingerprint = scrambler.fingerprint if scrambler is not None and options.permute else None
    if resumed is not None:
        _check_resumable(options, recipe, fingerprint, resumed)
    data = load_split(options.dataset, "train", options.data_dir)
    test = load_split(options.dataset, "test", options.data_dir)
    validation = test if options.select == "test" else None
    if options.select == "validation":
        data, validation = hold_out(data, options.val_fraction, options.train_seed)

    torch.manual_seed(options.train_seed)
    keyed = models.is_keyed(options.net)
    net = models.create_model(options.net, spec.num_classes, scrambler if keyed else None)
    if options.weights is not None:
        checkpoint.load_weights(net, checkpoint.read(options.weights), options.weights)
    # nothing is written before everything that was given has been read
    folder = options.resume.parent if options.resume else _new_folder(options)
    writer = SummaryWriter(options.log_dir / options.net / folder.name)
    scramble = scrambler.to(device) if options.permute else None
    preprocess = Preprocess(spec.mean, spec.std, scramble, recipe.channels_last).to(device)
    _log_pictures(writer, data.images[:8], scrambler if options.permute else None)

    record = (
        resumed["record"]
        if resumed
        else {
            "command": public_command(),
            "net": options.net,
            "dataset": options.dataset,
            "permute": options.permute,
            "key": fingerprint,
            "train_seed": options.train_seed,
            "recipe": asdict(recipe),
            "select": options.select,
            "images": {"train": len(data), "test": len(test)},
            "parameters": sum(p.numel() for p in net.parameters()),
            "resumed": [],
            **environment(),
        }
    )

    def snapshot(trainer: Trainer) -> dict:
        return {
            "net": options.net,
            "data": {"name": options.dataset, "classes": list(data.classes), **asdict(spec)},
            "key": fingerprint,
            "record": record,
            **trainer.state(),
        }

    def save_last(trainer: Trainer) -> None:
        if options.save:
            checkpoint.save_last(folder, snapshot(trainer))
            print(f"saved {folder / checkpoint.LAST}", flush=True)

    trainer = Trainer(
        net.to(device), recipe, data, preprocess, device, options.train_seed, on_stop=save_last
    )
    if resumed is not None:
        trainer.load_state(resumed)
        record["resumed"].append(
            {"epoch": trainer.progress.epoch, "step": trainer.progress.step, **environment()}
        )

    while trainer.progress.epoch < recipe.epochs:
        metrics = trainer.train_epoch()
        if validation is not None:
            metrics[f"{options.select}_accuracy"] = trainer.accuracy(validation)
            best = max(m[f"{options.select}_accuracy"] for m in trainer.history)
        _report(writer, metrics, recipe.epochs, len(data))
        record["epochs"] = trainer.history
        if options.save:
            checkpoint.save_last(folder, snapshot(trainer))
            if validation is not None and metrics[f"{options.select}_accuracy"] == best:
                checkpoint.save(folder / checkpoint.BEST, snapshot(trainer))
            write_json(folder / "run.json", record)

    chosen = folder / (checkpoint.LAST if validation is None else checkpoint.BEST)
    if options.save and validation is not None:
        checkpoint.load_weights(trainer.best_net, checkpoint.read(chosen), chosen)
    record["test_accuracy"] = trainer.accuracy(test)
    print(f"Test accuracy: {record['test_accuracy']:.2%} ({len(test)} images)")
    writer.add_scalar("test/accuracy", record["test_accuracy"], recipe.epochs)
    writer.close()
    if options.save:
        write_json(folder / "run.json", record)
        print(f"weights: {chosen}")
    return record


def _new_folder(options: RunOptions) -> Path:
    """Make the folder of a new run, so that one that cannot be written is found before training."""
    parent = options.checkpoint_dir / options.net
    name = stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    if not options.save:
        return parent / name
    attempt = 0
    while True:
        try:
            (parent / name).mkdir(parents=True)
            return parent / name
        except FileExistsError as error:
            attempt += 1
            if attempt > 100 or not parent.is_dir():
                raise UserError(f"{parent}: cannot hold a new run folder") from error
            name = f"{stamp}-{attempt}"
        except OSError as error:
            raise UserError(f"{parent}: cannot be written ({error.strerror})") from error


def _check_resumable(
    options: RunOptions, recipe: Recipe, fingerprint: str | None, state: dict
) -> None:
    if "progress" not in state:
        raise UserError(f"-resume {options.resume}: bare weights; expected a checkpoint of a run")
    wanted = {
        "net": options.net,
        "key": fingerprint,
        "train_seed": options.train_seed,
        **{f"recipe {name}": value for name, value in asdict(recipe).items()},
    }
    found = {
        "net": state["net"],
        "key": state["key"],
        "train_seed": state["train_seed"],
        **{f"recipe {name}": value for name, value in state["recipe"].items()},
    }
    for name, value in wanted.items():
        if found.get(name) != value:
            raise UserError(
                f"-resume {options.resume}: the run has {name} {found.get(name)}, "
                f"asked for is {value}"
            )


def _report(writer: SummaryWriter, metrics: dict, epochs: int, images: int) -> None:
    epoch = metrics["epoch"]
    for name, value in metrics.items():
        if name != "epoch":
            writer.add_scalar(f"train/{name}", value, epoch)
    writer.flush()
    extra = "".join(f", {n.replace('_', ' ')} {v:.2%}" for n, v in metrics.items() if "_acc" in n)
    print(
        f"epoch {epoch}/{epochs}: loss {metrics['loss']:.4f}, accuracy {metrics['accuracy']:.2%}"
        f"{extra}, lr {metrics['lr']:.4g}, {images / metrics['seconds']:.0f} images/s, "
        f"{metrics['seconds'] * (epochs - epoch) / 60:.0f} min left",
        flush=True,
    )


def _log_pictures(
    writer: SummaryWriter, images: torch.Tensor, scrambler: ImageScrambler | None
) -> None:
    """One grid: plain images, and below them their scrambled and restored forms."""
    rows = [images]
    if scrambler is not None:
        on_device = images.to(scrambler.key.device)
        scrambled = scrambler(on_device)
        rows += [scrambled.cpu(), scrambler.backward(scrambled).cpu()]
    writer.add_image("images", make_grid(torch.cat(rows), nrow=len(images)), 0)
