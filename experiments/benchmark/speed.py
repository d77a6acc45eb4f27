"""Keyed networks beside ordinary ones: inference and training steps, in interleaved rounds.

    python3 speed.py -out_dir results

Candidates, each with the base that its ratio refers to:

    plain              the ordinary network on ordinary images                  1
    deform             keyed, torchvision's deformable convolution (the paper)  plain
    gather             keyed, every map under a key of its own                  plain
    plain, contiguous  the ordinary network, contiguous in place of             plain
                       channels_last, which all others are
    gather, contiguous keyed, contiguous                                        plain, contiguous
    triton             with -gpu: keyed, convolutions by operators.triton_conv  plain
    folded             keyed, inner keys cancelled (models.fold.fold_keys)      plain
    plain, bn folded   the ordinary network, batch-norm absorbed                1
    gather, bn folded  keyed, batch-norm absorbed                               plain, bn folded
    triton, bn folded  with -gpu: the same by operators.triton_conv             plain, bn folded
    folded, bn folded  inner keys cancelled, batch-norm absorbed                plain, bn folded

Results are named after the kind of processor, and the README has columns for each. A processor
with AVX-512 plays one without when ATEN_CPU_CAPABILITY=avx2, ONEDNN_MAX_CPU_ISA=AVX2 and
MKL_ENABLE_INSTRUCTIONS=AVX2 are in its environment. Where bfloat16 is emulated it is left out.

The network is ``-net``; VGG16 has average pooling before its classifier here, so that it takes
images larger than 32x32.
"""

import argparse
import copy
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec

import conf  # noqa: F401
import torch
from torch import nn
from torch.nn import functional as F

from experiments.lib import benchmark_flags
from experiments.lib.charts import bar_chart
from experiments.lib.results import write_results
from experiments.lib.speed_table import label
from experiments.lib.tables import markdown_table
from experiments.lib.timing import peak_memory, spread, time_side_by_side
from models import create_model, key_network, public_name
from models.fold import fold_batch_norm, fold_keys
from operators import ImageScrambler
from operators.gather import Reorder
from utils import cli
from utils.cli import flags
from utils.inference.network import check_training
from utils.io.run_record import environment
from utils.runtime.device import bfloat16_slowdown
from utils.runtime.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MODES = ("inference", "training")
HOLDS_BACK = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
SEED = 1312


def base_of(candidate: str) -> str:
    """The ordinary network in the same form, which a candidate's ratio refers to."""
    _, comma, form = candidate.partition(",")
    return f"plain{comma}{form}"


def image_side(text: str) -> int:
    """A side that VGG16's five poolings divide."""
    side = cli.positive_int(text)
    if side % 32:
        raise argparse.ArgumentTypeError(f"expected a multiple of 32, got {text!r}")
    return side


def parse_args():
    parser = cli.Parser("Time a keyed network beside the plain one, in interleaved rounds.")
    parser.add_argument(
        "-net",
        type=flags.plain_network,
        default="vgg16",
        help="plain network, as train_cifar10.py's",
    )
    parser.add_argument(
        "-sizes", nargs="+", type=image_side, default=[32], help="image sides, pixels"
    )
    parser.add_argument(
        "-b",
        nargs="+",
        type=cli.positive_int,
        default=[64],
        help="batch sizes of inference at 32x32",
    )
    parser.add_argument(
        "-train_b",
        nargs="+",
        type=cli.positive_int,
        default=[128],
        help="batch sizes of training at 32x32; larger images come in smaller batches of as many "
        "pixels, at least 1 image",
    )
    parser.add_argument(
        "-dtype",
        nargs="+",
        choices=DTYPES,
        default=None,
        help="training: by autocast; default: float32, and bfloat16 where it is the faster one",
    )
    benchmark_flags.add(parser, "speed_KIND.json, its table (.md) and its chart (.png)")
    return parser.parse_args()


