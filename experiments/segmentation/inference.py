"""Label every pixel of one picture, plain or scrambled, and show what the server sees of it.

    python3 inference.py -net "unet" -dataset "camvid" -weights PATH -image PATH
    python3 inference.py -net "unet_permuted" -dataset "camvid" -permute -weights PATH \\
        -image PATH -out_dir DIR
    python3 inference.py -net "unet_permuted" -dataset "camvid" -permute -per_image -key my.key \\
        -weights PATH -image PATH -out_dir DIR

The picture is scrambled before it leaves the client, and the label map comes back scrambled, too:
under an output key that only the client's key gives.
"""

from pathlib import Path

import conf  # noqa: F401
import torch

from experiments.lib import testing
from utils import cli
from utils.cli import flags
from utils.data.masks import Fit
from utils.io.label_pictures import coloured, legend, overlay
from utils.io.pictures import read_image, save_png, save_row, to_tensor
from utils.training.task import pictures_sent


def parse_args():
    parser = cli.Parser("Label every pixel of one picture and show what the server sees of it.")
    flags.add_network(parser, "unet")
    flags.add_masks(parser)
    testing.add_keys(parser)
    parser.add_argument("-image", type=Path, required=True, help="picture of any size")
    parser.add_argument(
        "-out_dir", type=Path, default=None, help="folder for PNGs of it; default: none are made"
    )
    args = parser.parse_args()
    testing.check_keys(parser, args)
    return args


def main() -> None:
    args = parse_args()
    if args.out_dir is not None:
        flags.writable_folder(args.out_dir, "-out_dir")
    picture = read_image(args.image)
    subject = testing.set_up(args, maps=True)
    deployed, spec = subject.deployed, subject.spec
    fit = Fit.into((picture.height, picture.width), spec.image_size)
    image = fit.picture(picture, spec.image_size, spec.mean_pixel)[None]
    with torch.inference_mode():
        returned = deployed.net(deployed.preprocess(image.to(subject.device))).argmax(1).cpu()
    keys = subject.label_keys
    labels = fit.restore((returned if keys is None else keys.restore(returned, image))[0])
    shares = labels.flatten().bincount(minlength=len(deployed.classes)) / labels.numel()
    for label in shares.argsort(descending=True, stable=True).tolist():
        if shares[label]:
            print(f"{deployed.classes[label]:<16}{shares[label]:7.2%}")

    if args.out_dir is not None:
        args.out_dir.mkdir(parents=True, exist_ok=True)
        own = to_tensor(picture)
        shown = {
            "image": image[0],
            **({} if keys is None else {"sent": _sent(image, subject)}),
            "returned": coloured(returned[0], deployed.classes),
            "overlay": overlay(own, labels, deployed.classes),
            "legend": legend(labels, deployed.classes),
        }
        for name, made in shown.items():
            save_png(made, args.out_dir / f"{name}.png")
        save_row([made / 255 for made in shown.values()], args.out_dir / "overview.png")
        print(f"pictures: {args.out_dir}")
    testing.warn(args, subject)


def _sent(image: torch.Tensor, subject: testing.Subject) -> torch.Tensor:
    """The picture as it leaves the client."""
    return pictures_sent(image, subject.camera, subject.per_image)[1][0]


if __name__ == "__main__":
    cli.run(main)
