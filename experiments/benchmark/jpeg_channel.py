"""What scrambled pictures cost in a lossy file, and what the network still sees of them.

    python3 jpeg_channel.py -data_dir DIR -out_dir results
    python3 jpeg_channel.py -dataset camvid -data_dir DIR -weights PATH -out_dir results

Every test picture is scrambled, written as a file, read, restored and given to the plain network,
whose answers are those of the keyed one on the scrambled picture: PreResNet-20's on CIFAR-10, the
U-Net's on CamVid, whose pictures are cropped to whole blocks of 16 (without ``-weights`` it is left
out). For every scheme and every kind of file: bytes of a picture, without the label of
``scramble.py``; PSNR of what is restored; the score, its difference to that of plain pictures in
such files, and standard errors by the jackknife over pictures. Each row is written as soon as it is
known and not measured again. Writes ``jpeg_channel_DATASET.json`` and ``jpeg_channel_DATASET.md``.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import conf
import torch
from torchvision.transforms.functional import center_crop

from experiments.lib.channel_table import markdown
from experiments.lib.channels import CHANNELS, PLAIN, SCHEMES, Channel, Scheme
from experiments.lib.report import psnr
from experiments.lib.results import pictures_sha256, read_results, write_results
from utils import cli
from utils.cli import flags
from utils.data.datasets import ImageSet, load_split
from utils.data.masks import Fit, MaskSet
from utils.data.segmentation import load_masks
from utils.inference.evaluation import all_labels, all_logits
from utils.inference.network import deploy, load
from utils.inference.segmentation_metrics import confusion_matrix, scores
from utils.io import checkpoint
from utils.runtime.allocator import keep_freed_memory

SHIPPED = conf.CHECKPOINT_DIR / "preresnet20.pt"
CPU = torch.device("cpu")
LARGEST = 16  # side in pixels of the largest blocks
BATCH, FEW = 50, 8  # small and larger pictures of the networks' passes


def parse_args():
    parser = cli.Parser("Send scrambled pictures as lossy files: bytes, PSNR, accuracy.")
    flags.add_data(parser, tuple(JUDGES))
    parser.add_argument(
        "-weights",
        type=Path,
        default=None,
        help="of preresnet20 (default: those that come along) or of unet (default: none, no score)",
    )
    parser.add_argument(
        "-images", type=cli.positive_int, default=None, help="test pictures; default: all"
    )
    parser.add_argument("-out_dir", type=Path, required=True, help="folder for JSON and table")
    args = parser.parse_args()
    if args.images == 1:
        parser.error("-images 1: a standard error takes at least 2 pictures")
    return args


@dataclass(frozen=True)
class Judge:
    """Pictures, and how a network's answers on what became of them are scored.

    Attributes:
        images: uint8 ``(N, 3, H, W)``.
        measure: what the score is called.
        weights_sha256: of the network.
        tally: what is counted on pictures like ``images``, a row for each: ``(N, ...)``.
        score: of a sum of such rows. All four are None without a network.
    """

    images: torch.Tensor
    measure: str | None = None
    weights_sha256: str | None = None
    tally: Callable[[torch.Tensor], torch.Tensor] | None = None
    score: Callable[[torch.Tensor], float] | None = None

    def scores(self, images: torch.Tensor) -> torch.Tensor:
        """The score, then that without each of the pictures: float64 ``(1 + N,)``."""
        rows = self.tally(images)
        total = rows.sum(0)
        left_out = [self.score(total - row) for row in (0 * total, *rows)]
        return torch.tensor(left_out, dtype=torch.float64)


def evenly(data: ImageSet | MaskSet, count: int | None) -> ImageSet | MaskSet:
    """``count`` pictures from all over a data set, whose files may come by class; None for all."""
    count = min(count or len(data), len(data))
    return data.subset(torch.arange(count) * len(data) // count)


def accuracy(args) -> Judge:
    """Accuracy of PreResNet-20 on CIFAR-10."""
    trained = load(args.weights or SHIPPED, args.dataset)
    deployed = deploy("preresnet20", trained, CPU)
    data = evenly(load_split(args.dataset, "test", args.data_dir, trained.spec), args.images)

    def tally(images: torch.Tensor) -> torch.Tensor:
        seen = ImageSet(images, data.labels, data.classes)
        logits = all_logits(deployed.net, deployed.preprocess, seen, BATCH, CPU, quiet=True)
        right = logits.argmax(1) == data.labels
        return torch.stack([right, torch.ones_like(right)], 1).double()  # (N, 2)

    digest = checkpoint.digest(deployed.net.state_dict())
    return Judge(
        data.images, "accuracy", digest, tally, lambda counts: float(counts[0] / counts[1])
    )


def mean_iou(args) -> Judge:
    """Mean intersection over union of the U-Net on CamVid; without weights, on nothing."""
    data = cropped(evenly(load_masks(args.dataset, "test", args.data_dir), args.images))
    if args.weights is None:
        return Judge(data.images)
    deployed = deploy("unet", load(args.weights, args.dataset), CPU, maps=True)

    def tally(images: torch.Tensor) -> torch.Tensor:
        seen = replace(data, images=images)
        maps = all_labels(deployed.net, deployed.preprocess, seen, FEW, CPU, quiet=True)
        each = torch.arange(len(maps)).split(1)
        return torch.stack([confusion_matrix(maps[i], data.subset(i)) for i in each])  # (N, K, K)

    digest = checkpoint.digest(deployed.net.state_dict())
    return Judge(data.images, "mean IoU", digest, tally, lambda matrix: scores(matrix)["miou"])


def cropped(data: MaskSet) -> MaskSet:
    """The centres of pictures, as large as whole blocks of ``LARGEST`` allow."""
    size = tuple(side // LARGEST * LARGEST for side in data.images.shape[2:])
    labels = center_crop(data.labels, size)
    fits = (Fit.into(size, size),) * len(data)
    return MaskSet(center_crop(data.images, size), labels, data.classes, tuple(labels), fits)


JUDGES = {"cifar10": accuracy, "camvid": mean_iou}


def standard_error(left_out: torch.Tensor) -> float:
    """Of a score, by the jackknife, from the scores without each of the pictures ``(N,)``."""
    return float((left_out.var(correction=0) * (len(left_out) - 1)).sqrt())


def measure(
    scheme: Scheme, channel: Channel, judge: Judge, plain: torch.Tensor | None
) -> tuple[dict, torch.Tensor | None]:
    """A row, and the scores; ``plain`` are those of plain pictures in the same kind of file."""
    started = time.perf_counter()
    restored, sent = scheme.through(channel, judge.images)
    row = {
        "scheme": scheme.name,
        "channel": channel.name,
        "key_bits": scheme.bits(tuple(judge.images.shape[2:])),
        "bytes": sent / len(judge.images),
        "psnr": None if torch.equal(restored, judge.images) else psnr(judge.images, restored),
    }
    if judge.tally is None:
        return row, None
    found = judge.scores(restored)
    difference = found - (found if plain is None else plain)
    return row | {
        "score": float(found[0]),
        "score_error": standard_error(found[1:]),
        "difference": float(difference[0]),
        "difference_error": standard_error(difference[1:]),
        "seconds": time.perf_counter() - started,
    }, found


def main() -> None:
    args = parse_args()
    flags.writable_folder(args.out_dir, "-out_dir")
    keep_freed_memory()
    name = f"jpeg_channel_{args.dataset}"
    judge = JUDGES[args.dataset](args)
    settings = {
        "dataset": args.dataset,
        "images": len(judge.images),
        "image_size": list(judge.images.shape[2:]),
        "pictures_sha256": pictures_sha256(judge.images),
        "measure": judge.measure,
        "weights_sha256": judge.weights_sha256,
    }
    earlier = read_results(args.out_dir / f"{name}.json", settings, "rows")
    rows = [] if earlier is None else earlier["rows"]
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


if __name__ == "__main__":
    cli.run(main)
