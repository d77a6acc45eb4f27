"""A whole training run, from named parts to trained weights and a record."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import nn

import models
from models.stochastic_depth import residual_blocks
from operators import BlockCipher, ImageScrambler, PerImageScrambler
from utils.data.augment import Preprocess
from utils.data.datasets import DatasetSpec, ImageSet
from utils.data.stream import ImageFiles
from utils.inference import network
from utils.inference.network import per_image_scrambling
from utils.io import checkpoint
from utils.io.run_files import RunFiles, clear_strays, new_folder
from utils.io.run_record import environment
from utils.runtime import distributed
from utils.runtime.device import amp_is_on
from utils.runtime.errors import UserError
from utils.runtime.stop import StopSignal, leave
from utils.runtime.streams import derive_seed
from utils.training.init import whitening_init
from utils.training.options import RunOptions
from utils.training.recipe import Recipe, from_saved
from utils.training.record import new_record, results
from utils.training.resuming import check_resumable
from utils.training.task import Classification, Task
from utils.training.trainer import Trainer

INIT_PIXELS = 2000 * 32 * 32  # for statistics, in images from all over the training set


def train(
    options: RunOptions,
    recipe: Recipe,
    scrambler: ImageScrambler | BlockCipher | None,
    device: torch.device,
    per_image: PerImageScrambler | None = None,
    task: Task | None = None,
) -> dict:
    """Train a network and report on the test set, which is looked at once, at the end.

    Args:
        options: what and where.
        recipe: how.
        scrambler: the key; needed with ``permute`` and by keyed networks.
        device: on which device.
        per_image: with ``permute``, what scrambles each image under a key of its own, derived from
            that of ``scrambler``; None for the same key for all.
        task: what the network learns; None for classification.

    Returns:
        The record of the run, as in ``run.json``.

    Raises:
        UserError: for anything that the user can mend; where the run has not begun, no file was
            written.
    """
    if recipe.sync_bn and device.type != "cuda":
        raise UserError("-sync_bn works on GPUs only; add -gpu or leave it out")
    task = task or Classification()
    permuting = scrambler if options.permute else None
    resumed = None
    if options.resume is not None:
        resumed = distributed.broadcast(lambda: checkpoint.read(options.resume))
        check_resumable(options, recipe, permuting, per_image, resumed)
    asked = recipe.amp
    recipe = replace(recipe, amp=distributed.broadcast(lambda: _amp(recipe, resumed, device)))
    splits = distributed.local_main_process_first(lambda: task.load(options))
    data, validation, test, spec, _ = splits
    torch.manual_seed(derive_seed("initial weights", options.train_seed))
    net = _network(options, spec, scrambler, device, task.maps)
    task = task.prepare(options.net, recipe, data, permuting, per_image)
    _check_recipe(options, recipe, net, spec)
    if resumed is None:
        record = new_record(options, recipe, permuting, per_image, net, splits)
    else:
        record = resumed["record"]
        if record["images"]["train"] != len(data):
            raise UserError(
                f"-resume {options.resume}: the run has {record['images']['train']} training "
                f"images; {len(data)} are there now"
            )
    last = len(data) % recipe.batch_size or recipe.batch_size
    single = min(last, recipe.batch_size) < 2 * distributed.world_size()
    smallest = 2 * recipe.sizes[:1] or spec.image_size
    network.check_training(net, options.net, smallest, 1 if single else 2)
    files = _open_files(options)
    if asked == "auto" and distributed.is_main_process():
        arithmetic = "bfloat16 autocast" if recipe.amp == "on" else "float32"
        print(f"arithmetic: {arithmetic} (-amp {recipe.amp})", flush=True)
    if options.run_key is not None and resumed is None:
        files.write_key(options.run_key)
    record["name"] = files.folder.name
    files.log_pictures(task.examples(data, permuting, per_image))

    scramble = permuting.to(device) if permuting is not None else None
    if per_image is not None:
        server = per_image if models.is_keyed(options.net) else None
        scramble = per_image_scrambling(per_image, server)
    arriving = network.received(options.net, scrambler, scramble)
    preprocess = Preprocess(spec.mean, spec.std, arriving, recipe.channels_last).to(device)
    if recipe.init == "whiten" and resumed is None and options.weights is None:
        # a keyed layer computes on what its key restores
        seen = None if models.is_keyed(options.net) else scramble
        _init_by_whitening(net, data, spec, seen, device)
    trainer = Trainer(
        net, recipe, data, preprocess, device, options.train_seed, options.save_every, task
    )
    if resumed is not None:
        trainer.load_state(resumed)
        p = trainer.progress
        where = {"epoch": p.epoch, "step": p.step, "amp": recipe.amp}
        record["resumed"].append(where | environment())

    def snapshot() -> dict:
        return {
            "net": models.public_name(options.net),
            "data": {"name": options.dataset, **asdict(spec), "classes": list(data.classes)},
            "key": record["key"],
            "record": record,
            **trainer.state(),
        }

    _run_epochs(trainer, files, record, validation, snapshot)
    if validation is not None:
        best = distributed.broadcast(lambda: checkpoint.read(files.folder / checkpoint.BEST))
        checkpoint.load_weights(trainer.best_net, best, files.folder / checkpoint.BEST)
    record |= results(trainer.evaluate(test), validation is not None, trainer.best_net)
    files.write_record(record)
    files.report_test(record, task.score)
    return record


def _run_epochs(trainer: Trainer, files: RunFiles, record: dict, validation, snapshot) -> None:
    """Train to the last epoch, saving after each; a signal ends the process after saving."""
    score = trainer.task.score
    chosen_by = f"{record['select']}_{score}"

    def save() -> Path | None:
        return distributed.broadcast(lambda: files.save_last(snapshot()))

    files.write_record(record)
    with StopSignal() as stop:
        while trainer.progress.epoch < trainer.recipe.epochs:
            metrics = trainer.train_epoch(stop, save)
            record["epochs"] = trainer.history
            if validation is not None:
                metrics[chosen_by] = trainer.evaluate(validation)[score]
                # before last.pt: if a kill comes between, the epoch is done again and this too
                if metrics[chosen_by] == max(m[chosen_by] for m in trainer.history):
                    distributed.broadcast(lambda: files.save_best(snapshot()))
            saved = save()
            files.write_record(record)
            files.report(metrics, trainer.recipe.epochs, len(trainer.labels))
            if received := stop.received():
                leave(received, saved)


def _amp(recipe: Recipe, resumed: dict | None, device: torch.device) -> str:
    """``on`` or ``off``: as asked, else as the resumed run has it, else by what is fast here."""
    if recipe.amp != "auto":
        return recipe.amp
    if resumed is not None:
        return from_saved(resumed["recipe"], type(recipe)).amp
    return "on" if amp_is_on("auto", device) else "off"


def _network(
    options: RunOptions,
    spec: DatasetSpec,
    scrambler: ImageScrambler | BlockCipher | None,
    device: torch.device,
    maps: bool,
) -> nn.Module:
    """The network with its initial weights, on its device."""
    size = spec.image_size
    net = network.build(
        options.net, spec.num_classes, size, scrambler, device, options.backend, maps
    )
    if options.weights is not None:
        state = distributed.broadcast(lambda: checkpoint.read(options.weights))
        checkpoint.load_weights(net, state, options.weights)
    return net


def _check_recipe(options: RunOptions, recipe: Recipe, net: nn.Module, spec: DatasetSpec) -> None:
    """Refuse what the network or the images do not allow."""
    if recipe.depth_kept < 1 and (models.is_keyed(options.net) or not residual_blocks(net)):
        raise UserError(
            f"-depth_kept {recipe.depth_kept:g} skips blocks of a plain PreResNet; "
            f"-net {options.net} has none that could be skipped; give -depth_kept 1"
        )
    if recipe.sizes:
        sizes, (height, width) = ",".join(map(str, recipe.sizes)), spec.image_size
        if not recipe.sizes[-1] == height == width:
            raise UserError(
                f"-sizes {sizes}: the last must be that of the images, which are {height}x{width}"
            )
        if options.permute and len(recipe.sizes) > 1:
            raise UserError(
                f"-sizes {sizes}: a key scrambles images of one size; "
                f"give -sizes {height} with -permute"
            )
        for side in recipe.sizes[:-1]:
            network.check_size(net, options.net, (side, side))


def _init_by_whitening(
    net: nn.Module,
    data: ImageSet | ImageFiles,
    spec: DatasetSpec,
    scramble: Callable[[torch.Tensor], torch.Tensor] | None,
    device: torch.device,
) -> None:
    """Whitening initialisation, by a sample of images from all over the training set."""
    count = max(1, INIT_PIXELS // (spec.image_size[0] * spec.image_size[1]))
    sample = torch.linspace(0, len(data) - 1, min(len(data), count)).long()
    (images,) = data.batches([sample])
    whitening_init(net, Preprocess(spec.mean, spec.std, scramble).to(device)(images.to(device)))


def _open_files(options: RunOptions) -> RunFiles:
    name = checkpoint.folder_name(options.net)
    if options.resume is not None:
        folder = options.resume.parent
    else:
        parent = options.checkpoint_dir / name
        folder = distributed.broadcast(lambda: new_folder(parent, options.save))
    if not distributed.is_main_process():
        return RunFiles(folder, None, keep=False)
    clear_strays(folder)
    keep = options.save or options.resume is not None
    return RunFiles(folder, options.log_dir / name / folder.name, keep)
