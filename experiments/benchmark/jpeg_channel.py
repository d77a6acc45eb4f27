"""What scrambled pictures cost in a lossy file, and what the network still sees of them.

    python3 jpeg_channel.py -data_dir DIR -out_dir results
    python3 jpeg_channel.py -dataset camvid -data_dir DIR -weights PATH -out_dir results

Every test picture is scrambled, written as a file, read, restored and classified by the plain
network, whose answers are those of the keyed one on the scrambled picture. For every scheme and
every kind of file: bytes of a picture, without the label of ``scramble.py``; PSNR of what is
restored; the score, its difference to the plain picture's in the same kind of file, and standard
errors by the jackknife over pictures. Each row is written as soon as it is known and not measured
again. Writes ``jpeg_channel_DATASET.json`` and ``jpeg_channel_DATASET.md``.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import conf
import torch

from experiments.lib.channel_table import markdown
from experiments.lib.channels import CHANNELS, PLAIN, SCHEMES, Channel
from experiments.lib.report import psnr
from experiments.lib.results import write_results
from utils import cli
from utils.cli import flags
from utils.data.datasets import ImageSet, load_split
from utils.inference.evaluation import all_logits
from utils.inference.network import deploy, load
from utils.io import checkpoint
from utils.runtime.allocator import keep_freed_memory
from utils.runtime.errors import UserError

SHIPPED = conf.CHECKPOINT_DIR / "preresnet20.pt"
CPU = torch.device("cpu")
BATCH = 50  # images of the network's passes


def parse_args():
    parser = cli.Parser("Send scrambled pictures as lossy files: bytes, PSNR, accuracy.")
    flags.add_data(parser, ("cifar10",))
    parser.add_argument(
        "-weights",
        type=Path,
        default=SHIPPED,
        help="of preresnet20; default: those that come along",
    )
    parser.add_argument(
        "-images", type=cli.positive_int, default=None, help="test pictures; default: all"
    )
    parser.add_argument("-out_dir", type=Path, required=True, help="folder for JSON and table")
    return parser.parse_args()


@dataclass(frozen=True)
class Judge:
    """Pictures, and how a network's answers on what became of them are scored.

    Attributes:
        images: uint8 ``(N, 3, H, W)``.
        measure: what the score is called.
        weights_sha256: of the network.
        tally: what to count on pictures like ``images``, ``(N, ...)``, a row for each.
        score: a sum of such rows ``(..., )``, or many, to a number each.
    """

    images: torch.Tensor
    measure: str
    weights_sha256: str
    tally: Callable[[torch.Tensor], torch.Tensor]
    score: Callable[[torch.Tensor], torch.Tensor]


def classification(args) -> Judge:
    """Accuracy of PreResNet-20."""
    trained = load(args.weights, args.dataset)
    deployed = deploy("preresnet20", trained, CPU)
    data = load_split(args.dataset, "test", args.data_dir, trained.spec)
    count = min(args.images or len(data), len(data))
    data = data.subset(torch.arange(count) * len(data) // count)  # files may come by class

    def tally(images: torch.Tensor) -> torch.Tensor:
        seen = ImageSet(images, data.labels, data.classes)
        logits = all_logits(deployed.net, deployed.preprocess, seen, BATCH, CPU, quiet=True)
        right = logits.argmax(1) == data.labels
        return torch.stack([right, torch.ones_like(right)], 1).double()  # (N, 2)

    digest = checkpoint.digest(deployed.net.state_dict())
    return Judge(
        data.images, "accuracy", digest, tally, lambda counts: counts[..., 0] / counts[..., 1]
    )


def without_each(judge: Judge, tally: torch.Tensor) -> torch.Tensor:
    """The score without each of the pictures, ``(N,)``."""
    return judge.score(tally.sum(0) - tally)


def standard_error(scores: torch.Tensor) -> float:
    """Of a score, by the jackknife, from what it is without each of the pictures."""
    return float((scores.var(correction=0) * (len(scores) - 1)).sqrt())


def measure(
    scheme, channel: Channel, judge: Judge, plain: torch.Tensor | None
) -> tuple[dict, torch.Tensor]:
    """A row, and its tally; ``plain`` is that of plain pictures in the same kind of file."""
    started = time.perf_counter()
    restored, sent = scheme.through(channel, judge.images)
    tally = judge.tally(restored)
    plain = tally if plain is None else plain
    score, reference = (float(judge.score(t.sum(0))) for t in (tally, plain))
    left_out, reference_left_out = (without_each(judge, t) for t in (tally, plain))
    row = {
        "scheme": scheme.name,
        "channel": channel.name,
        "key_bits": scheme.bits(tuple(judge.images.shape[2:])),
        "bytes": sent / len(judge.images),
        "psnr": None if torch.equal(restored, judge.images) else psnr(judge.images, restored),
        "score": score,
        "score_error": standard_error(left_out),
        "difference": score - reference,
        "difference_error": standard_error(left_out - reference_left_out),
        "seconds": time.perf_counter() - started,
    }
    return row, tally


def main() -> None:
    args = parse_args()
    flags.writable_folder(args.out_dir, "-out_dir")
    keep_freed_memory()
    name = f"jpeg_channel_{args.dataset}"
    judge = classification(args)
    settings = {
        "dataset": args.dataset,
        "images": len(judge.images),
        "image_size": list(judge.images.shape[2:]),
        "measure": judge.measure,
        "weights_sha256": judge.weights_sha256,
    }
    rows = read(args.out_dir / f"{name}.json", settings)
    done = {(row["scheme"], row["channel"]) for row in rows}
    for channel in CHANNELS:
        left = [s for s in SCHEMES if (s.name, channel.name) not in done]
        if not left:
            continue
        plain_row, plain = measure(PLAIN, channel, judge, None)
        for scheme in left:
            row = plain_row if scheme is PLAIN else measure(scheme, channel, judge, plain)[0]
            print(row, flush=True)
            rows.append(row)
            record = settings | {"rows": rows}
            write_results(args.out_dir, name, record, markdown(record))


def read(path: Path, settings: dict) -> list[dict]:
    """The rows that are there.

    Raises:
        UserError: they were measured on something else.
    """
    if not path.is_file():
        return []
    try:
        record = json.loads(path.read_text())
        found, rows = {name: record[name] for name in settings}, record["rows"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be used ({error!r}); remove it") from error
    if found != settings:
        raise UserError(f"{path}: was made with other settings; give another -out_dir")
    return rows


if __name__ == "__main__":
    cli.run(main)
