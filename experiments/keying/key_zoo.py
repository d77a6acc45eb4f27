"""Key a list of networks, check that nothing changes, measure what stays scrambled and the cost.

    python3 key_zoo.py -nets torchvision:resnet18 timm:vit_tiny_patch16_224 -out_dir results

Of each network, with random weights and live batch-norm statistics: its parameters; whether
``key_network`` finds the keyed network equal to the plain one, or the reason; the share of the
bytes of its maps that stays scrambled; processor time to key and check it; and the processor time
of a forward pass of 8 images, keyed over plain, on one thread. Writes ``zoo.json`` and ``zoo.md``
after each. A network whose record is in the folder already, made with the same settings, is not
measured again.

The list, unless ``-nets`` says otherwise: every classifier and segmentation network of torchvision;
where they are installed (``requirements-zoo.txt``), of timm the smallest network of each of its
files, if it has at most 40 million parameters, three of segmentation_models_pytorch and one of
transformers.
"""

import importlib
import sys
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import conf  # noqa: F401
import torch
import torchvision
from torch import Tensor, nn

from experiments.lib.results import read_results, write_results
from experiments.lib.zoo_table import markdown
from models import KeyedNetwork, KeyingError, create_model, key_network
from models.keying.output import flatten
from operators import ImageScrambler
from utils import cli
from utils.cli import flags
from utils.io.run_record import environment

BATCH, REPEATS, CLASSES = 8, 3, 10  # images of a timed pass, timed passes, logits
STATISTICS = 16  # images; with those of 4, EfficientNets amplify a rounding 100,000 times
NOTE = "processor seconds on one thread, beside other work: only the ratio of two means anything"
# of timm 1.0.31
TIMM = """
mobilenetv3_small_050 starnet_s050 dla46x_c mobilevit_xxs edgenext_xx_small mobilenetv2_035
ese_vovnet19b_slim_dw convnext_zepto_rms repghostnet_050 efficientvit_m0 ghostnet_050 regnetx_002
cspnext_tiny iformer_t xcit_nano_12_p8_224 cs3darknet_focus_s efficientvit_b0 swiftformer_xs
efficientformerv2_s0 pvt_v2_b0 fasternet_t0 fastvit_t8 lcnetv2_small inception_next_atto rexnet_100
mobileone_s1 pit_ti_224 hardcorenas_b resnet10t repvit_m1 vit_tiny_patch16_dinov3_qkvb coat_tiny
convit_tiny vit_tiny_patch16_224 deit_tiny_patch16_224 gmlp_ti16_224 hgnetv2_b0 shvit_s1
vit_tiny_r_s16_p8_224 cpubone_nano efficientvim_m1 crossvit_tiny_240 mambaout_femto
maxvit_pico_rw_256 levit_128s densenet121 halonet_h1 nf_regnet_b0 dpn48b visformer_tiny resnest14d
csatv2 resnetv2_18 legacy_seresnet18 poolformerv2_s12 cait_xxs24_224 skresnet18 gcvit_xxtiny
tiny_vit_5m_224 efficientformer_l1 hrnet_w18_small lowformer_b0 nest_tiny convmixer_768_32
vit_srelpos_small_patch16_224 vitamin_small_224 legacy_xception tnt_s_legacy_patch16_224
inception_v3 rdnet_tiny twins_svt_small mvitv2_tiny res2next50 volo_d1_224 sam2_hiera_tiny
xception41p sequencer2d_s hiera_tiny_224 swin_tiny_patch4_window7_224 swinv2_cr_tiny_224
swinv2_tiny_window8_256 davit_tiny focalnet_tiny_srf selecsls42 tresnet_m nextvit_small
"""
SMP = ("Unet", "FPN", "DeepLabV3Plus")
PACKAGES = {"smp": "segmentation_models_pytorch"}  # by the name of a source, where it differs
SIDE, SIDE_OF_TIMM = 64, 96
# networks that are made for larger images, or for multiples of something else
SIDES = {
    **dict.fromkeys(("torchvision:alexnet", "torchvision:googlenet"), 96),
    **dict.fromkeys(("torchvision:inception_v3", "timm:inception_v3"), 96),
    **dict.fromkeys(("torchvision:maxvit_t", "timm:sam2_hiera_tiny", "timm:tiny_vit_5m_224"), 224),
    "torchvision:vit_h_14": 56,
    "timm:csatv2": 512,
    "timm:halonet_h1": 256,
}


def package_of(name: str) -> str:
    """The package that a network is from."""
    source = name.partition(":")[0]
    return PACKAGES.get(source, source)


def known() -> list[str]:
    """The names of the list, those of packages that are not installed included."""
    modules = (torchvision.models, torchvision.models.segmentation)
    names = [f"timm:{name}" for name in TIMM.split()]
    names += [f"smp:{name}" for name in SMP] + ["transformers:ViTForImageClassification"]
    return names + [f"torchvision:{n}" for m in modules for n in torchvision.models.list_models(m)]


def side_of(name: str) -> int:
    """The side of the images that a network is measured with, in pixels."""
    if name in SIDES or not name.startswith("timm:"):
        return SIDES.get(name, SIDE)
    config = importlib.import_module("timm").get_pretrained_cfg(name.partition(":")[2])
    return config.input_size[-1] if config.fixed_input_size else SIDE_OF_TIMM