def plain_for(net: str, side: int) -> nn.Module:
    """A plain network for square images; VGG16's last map is averaged to 1x1 where it is larger."""
    if net != "vgg16" or side == 32:
        return create_model(net, image_size=(side, side))
    larger = create_model(net)
    larger.pool5 = nn.Sequential(larger.pool5, nn.AvgPool2d(side // 32))
    return larger


def keyed_for(net: str, plain: nn.Module, scrambler: ImageScrambler, backend: str) -> nn.Module:
    """The keyed network of a plain one, unverified.

    Raises:
        UserError: if it cannot be keyed for images of this size.
    """
    try:
        return key_network(plain, scrambler, backend=backend, verify=False)
    except (AssertionError, RuntimeError, ValueError) as error:  # torchvision asserts sizes
        height, width = scrambler.image_size
        raise UserError(f"-net {net} cannot be keyed at {height}x{width} ({error})") from error


def networks(
    net: str, mode: str, side: int, scrambler: ImageScrambler, backends: list[str]
) -> dict[str, nn.Module]:
    """The candidates by name."""
    plain = plain_for(net, side).train(mode == "training")
    nets = {"plain": plain} | {name: keyed_for(net, plain, scrambler, name) for name in backends}
    if mode == "inference":
        nets["folded"] = fold_keys(nets["gather"])
        for name in [name for name in nets if name != "deform"]:
            nets[f"{name}, bn folded"] = fold_batch_norm(nets[name], (side, side))
    for name in ("plain", "gather"):
        nets[f"{name}, contiguous"] = copy.deepcopy(nets[name])
    return nets


def inference(net: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return net(images)


def training_step(net: nn.Module, images: torch.Tensor, labels: torch.Tensor, dtype) -> None:
    """Forward, loss, backward; the optimizer's step does not depend on the operators."""
    with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
        loss = F.cross_entropy(net(images), labels)
    net.zero_grad()
    loss.backward()


def reordered_bytes(net: nn.Module, call: Callable[[], object]) -> int:
    """Bytes that the reorderings of ``net`` read and write during ``call``, gradients included."""
    moved = 0

    def count(tensor: torch.Tensor) -> None:
        nonlocal moved
        moved += 2 * tensor.nbytes

    def hook(layer: Reorder, _, output: torch.Tensor) -> None:
        if not layer.identity:
            count(output)
            if output.requires_grad:
                output.register_hook(count)

    layers = [layer for layer in net.modules() if isinstance(layer, Reorder)]
    if not layers:
        return 0
    hooks = [layer.register_forward_hook(hook) for layer in layers]
    call()
    for handle in hooks:
        handle.remove()
    return moved


def measure(mode: str, side: int, batch: int, dtype_name: str, args, device) -> list[dict]:
    """Time all candidates of one configuration; one row each."""
    dtype = DTYPES[dtype_name]
    scrambler = ImageScrambler(side, seed=SEED)
    backends = ["gather", "deform"]
    if device.type == "cuda" and find_spec("triton") is not None:
        backends.append("triton")
    nets = networks(args.net, mode, side, scrambler, backends)
    if mode == "training":
        check_training(nets["plain"], args.net, (side, side), min(batch, 2))
        nets["plain"].train()
    stored = dtype if mode == "inference" else torch.float32
    images = torch.randn(batch, 3, side, side).to(device, stored)
    labels = torch.randint(10, (batch,), device=device)
    calls = {}
    for name, net in nets.items():
        contiguous = name.endswith("contiguous")
        memory_format = torch.contiguous_format if contiguous else torch.channels_last
        net = net.to(device, stored, memory_format=memory_format)
        x = images if name.startswith("plain") else scrambler(images)
        x = x.contiguous(memory_format=memory_format)
        if mode == "inference":
            calls[name] = lambda net=net, x=x: inference(net, x)
        else:
            calls[name] = lambda net=net, x=x: training_step(net, x, labels, dtype)
    bases = {name: base_of(name) for name in nets}
    timings = time_side_by_side(calls, bases, args.rounds, device, slow=("deform",))
    return [
        {
            "mode": mode,
            "side": side,
            "batch": batch,
            "dtype": dtype_name,
            "candidate": name,
            "base": bases[name],
            **asdict(timings[name]),
            "peak_bytes": peak_memory(calls[name], device),
            "reordered_bytes": reordered_bytes(net, calls[name]),
        }
        for name, net in nets.items()
    ]


def build_row(net: str, side: int, rounds: int) -> dict:
    """Time to make a keyed network from a plain one."""
    plain, scrambler = plain_for(net, side), ImageScrambler(side, seed=SEED)

    def build() -> None:
        keyed_for(net, plain, scrambler, "gather")

    timing = time_side_by_side({"build": build}, {"build": "build"}, rounds, torch.device("cpu"))
    row = {"mode": "build", "side": side, "batch": 0, "dtype": "float32", "candidate": "gather"}
    return row | {
        "base": "gather",
        **asdict(timing["build"]),
        "peak_bytes": None,
        "reordered_bytes": 0,
    }


def configurations(args) -> list[tuple[str, int, int, str]]:
    """``(mode, side, batch, dtype)``; batches shrink with the number of pixels."""
    sizes = {"inference": args.b, "training": args.train_b}
    found = [
        (mode, side, max(1, batch * 32 * 32 // side**2), dtype)
        for mode in MODES
        for side in args.sizes
        for batch in sizes[mode]
        for dtype in args.dtype
    ]
    return list(dict.fromkeys(found))


def markdown(rows: list[dict]) -> str:
    """The rows as a Markdown table."""
    headings = ["what", "network", "median, ms (quartiles)", "x base", "base", "peak MiB"]
    headings.append("reordered MB")
    lines = [
        (
            *(label(row), row["candidate"], spread(row, digits=1)),
            *(f"{row['ratio']:.2f}", row["base"]),
            "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:.0f}",
            f"{row['reordered_bytes'] / 1e6:.0f}",
        )
        for row in rows
    ]
    return markdown_table(headings, lines)


def main() -> None:
    args = parse_args()
    device = benchmark_flags.set_up(args)
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(SEED)
    started = time.perf_counter()
    rows = [build_row(args.net, args.sizes[0], args.rounds)]  # refuses what cannot be keyed
    slowdown = bfloat16_slowdown(device.type)
    if args.dtype is None and slowdown >= 1:
        print(f"bfloat16, left out, takes {slowdown:.1f} times float32 here", file=sys.stderr)
    args.dtype = args.dtype or (list(DTYPES) if slowdown < 1 else ["float32"])
    for configuration in configurations(args):
        rows += measure(*configuration, args, device)
        print(f"{label(rows[-1])}: done", file=sys.stderr, flush=True)
    print(markdown(rows))

    if args.out_dir is not None:
        kind = "cuda" if args.gpu else environment()["cpu_capability"].lower()
        record = {"rows": rows, "net": public_name(args.net), "kind": kind, "device": device.type}
        record |= {"held_back": {n: os.environ[n] for n in HOLDS_BACK if n in os.environ}}
        record |= {"bfloat16_slowdown": slowdown, "seconds": time.perf_counter() - started}
        write_results(args.out_dir, f"speed_{kind}", record, markdown(rows))
        groups: dict[str, dict[str, float]] = {}
        for row in rows:
            if row["candidate"] != row["base"]:
                groups.setdefault(label(row), {})[row["candidate"]] = row["ratio"]
        title = f"Keyed {args.net}: time relative to the ordinary network"
        bar_chart(args.out_dir / f"speed_{kind}.png", title, groups)


if __name__ == "__main__":
    cli.run(main)
