"""The second table of the paper, every row: ours and its three rivals, trained and tested alike.

    python3 table2.py -budget cpu -data_dir DIR -out_dir results
    python3 table2.py -budget full -gpu -data_dir DIR -out_dir results -rows "EtC, adapted" "EtC"

``full`` is each method's published recipe, for a GPU. ``cpu`` trains one small classifier, on the
same images for as many epochs, behind every cipher. The keys are those of seed 30, the published
one of EtC. Each row is written to ``OUT_DIR/table2/BUDGET/`` as soon as it is known and not run
again; one of other settings, pictures or weights is refused. A row that was interrupted goes on
where it stopped. Writes ``table2_BUDGET.json`` and ``table2_BUDGET.md`` from all the rows that are
there.

Differs from the published runs: images are normalised, LE's, ELE's and PrivConv's keys are our own
(``operators.block_ciphers``), and PrivConv's cipher, network and recipe are inferred.
"""

import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import conf
import torch

import models
from experiments.lib.results import collect_results, pictures_sha256, read_results
from experiments.lib.rivals import BUDGETS, SEED, Row
from experiments.lib.rivals_table import markdown
from operators import make_scrambler
from utils import cli
from utils.cli import flags
from utils.data.datasets import FOLDER, load_split
from utils.inference.evaluation import all_logits, count_correct
from utils.inference.network import Deployed, Trained, deploy, load
from utils.io import checkpoint
from utils.io.run_record import environment, public_command, write_json
from utils.runtime.allocator import keep_freed_memory
from utils.runtime.device import select_device
from utils.runtime.errors import UserError
from utils.training.options import RunOptions
from utils.training.recipe import PRESETS, Recipe
from utils.training.run import train

TIMED_IMAGES, ROUNDS = 500, 3


def parse_args():
    parser = cli.Parser("Train and test the rows of the paper's second table.")
    parser.add_argument(
        "-budget",
        choices=BUDGETS,
        default="cpu",
        help="full: the published recipes, for a GPU; cpu: one small classifier behind each cipher",
    )
    parser.add_argument(
        "-rows", nargs="+", default=None, metavar="ROW", help="names of rows (default: all)"
    )
    flags.add_data(parser, ("cifar10",))
    flags.add_device(parser)
    parser.add_argument(
        "-epochs", type=cli.positive_int, default=None, help="default: as the budget says"
    )
    parser.add_argument(
        "-b", type=cli.positive_int, default=None, help="images per step; default: as the recipe"
    )
    parser.add_argument(
        "-checkpoint_dir", type=Path, default=conf.CHECKPOINT_DIR, help="folder of the weights"
    )
    parser.add_argument(
        "-log_dir", type=Path, default=conf.LOG_DIR, help="folder of the TensorBoard logs"
    )
    parser.add_argument("-out_dir", type=Path, required=True, help="folder of the results")
    args = parser.parse_args()
    known = [row.name for row in BUDGETS[args.budget]]
    for name in args.rows or ():
        if name not in known:
            parser.error(f"-rows {name!r}: expected some of {', '.join(map(repr, known))}")
    return args


def main() -> None:
    args = parse_args()
    device = select_device(args.gpu)
    keep_freed_memory()
    for flag in ("out_dir", "checkpoint_dir", "log_dir"):
        flags.writable_folder(getattr(args, flag), f"-{flag}")
    args.pictures_sha256 = pictures_sha256(
        *(load_split("cifar10", split, args.data_dir).images for split in ("train", "test"))
    )
    rows = BUDGETS[args.budget]
    done = {row.name: _read(args, row) for row in rows}
    for row in rows:
        if done[row.name] is None and (args.rows is None or row.name in args.rows):
            print(f"--- {row.name}", flush=True)
            result = trained(args, row, device) if row.uses is None else tested(args, row, device)
            path = _path(args, row)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"settings": settings(args, row), **result})
            done[row.name] = _read(args, row)
    table = {
        "budget": args.budget,
        "command": public_command(),
        "rows": [record for record in done.values() if record is not None],
        "not_run": [name for name, record in done.items() if record is None],
    }
    table = collect_results(args.out_dir, f"table2_{args.budget}", table, markdown(table))
    print(markdown(table))


def recipe_of(args, row: Row) -> Recipe:
    """A row's recipe, with what the command line changes; a warm-up keeps its share of the run."""
    recipe = replace(PRESETS[row.preset], **row.changes)
    recipe = replace(recipe, compile=recipe.compile and args.gpu)  # on a CPU it gives nothing
    if args.epochs is not None:
        warm = recipe.warm * args.epochs / recipe.epochs
        recipe = replace(recipe, epochs=args.epochs, warm=warm)
    return recipe if args.b is None else replace(recipe, batch_size=args.b)


def settings(args, row: Row) -> dict:
    """What a row's result depends on, to tell whether a record of it still holds."""
    key = None if row.cipher is None else make_scrambler(row.cipher, row.image_size, SEED)
    named = asdict(row) | {"recipe": asdict(recipe_of(args, row))}
    named["key"] = None if key is None else key.fingerprint
    named["pictures_sha256"] = args.pictures_sha256
    return json.loads(json.dumps(named))  # as it comes back from a file