def build(name: str, side: int) -> nn.Module:
    """A network in eval mode, with weights and statistics that leave no output constant.

    The statistics are those of a random batch: with arbitrary ones the signal of a deep network
    dies out, its output hardly depends on the image, and equal outputs would say nothing.
    """
    torch.manual_seed(0)
    source, _, kind = name.partition(":")
    if source == "smp":
        make = getattr(importlib.import_module(PACKAGES["smp"]), kind)
        net = make(encoder_weights=None, classes=CLASSES)
    elif source == "transformers":
        net = _vision_transformer(side)
    else:
        net = create_model(name, CLASSES, image_size=(side, side))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            if p.dim() < 2 or not p.any():  # biases, scales, and heads that start at zero
                p.add_(torch.empty_like(p).normal_(0, 0.1, generator=generator))
        for norm in net.eval().modules():
            if isinstance(norm, nn.modules.batchnorm._BatchNorm):
                norm.momentum = 1.0
                norm.train()
        net(torch.randn(STATISTICS, 3, side, side, generator=generator))
    return net.eval()


def _vision_transformer(side: int) -> nn.Module:
    transformers = importlib.import_module("transformers")
    sizes = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
    config = transformers.ViTConfig(
        **sizes, image_size=side, patch_size=8, num_labels=CLASSES, attn_implementation="sdpa"
    )
    return transformers.ViTForImageClassification(config)


def difference(expected: list, found: list) -> float:
    """Largest difference between outputs, relative to that between the outputs of two images."""
    tensors = [pair for pair in zip(expected, found, strict=True) if isinstance(pair[0], Tensor)]
    return max(((a - b).abs().max() / (a[0] - a[1]).abs().max()).item() for a, b in tensors)


def costs(net: nn.Module, keyed: KeyedNetwork, scrambler: ImageScrambler) -> dict:
    """Time both networks in turn on the same images, and compare what they give in float32."""
    images = torch.randn(BATCH, 3, *scrambler.image_size)
    runs, times = {"plain": (net, images), "keyed": (keyed, scrambler(images))}, {}
    with torch.inference_mode():
        for repeat in range(REPEATS + 1):
            for kind, (network, x) in runs.items():
                start = time.process_time()
                network(x)
                if repeat:  # the first one warms up
                    times.setdefault(f"{kind}_s", []).append(time.process_time() - start)
        expected, found, unkeyed = (
            flatten(network(x))[0] for network, x in (*runs.values(), (keyed, images))
        )
    fastest = {kind: min(taken) for kind, taken in times.items()}
    return {
        "difference": difference(expected, found),
        "difference_without_key": difference(expected, unkeyed),
        **fastest,
        "cost": fastest["keyed_s"] / fastest["plain_s"],
    }


def settings(name: str) -> dict:
    """What a record is made with; one made with other settings is made anew."""
    packages = sorted({"torch", "torchvision", package_of(name)})
    versions = {package: version(package) for package in packages}
    images = {"statistics": STATISTICS, "batch": BATCH}
    return {"side": side_of(name), **images, "repeats": REPEATS, "versions": versions}


def measure(name: str) -> dict:
    """The record of a network."""
    row = {"net": name, "settings": settings(name), "commit": environment()["commit"]}
    side = row["settings"]["side"]
    net, scrambler = build(name, side), ImageScrambler(side, seed=1312)
    row["parameters"] = sum(p.numel() for p in net.parameters())
    start = time.process_time()
    try:
        keyed = key_network(net, scrambler).eval()
        row["build_s"] = time.process_time() - start
        row |= costs(net, keyed, scrambler)
    except KeyingError as error:
        return row | {"exact": False, "reason": str(error)}
    except Exception as error:  # a fault: key_network raises nothing else, nor does its network
        return row | {"exact": False, "reason": f"FAULT: {type(error).__name__}: {error}"}
    report = keyed.report()
    return row | {
        "exact": list(keyed.state_dict()) == list(net.state_dict()),
        "share": report.share,
        "restored": sorted({r.operator for r in report.restored}),
    }


def network(text: str) -> str:
    """A network of the list, or any that ``-net`` of the other scripts takes."""
    if text in known():
        return text
    return flags.network(text)


def parse_args():
    parser = cli.Parser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "-nets",
        nargs="+",
        type=network,
        default=None,
        help="torchvision:NAME, timm:NAME, smp:NAME, transformers:NAME, as in this file; default: "
        "all of the list whose packages are installed",
    )
    parser.add_argument("-out_dir", type=Path, required=True, help="folder of the results")
    args = parser.parse_args()
    missing = {package_of(n) for n in args.nets or known() if find_spec(package_of(n)) is None}
    if missing and args.nets:
        parser.error(
            f"-nets: {', '.join(sorted(missing))}: not installed; see requirements-zoo.txt"
        )
    for package in sorted(missing):
        print(f"left out: {package} is not installed; see requirements-zoo.txt", file=sys.stderr)
    args.nets = args.nets or [n for n in known() if package_of(n) not in missing]
    return args


def main() -> None:
    args = parse_args()
    flags.writable_folder(args.out_dir, "-out_dir")
    torch.set_num_threads(1)  # so that processor time is the time of the work
    earlier = read_results(args.out_dir / "zoo.json", {}, "rows")
    rows = {row["net"]: row for row in earlier["rows"]} if earlier else {}
    for name in args.nets:
        if name not in rows or rows[name]["settings"] != settings(name):
            rows[name] = measure(name)
            ordered = [rows[n] for n in sorted(rows)]
            # after each, so that an interrupted run keeps what it has
            record = {"note": NOTE, "listed": len(known()), "rows": ordered}
            write_results(args.out_dir, "zoo", record, markdown(ordered))
        print(markdown([rows[name]]).splitlines()[-1], flush=True)


if __name__ == "__main__":
    cli.run(main)
