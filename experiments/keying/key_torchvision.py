"""Key networks of torchvision, check that nothing changes, and measure what it costs.

    python3 key_torchvision.py -nets resnet18 convnext_tiny -out_dir results

For each architecture, with random weights and live batch-norm statistics, at two image sizes (one
of them H != W where the network allows it): the largest difference between the keyed network on
scrambled images and the plain network on the images, in float64 and relative to how much the output
differs between images, and the same without the key; or the reason why the network cannot be keyed.
The cost is the processor time of a forward pass on one thread, keyed over plain. Writes
``key_torchvision.json`` and ``key_torchvision.md``.
"""

import time
from pathlib import Path

import conf  # noqa: F401
import torch
import torchvision
from torch import nn

from experiments.lib.architectures_table import markdown
from experiments.lib.results import write_results
from models import KeyingError, key_network
from models.keying.verify import evaluate
from operators import ImageScrambler
from utils import cli
from utils.cli import flags

BATCH, REPEATS = 4, 3  # images of a timed pass, timed passes
EXACT = 1e-9  # largest relative difference that is rounding, in float64

# Architecture -> sizes (H, W). The default suits fully convolutional networks.
DEFAULT = ((64, 64), (64, 96))
NETS: dict[str, tuple[tuple[int, int], ...]] = dict.fromkeys(
    (
        *("vgg16", "vgg16_bn", "resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2"),
        *("densenet121", "squeezenet1_0", "squeezenet1_1", "mobilenet_v2", "mobilenet_v3_small"),
        *("mobilenet_v3_large", "shufflenet_v2_x1_0", "shufflenet_v2_x2_0", "efficientnet_b0"),
        *("efficientnet_v2_s", "regnet_x_400mf", "regnet_y_400mf", "mnasnet0_5", "mnasnet1_0"),
        *("convnext_tiny", "swin_t", "swin_v2_t", "fcn_resnet50", "deeplabv3_resnet50"),
        *("deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"),
    ),
    DEFAULT,
) | {
    "alexnet": ((96, 96), (96, 128)),
    "googlenet": ((96, 96), (96, 128)),
    "inception_v3": ((96, 96), (96, 128)),
    "vit_b_16": ((64, 64), (96, 96)),  # square by construction
    "vit_b_32": ((64, 64), (96, 96)),
    "maxvit_t": ((224, 224),),
}


def build(name: str, image_size: tuple[int, int]) -> nn.Module:
    """An architecture in eval mode, with weights and statistics that leave no output constant.

    The statistics are those of a random batch: with arbitrary ones the signal of a deep network
    dies out, its output hardly depends on the image, and equal outputs would say nothing.
    """
    options: dict = {"weights": None}
    if name in torchvision.models.list_models(module=torchvision.models.segmentation):
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    if name.startswith("vit"):
        options["image_size"] = image_size[0]
    generator = torch.Generator().manual_seed(0)
    net = torchvision.models.get_model(name, **options).eval()
    with torch.no_grad():
        for p in net.parameters():
            if p.dim() < 2 or not p.any():  # biases, scales, and heads that start at zero
                p.add_(torch.empty_like(p).normal_(0, 0.1, generator=generator))
        norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
            norm.train()
        net(torch.randn(4, 3, *image_size, generator=generator))
    return net.eval()


def difference(
    net: nn.Module, keyed: nn.Module, scramble: nn.Module, image_size: tuple[int, int]
) -> float:
    """Largest difference between the outputs, relative to that between two images."""
    images = torch.randn(2, 3, *image_size, dtype=torch.float64)
    pairs = zip(evaluate(net, images), evaluate(keyed, scramble(images)), strict=True)
    return max(((a - b).abs().max() / (a[0] - a[1]).abs().max()).item() for a, b in pairs)


def seconds(runs: list[tuple[nn.Module, torch.Tensor]]) -> list[float]:
    """Shortest processor time of each network's forward pass; they take turns."""
    times: list[list[float]] = [[] for _ in runs]
    with torch.no_grad():
        for _ in range(REPEATS + 1):  # the first one warms up
            for (net, x), taken in zip(runs, times, strict=True):
                start = time.process_time()
                net(x)
                taken.append(time.process_time() - start)
    return [min(taken[1:]) for taken in times]


def measure(name: str, image_size: tuple[int, int]) -> dict:
    """One row: an architecture at one image size."""
    torch.manual_seed(0)
    net, scrambler = build(name, image_size), ImageScrambler(image_size, seed=1312)
    row = {"net": name, "image_size": list(image_size)}
    row["parameters"] = sum(p.numel() for p in net.parameters())
    try:
        keyed = key_network(net, scrambler, verify=False).eval()
    except KeyingError as error:
        return row | {"exact": False, "reason": str(error)}
    largest = difference(net, keyed, scrambler, image_size)
    x = torch.rand(BATCH, 3, *image_size)
    plain_s, keyed_s = seconds([(net, x), (keyed, scrambler(x))])
    return row | {
        "exact": largest <= EXACT and list(keyed.state_dict()) == list(net.state_dict()),
        "difference": largest,
        "difference_without_key": difference(net, keyed, nn.Identity(), image_size),
        "plain_s": plain_s,
        "keyed_s": keyed_s,
        "cost": keyed_s / plain_s,
    }


def parse_args():
    parser = cli.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("-nets", nargs="+", choices=NETS, default=list(NETS), help="architectures")
    parser.add_argument("-out_dir", type=Path, required=True, help="folder of the results")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    flags.writable_folder(args.out_dir, "-out_dir")
    torch.set_num_threads(1)  # so that processor time is the time of the work
    rows = []
    for name in args.nets:
        for image_size in NETS[name]:
            rows.append(measure(name, image_size))
            print(markdown(rows[-1:]).splitlines()[-1], flush=True)
            # after each row, so that an interrupted run keeps what it has
            write_results(args.out_dir, "key_torchvision", {"rows": rows}, markdown(rows))


if __name__ == "__main__":
    cli.run(main)
