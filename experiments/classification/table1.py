"""The first table of the paper, all five rows from one set of plain weights.

    python3 table1.py -net "vgg16" -dataset "cifar10" -seed 1312 -weights PATH -out_dir results

Writes ``table1.json`` and ``table1.md``. The fine-tuned row trains on scrambled images, from
the plain weights on; every other row only tests. The test set chooses nothing.
"""

from pathlib import Path

import conf
import torch

import models
from operators import ImageScrambler
from utils import checkpoint, cli, options
from utils.allocator import keep_freed_memory
from utils.data import FOLDER, ImageSet, load_split
from utils.deploy import Deployed, deploy, spec_of, wrong_scrambler
from utils.evaluation import all_logits, count_correct
from utils.files import write_text
from utils.recipe import Recipe
from utils.run_record import environment, public_command, write_json
from utils.training import RunOptions, train

# VGG16 on CIFAR-10, accuracy; Perez, Lopez and Arguello, ICASSP 2024, table 1
PUBLISHED = {
    "plain images": 0.941,
    "same weights, scrambled images": 0.117,
    "fine-tuned on scrambled images": 0.576,
    "keyed network, right key": 0.941,
    "keyed network, wrong key": 0.118,
}


def parse_args():
    parser = cli.Parser("Measure the five rows of the paper's first table from plain weights.")
    parser.add_argument(
        "-net",
        choices=[name for name in models.names() if not models.is_keyed(name)],
        default="vgg16",
        help="network, in its plain form",
    )
    options.add_data(parser)
    options.add_key(parser)
    options.add_backend(parser)
    options.add_device(parser)
    options.add_weights(parser, conf.CHECKPOINT_DIR)
    options.add_recipe(parser, preset="fast")
    parser.add_argument(
        "-log_dir", type=Path, default=conf.LOG_DIR, help="TensorBoard logs of the fine-tuning"
    )
    parser.add_argument(
        "-out_dir", type=Path, required=True, help="folder for table1.json and table1.md"
    )
    args = parser.parse_args()
    options.check_backend(parser, args, keyed=True)
    options.check_init(parser, args)
    return args


def main() -> None:
    args = parse_args()
    device = cli.select_device(args.gpu)
    keep_freed_memory()
    options.writable_folder(args.out_dir, "-out_dir")
    options.writable_folder(args.checkpoint_dir, "-checkpoint_dir")
    options.writable_folder(args.log_dir, "-log_dir")
    recipe = options.recipe_from(args)
    weights = options.weights_from(args)
    options.take_run_key(args, weights)
    state = checkpoint.read(weights)
    spec = spec_of(args.dataset, state, weights)
    image_size = spec.image_size
    key = options.scrambler_from(args, image_size)
    wrong = wrong_scrambler(image_size, args.seed)
    load_split(args.dataset, "train", args.data_dir, spec)  # missing, it is missed before the work
    test = load_split(args.dataset, "test", args.data_dir, spec)

    def deployed(net: str, path: Path, scramble: ImageScrambler | None) -> Deployed:
        return deploy(net, args.dataset, path, key, scramble, device, args.backend)

    def logits(of: Deployed) -> torch.Tensor:
        return all_logits(of.net, of.preprocess, test, recipe.batch_size, device)

    keyed = args.net + models.KEYED_SUFFIX
    plain_net = deployed(args.net, weights, None)
    plain = logits(plain_net)
    with_key = logits(deployed(keyed, weights, key))
    results = {
        "plain images": plain,
        "same weights, scrambled images": logits(deployed(args.net, weights, key)),
        "keyed network, right key": with_key,
        "keyed network, wrong key": logits(deployed(keyed, weights, wrong)),
    }
    for name, values in results.items():
        print(f"{name}: {count_correct(values, test.labels) / len(test):.2%}", flush=True)
    fine_tuned = _fine_tune(args, recipe, weights, key, device)
    results["fine-tuned on scrambled images"] = logits(deployed(args.net, fine_tuned, key))

    comparable = (args.net, args.dataset) == ("vgg16", "cifar10")
    rows = PUBLISHED if comparable else dict.fromkeys(PUBLISHED)
    table = {
        "command": public_command(),
        "net": args.net,
        "dataset": args.dataset,
        "key": key.fingerprint,
        "weights_sha256": checkpoint.digest(plain_net.net.state_dict()),
        "rows": [_row(name, published, results[name], test) for name, published in rows.items()],
        "same_predictions": int((plain.argmax(1) == with_key.argmax(1)).sum()),
        "largest_logit_difference": float((plain - with_key).abs().max()),
        "training": _public(state.get("record")),
        "fine_tuning": _public(checkpoint.read(fine_tuned)["record"]),
        "environment": environment(),
    }
    args.out_dir.mkdir(parents=True, exist_ok=True)
    write_json(args.out_dir / "table1.json", table)
    write_text(args.out_dir / "table1.md", markdown(table))
    print(markdown(table))
    options.warn_of_seed(args)


