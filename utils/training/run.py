"""A whole training run, from named parts to trained weights and a record; or one for each seed."""

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timezone
from pathlib import Path

import torch
from torch import nn

import models
from models.stochastic_depth import residual_blocks
from operators import BlockCipher, ImageScrambler, PerImageScrambler, SecretKey
from utils.data.augment import Preprocess
from utils.data.datasets import (
    DatasetSpec,
    ImageSet,
    load_split,
    load_train,
    split_train_validation,
)
from utils.data.stream import ImageFiles
from utils.inference import network
from utils.inference.network import per_image_scrambling
from utils.io import checkpoint
from utils.io.run_files import RunFiles, clear_strays, new_folder
from utils.io.run_record import environment, public_command, write_json
from utils.runtime import distributed
from utils.runtime.device import amp_is_on
from utils.runtime.errors import UserError
from utils.runtime.stop import StopSignal, leave
from utils.runtime.streams import derive_seed
from utils.training.init import whitening_init
from utils.training.recipe import Recipe, from_saved
from utils.training.trainer import Trainer

INIT_PIXELS = 2000 * 32 * 32  # for statistics, in images from all over the training set
SELECTIONS = ("last", "validation", "test")


@dataclass(frozen=True)
class RunOptions:
    """What a run trains, on what, and where its files go.

    Attributes:
        net: a name in the registry of networks.
        dataset: one of ``datasets.NAMES``.
        data_dir: where the data set is; None for the default.
        permute: scramble the images.
        train_seed: seed of initial weights, order, augmentation and dropout.
        weights: start from these weights, or None.
        resume: a checkpoint to continue from, or None.
        select: ``last``: no selection; ``validation``: ``best.pt`` is the best epoch on the
            validation split; ``test``: on the test images, as was published.
        val_fraction: fraction of the training images in the validation split.
        save: write checkpoints and the record; needed to select. A resumed run always does.
        checkpoint_dir, log_dir: the roots of the files of all runs.
        backend: how the layers of a keyed network compute.
        image_size, workers: of the data set ``folder``, as for ``datasets.load_train``.
        save_every: also save after so many steps of an epoch; 0 for at its end only.
        run_key: the key of ``scrambler`` where the user holds no file of it, to be kept in the
            folder of a new run; else None.
    """

    net: str
    dataset: str
    data_dir: Path | None
    checkpoint_dir: Path
    log_dir: Path
    permute: bool = False
    train_seed: int = 0
    weights: Path | None = None
    resume: Path | None = None
    select: str = "last"
    val_fraction: float = 0.1
    save: bool = False
    backend: str = "auto"
    image_size: tuple[int, int] | None = None
    workers: int | None = None
    save_every: int = 0
    run_key: SecretKey | None = None