def trained(args, row: Row, device: torch.device) -> dict:
    """Train a row's network on its pictures, from where it was interrupted, and test it."""
    folder, recipe = _runs(args, row), recipe_of(args, row)
    run = RunOptions(
        net=row.net,
        dataset=_dataset(args, row),
        data_dir=args.data_dir,
        permute=row.cipher is not None,
        resume=_unfinished(folder, row),
        save=True,
        checkpoint_dir=folder,
        log_dir=args.log_dir / "table2" / args.budget / row.slug,
        image_size=row.image_size if row.resized else None,
    )
    scrambler = None if row.cipher is None else make_scrambler(row.cipher, row.image_size, SEED)
    record = train(run, recipe, scrambler, device)
    return {
        "name": row.name,
        "published": row.published,
        "accuracy": record["test_accuracy"],
        "correct": record["test_correct"],
        "images": record["images"]["test"],
        "parameters": record["parameters"],
        "cost": None,
        "record": record | {"command": public_command()},
    }


def tested(args, row: Row, device: torch.device) -> dict:
    """Test a row's network with the weights that another row trained; a keyed one is timed, too."""
    source = _source(args, row)
    known = _read(args, source)
    if known is None:
        raise UserError(f"-rows {row.name!r} needs the row {source.name!r}, which is not there yet")
    known = known["record"]
    weights = _weights(args, source, known)
    test = load_split("cifar10", "test", args.data_dir, weights.spec)
    scrambler = make_scrambler(row.cipher, row.image_size, SEED)
    batch = recipe_of(args, row).batch_size

    def deployed(net: str, scramble) -> Deployed:
        return deploy(net, weights, device, scrambler, scramble)

    ours = deployed(row.net, scrambler)
    logits = all_logits(ours.net, ours.preprocess, test, batch, device)
    correct = count_correct(logits, test.labels)
    result = {
        "name": row.name,
        "published": row.published,
        "accuracy": correct / len(test),
        "correct": correct,
        "images": len(test),
        "parameters": ours.parameters,
        "cost": None,
        "weights_sha256": known["weights_sha256"],
        "environment": environment(),
    }
    if models.is_keyed(row.net):
        plain = deployed(source.net, None)
        expected = all_logits(plain.net, plain.preprocess, test, batch, device)
        few = test.subset(torch.arange(min(TIMED_IMAGES, len(test))))
        result["same_predictions"] = int((logits.argmax(1) == expected.argmax(1)).sum())
        result["cost"] = seconds(ours, few, batch, device) / seconds(plain, few, batch, device)
    return result


def seconds(of: Deployed, images, batch: int, device: torch.device) -> float:
    """The shortest of some times that a network takes over the images."""
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        all_logits(of.net, of.preprocess, images, batch, device, quiet=True)
        taken.append(time.perf_counter() - start)
    return min(taken)


def _dataset(args, row: Row) -> str:
    """CIFAR-10 as it is, or, where a row resizes it, as a tree of class folders."""
    if row.resized and args.data_dir is None:
        raise UserError(
            f"the row {row.name!r} resizes its pictures; give their tree of class folders, "
            "<split>/<class>/<image>, as -data_dir"
        )
    return FOLDER if row.resized else "cifar10"


def _unfinished(folder: Path, row: Row) -> Path | None:
    """The checkpoint of a run of this row that was interrupted, or None."""
    try:
        return checkpoint.newest(folder, row.net)
    except UserError:
        return None


def _runs(args, row: Row) -> Path:
    return args.checkpoint_dir / "table2" / args.budget / row.slug


def _path(args, row: Row) -> Path:
    return args.out_dir / "table2" / args.budget / f"{row.slug}.json"


def _source(args, row: Row) -> Row:
    """The row whose weights a row is tested with."""
    return next(other for other in BUDGETS[args.budget] if other.name == row.uses)


def _weights(args, row: Row, record: dict) -> Trained:
    """The weights that a row trained, the very ones that its record names."""
    folder = _runs(args, row) / checkpoint.folder_name(row.net) / record["name"]
    try:
        weights = load(folder / record["weights"], "cifar10")
    except UserError as error:
        raise UserError(
            f"{error}; give the -checkpoint_dir that the row {row.name!r} was trained with, or "
            f"remove {_path(args, row)} to train it again"
        ) from error
    if checkpoint.digest(checkpoint.weights_of(weights.state)) != record["weights_sha256"]:
        raise UserError(
            f"{weights.path}: not the weights of {_path(args, row)}, which names their hash; "
            "give their -checkpoint_dir"
        )
    return weights


def _read(args, row: Row) -> dict | None:
    """The record of a row that is complete, or None."""
    expected = {"settings": settings(args, row)}
    source = row.uses and _read(args, _source(args, row))
    if source:
        expected["weights_sha256"] = source["record"]["weights_sha256"]
    return read_results(_path(args, row), expected)


if __name__ == "__main__":
    cli.run(main)