def _fine_tune(
    args, recipe: Recipe, weights: Path, key: ImageScrambler, device: torch.device
) -> Path:
    run = RunOptions(
        net=args.net,
        dataset=args.dataset,
        data_dir=args.data_dir,
        permute=True,
        train_seed=0,
        weights=weights,
        resume=None,
        select="last",
        val_fraction=0.1,
        save=True,
        checkpoint_dir=args.checkpoint_dir / "fine_tuned",
        log_dir=args.log_dir / "fine_tuned",
        image_size=key.image_size if args.dataset == FOLDER else None,
    )
    train(run, recipe, key, device)
    return checkpoint.newest(args.checkpoint_dir / "fine_tuned", args.net)


def _row(name: str, published: float | None, logits: torch.Tensor, test: ImageSet) -> dict:
    correct = count_correct(logits, test.labels)
    return {
        "name": name,
        "published": published,
        "accuracy": correct / len(test),
        "correct": correct,
        "images": len(test),
    }


def _public(record: dict | None) -> dict | None:
    """The record of a run, its command without local folders, which older records still have."""
    if record is None:
        return None
    return {**record, "command": public_command(record["command"].split())}


def _provenance(title: str, record: dict) -> str:
    """How a run came by its weights, in one sentence."""
    minutes = sum(epoch["seconds"] for epoch in record["epochs"]) / 60
    threads = "1 thread" if record["threads"] == 1 else f"{record['threads']} threads"
    hardware = record["gpu"] or f"{record['cpu']}, {threads}"
    chosen = {
        "last": "last epoch, the test set chose nothing",
        "test": "epoch chosen on the test set",
    }
    selection = chosen.get(record["select"], "epoch chosen on held-out training images")
    resumed = "".join(f", resumed at {_short(part['commit'])}" for part in record["resumed"])
    return (
        f"{title}: `{record['command']}`, epochs: {len(record['epochs'])}, training seed "
        f"{record['train_seed']}, {minutes:.0f} minutes on {hardware}; {selection}; "
        f"commit {_short(record['commit'])}{resumed}."
    )


def _short(commit: str | None) -> str:
    """A commit by its first digits; where files had changed since, it says so."""
    digits, changed, _ = str(commit).partition("+")
    return digits[:7] + (" with changes" if changed else "")


def markdown(table: dict) -> str:
    """The table in Markdown, from what ``table1.json`` holds."""
    lines = [
        f"| {table['net']} on {table['dataset']}, accuracy | published | measured |",
        "|---|---:|---:|",
    ]
    for row in table["rows"]:
        published = "" if row["published"] is None else f"{row['published']:.1%}"
        lines.append(f"| {row['name']} | {published} | {row['accuracy']:.2%} |")
    images = table["rows"][0]["images"]
    lines += [
        "",
        f"With the key, {table['same_predictions']} of {images} predictions equal the plain "
        f"network's; the largest difference of a logit is {table['largest_logit_difference']:.1e}.",
        "",
        f"Table: `{table['command']}`, key {table['key']}, weights {table['weights_sha256'][:16]}.",
    ]
    for name in ("training", "fine_tuning"):
        if table[name] is not None:
            lines.append(_provenance(name.replace("_", "-").capitalize(), table[name]))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    cli.run(main)
