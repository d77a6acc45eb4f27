"""The first table of the paper, all five rows from one set of plain weights.

    python3 table1.py -net "vgg16" -dataset "cifar10" -seed 1312 -weights PATH -out_dir results

Writes ``table1.json`` and ``table1.md``. The fine-tuned row trains on scrambled images, from
the plain weights on; every other row only tests. The test set chooses nothing.
"""

import shlex
from pathlib import Path

import conf
import torch

import models
from experiments.lib.accuracy_table import markdown
from experiments.lib.results import write_results
from experiments.lib.testing import load_with_key, training_of
from operators import ImageScrambler
from utils import cli
from utils.cli import flags
from utils.data.datasets import FOLDER, ImageSet, load_split
from utils.inference.evaluation import all_logits, count_correct
from utils.inference.network import Deployed, Trained, deploy, load, wrong_scrambler
from utils.io import checkpoint
from utils.io.run_record import public_command
from utils.training.recipe import Recipe
from utils.training.run import train

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
    flags.add_data(parser)
    flags.add_cipher(parser)
    flags.add_key(parser)
    flags.add_backend(parser)
    flags.add_device(parser)
    flags.add_weights(parser, conf.CHECKPOINT_DIR)
    flags.add_recipe(parser, preset="fast")
    parser.add_argument(
        "-log_dir", type=Path, default=conf.LOG_DIR, help="TensorBoard logs of the fine-tuning"
    )
    parser.add_argument(
        "-out_dir", type=Path, required=True, help="folder for table1.json and table1.md"
    )
    args = parser.parse_args()
    flags.check_backend(parser, args, keyed=True)
    flags.check_init(parser, args)
    flags.check_cipher(parser, args, scrambled=True, keyed=True)
    return args


def main() -> None:
    args = parse_args()
    flags.writable_folder(args.out_dir, "-out_dir")
    flags.writable_folder(args.checkpoint_dir, "-checkpoint_dir")
    flags.writable_folder(args.log_dir, "-log_dir")
    recipe = flags.recipe_from(args)
    device, trained, key = load_with_key(args)
    spec = trained.spec
    wrong = wrong_scrambler(spec.image_size, args.seed, key.cipher)
    load_split(args.dataset, "train", args.data_dir, spec)  # if missing, say so now
    test = load_split(args.dataset, "test", args.data_dir, spec)

    def deployed(net: str, scramble: ImageScrambler | None, weights: Trained = trained) -> Deployed:
        return deploy(net, weights, device, key, scramble, args.backend)

    def logits(of: Deployed) -> torch.Tensor:
        return all_logits(of.net, of.preprocess, test, recipe.batch_size, device)

    keyed = args.net + models.KEYED_SUFFIX
    plain_net = deployed(args.net, None)
    plain = logits(plain_net)
    with_key = logits(deployed(keyed, key))
    results = {
        "plain images": plain,
        "same weights, scrambled images": logits(deployed(args.net, key)),
        "keyed network, right key": with_key,
        "keyed network, wrong key": logits(deployed(keyed, wrong)),
    }
    for name, values in results.items():
        print(f"{name}: {count_correct(values, test.labels) / len(test):.2%}", flush=True)
    fine_tuned = _fine_tune(args, recipe, trained.path, key, device)
    results["fine-tuned on scrambled images"] = logits(deployed(args.net, key, fine_tuned))

    comparable = (args.net, args.dataset, key.cipher) == ("vgg16", "cifar10", "pixels")
    rows = PUBLISHED if comparable else dict.fromkeys(PUBLISHED)
    table = {
        "command": public_command(),
        "net": args.net,
        "dataset": args.dataset,
        "cipher": key.cipher,
        "key": key.fingerprint,
        "weights_sha256": checkpoint.digest(plain_net.net.state_dict()),
        "rows": [_row(name, published, results[name], test) for name, published in rows.items()],
        "same_predictions": int((plain.argmax(1) == with_key.argmax(1)).sum()),
        "largest_logit_difference": float((plain - with_key).abs().max()),
        "training": _public(training_of(trained)),
        "fine_tuning": _public(fine_tuned.state["record"]),
    }
    write_results(args.out_dir, "table1", table, markdown(table))
    print(markdown(table))
    flags.warn_of_few_keys(args, key.image_size)


def _fine_tune(
    args, recipe: Recipe, weights: Path, key: ImageScrambler, device: torch.device
) -> Trained:
    run = flags.run_options(
        args,
        permute=True,
        weights=weights,
        save=True,
        checkpoint_dir=args.checkpoint_dir / "fine_tuned",
        log_dir=args.log_dir / "fine_tuned",
        image_size=key.image_size if args.dataset == FOLDER else None,
    )
    train(run, recipe, key, device)
    return load(checkpoint.newest(run.checkpoint_dir, args.net), args.dataset)


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
    return {**record, "command": public_command(shlex.split(record["command"]))}


if __name__ == "__main__":
    cli.run(main)