def train(
    options: RunOptions,
    recipe: Recipe,
    scrambler: ImageScrambler | BlockCipher | None,
    device: torch.device,
    per_image: PerImageScrambler | None = None,
) -> dict:
    """Train a network and report on the test set, which is looked at once, at the end.

    Args:
        options: what and where.
        recipe: how.
        scrambler: the key; needed with ``permute`` and by keyed networks.
        device: on which device.
        per_image: with ``permute``, what scrambles each image under a key of its own, derived from
            that of ``scrambler``; None for the same key for all.

    Returns:
        The record of the run, as in ``run.json``.

    Raises:
        UserError: for anything that the user can mend; where the run has not begun, no file was
            written.
    """
    if recipe.sync_bn and device.type != "cuda":
        raise UserError("-sync_bn works on GPUs only; add -gpu or leave it out")
    permuting = scrambler if options.permute else None
    resumed = None
    if options.resume is not None:
        resumed = distributed.broadcast(lambda: checkpoint.read(options.resume))
        _check_resumable(options, recipe, permuting, per_image, resumed)
    asked = recipe.amp
    recipe = replace(recipe, amp=distributed.broadcast(lambda: _amp(recipe, resumed, device)))
    data, validation, test, spec = distributed.local_main_process_first(lambda: _load(options))
    torch.manual_seed(derive_seed("initial weights", options.train_seed))
    net = _network(options, spec, scrambler, device)
    _check_recipe(options, recipe, net, spec)
    if resumed is None:
        record = _new_record(options, recipe, permuting, per_image, net, len(data), len(test))
    else:
        record = resumed["record"]
        if record["images"]["train"] != len(data):
            raise UserError(
                f"-resume {options.resume}: the run has {record['images']['train']} training "
                f"images; {len(data)} are there now"
            )
    last = len(data) % recipe.batch_size or recipe.batch_size
    if min(last, recipe.batch_size) < 2 * distributed.world_size():
        smallest = 2 * recipe.sizes[:1] or spec.image_size
        network.check_batch_of_one(net, smallest)
    files = _open_files(options)
    if asked == "auto" and distributed.is_main_process():
        arithmetic = "bfloat16 autocast" if recipe.amp == "on" else "float32"
        print(f"arithmetic: {arithmetic} (-amp {recipe.amp})", flush=True)
    if options.run_key is not None and resumed is None:
        files.write_key(options.run_key)
    record["name"] = files.folder.name
    files.log_pictures(_examples(data, permuting, per_image))

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
    trainer = Trainer(net, recipe, data, preprocess, device, options.train_seed, options.save_every)
    if resumed is not None:
        trainer.load_state(resumed)
        p = trainer.progress
        where = {"epoch": p.epoch, "step": p.step, "amp": recipe.amp}
        record["resumed"].append(where | environment())

    def snapshot() -> dict:
        return {
            "net": options.net,
            "data": {"name": options.dataset, **asdict(spec), "classes": list(data.classes)},
            "key": record["key"],
            "record": record,
            **trainer.state(),
        }

    _run_epochs(trainer, files, record, validation, snapshot)
    if validation is not None:
        best = distributed.broadcast(lambda: checkpoint.read(files.folder / checkpoint.BEST))
        checkpoint.load_weights(trainer.best_net, best, files.folder / checkpoint.BEST)
    correct = trainer.count_correct(test)
    record |= {
        "test_correct": correct,
        "test_accuracy": correct / len(test),
        "weights": checkpoint.LAST if validation is None else checkpoint.BEST,
        "weights_sha256": checkpoint.digest(trainer.best_net.state_dict()),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    files.write_record(record)
    files.report_test(record)
    return record


def train_seeds(
    seeds: list[int],
    options: RunOptions,
    recipe: Recipe,
    scrambler: ImageScrambler | BlockCipher | None,
    device: torch.device,
    per_image: PerImageScrambler | None = None,
) -> dict:
    """Train once with each seed, and report mean and standard deviation of the test accuracies.

    Returns:
        The summary, which ``seeds.json`` beside the runs holds too if they are saved.
    """
    records = [
        train(replace(options, train_seed=seed), recipe, scrambler, device, per_image)
        for seed in seeds
    ]
    accuracies = [record["test_accuracy"] for record in records]
    summary = {
        "seeds": seeds,
        "runs": [record["name"] for record in records],
        "test_accuracies": accuracies,
        "mean": statistics.fmean(accuracies),
        "standard_deviation": statistics.stdev(accuracies),
        "select": options.select,
    }
    if distributed.is_main_process():
        print(
            f"Test accuracy over {len(seeds)} seeds: {summary['mean']:.2%} "
            f"+- {summary['standard_deviation']:.2%} (mean, standard deviation)"
        )
        if options.save:
            name = f"{summary['runs'][0]}.seeds.json"
            write_json(options.checkpoint_dir / checkpoint.folder_name(options.net) / name, summary)
    return summary


def _run_epochs(trainer: Trainer, files: RunFiles, record: dict, validation, snapshot) -> None:
    """Train to the last epoch, saving after each; a signal ends the process after saving."""
    chosen_by = f"{record['select']}_accuracy"

    def save() -> Path | None:
        return distributed.broadcast(lambda: files.save_last(snapshot()))

    files.write_record(record)
    with StopSignal() as stop:
        while trainer.progress.epoch < trainer.recipe.epochs:
            metrics = trainer.train_epoch(stop, save)
            record["epochs"] = trainer.history
            if validation is not None:
                metrics[chosen_by] = trainer.count_correct(validation) / len(validation)
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
        return from_saved(resumed["recipe"]).amp
    return "on" if amp_is_on("auto", device) else "off"


def _load(options: RunOptions):
    """The images to train, to choose by (or None) and to test on, and what they are."""
    where = (options.data_dir, options.image_size, options.workers)
    data, spec = load_train(options.dataset, *where)
    test = load_split(options.dataset, "test", options.data_dir, spec, options.workers)
    validation = test if options.select == "test" else None
    if options.select == "validation":
        data, validation = split_train_validation(data, options.val_fraction, options.train_seed)
    return data, validation, test, spec


def _network(
    options: RunOptions,
    spec: DatasetSpec,
    scrambler: ImageScrambler | BlockCipher | None,
    device: torch.device,
) -> nn.Module:
    """The network with its initial weights, on its device."""
    net = network.build(
        options.net, spec.num_classes, spec.image_size, scrambler, device, options.backend
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


def _examples(
    data: ImageSet | ImageFiles,
    permuting: ImageScrambler | BlockCipher | None,
    per_image: PerImageScrambler | None,
) -> list[torch.Tensor]:
    """Some images, and where they are scrambled, their scrambled and their restored forms."""
    images = next(iter(data.batches([torch.arange(min(8, len(data)))])))
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


def _new_record(
    options: RunOptions,
    recipe: Recipe,
    permuting: ImageScrambler | BlockCipher | None,
    per_image: PerImageScrambler | None,
    net: nn.Module,
    train_images: int,
    test_images: int,
) -> dict:
    return {
        "command": public_command(),
        "net": options.net,
        "dataset": options.dataset,
        "permute": options.permute,
        "per_image": per_image is not None,
        "cipher": None if permuting is None else permuting.cipher,
        "key": None if permuting is None else permuting.fingerprint,
        "train_seed": options.train_seed,
        "recipe": asdict(recipe),
        "select": options.select,
        "val_fraction": options.val_fraction if options.select == "validation" else None,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "images": {"train": train_images, "test": test_images},
        "parameters": sum(p.numel() for p in net.parameters()),
        "epochs": [],
        "resumed": [],
        **environment(),
    }


def _check_resumable(
    options: RunOptions,
    recipe: Recipe,
    permuting: ImageScrambler | BlockCipher | None,
    per_image: PerImageScrambler | None,
    state: dict,
) -> None:
    if "format" not in state:
        raise UserError(f"-resume {options.resume}: bare weights; expected a checkpoint of a run")
    if state["format"] != checkpoint.FORMAT:
        raise UserError(
            f"-resume {options.resume}: checkpoint format {state['format']}, whose random streams "
            f"are no longer drawn; format {checkpoint.FORMAT} can be resumed. -load_weights starts "
            "from its weights"
        )
    record = state["record"]
    found_recipe = from_saved(state["recipe"])
    pairs = {
        "-net": (state["net"], options.net),
        "-dataset": (state["data"]["name"], options.dataset),
        "-permute": (record["permute"], options.permute),
        "-per_image": (record.get("per_image", False), per_image is not None),
        "-cipher": (
            network.cipher_of_run(record),
            None if permuting is None else permuting.cipher,
        ),
        "key": (state["key"], None if permuting is None else permuting.fingerprint),
        "-train_seed": (state["train_seed"], options.train_seed),
        "-select": (record["select"], options.select),
        "-image_size": (state["data"]["image_size"], options.image_size),
    }
    if options.image_size is None:
        del pairs["-image_size"]
    if record.get("val_fraction") is not None:
        pairs["-val_fraction"] = (record["val_fraction"], options.val_fraction)
    for name in sorted(f.name for f in fields(Recipe) if f.name != "amp"):  # the machine's, not its
        pairs[f"recipe {name}"] = (getattr(found_recipe, name), getattr(recipe, name))
    for name, (found, wanted) in pairs.items():
        if found != wanted:
            raise UserError(
                f"-resume {options.resume}: the run has {name} {found}, asked for is {wanted}; "
                f"repeat the flags of its command: {record['command']} (paths are shortened there)"
            )
