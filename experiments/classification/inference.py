"""Classify one picture, plain or scrambled, and show what the server sees (paper, figure 2).

python3 inference.py -net "vgg16" -weights PATH -image PATH
python3 inference.py -net "vgg16_permuted" -permute -weights PATH -image PATH -save_dir DIR
python3 inference.py -net "vgg16_permuted" -scrambled -key my.key -weights PATH -image PATH
"""

from pathlib import Path

import conf
import torch
from torch import nn

import models
from operators import ImageScrambler, KeyedConv2d
from utils import checkpoint, cli, options, scrambled_png
from utils.cli import UserError
from utils.data import NAMES
from utils.deploy import Deployed, deploy, spec_of
from utils.pictures import feature_grid, fit, read_image, save_png, save_row

TOP = 5


def parse_args():
    parser = cli.Parser("Classify one picture and show what the server sees of it.")
    options.add_network(parser)
    parser.add_argument(
        "-dataset", choices=NAMES, default="cifar10", help="data set the weights were trained on"
    )
    parser.add_argument("-permute", action="store_true", help="scramble the picture with the key")
    parser.add_argument(
        "-scrambled", action="store_true", help="the given picture was scrambled already"
    )
    options.add_key(parser)
    options.add_backend(parser)
    options.add_device(parser)
    options.add_weights(parser, conf.CHECKPOINT_DIR)
    parser.add_argument(
        "-image", type=Path, required=True, help="PNG or JPEG of any size; its centre is used"
    )
    parser.add_argument(
        "-save_dir", type=Path, default=None, help="folder for PNGs of it; default: none are made"
    )
    args = parser.parse_args()
    options.check_backend(parser, args, models.is_keyed(args.net))
    if args.permute and args.scrambled:
        parser.error("-permute scrambles a picture and -scrambled says that it is; give one")
    if args.scrambled and args.seed is None and args.key is None:
        parser.error("-scrambled needs the -key or -seed that the picture was scrambled with")
    return args


def main() -> None:
    args = parse_args()
    device = cli.select_device(args.gpu)
    if args.save_dir is not None:
        options.writable_folder(args.save_dir, "-save_dir")
    picture = None if args.scrambled else read_image(args.image)
    weights = options.weights_from(args)
    image_size = spec_of(args.dataset, checkpoint.read(weights), weights).image_size
    if args.scrambled:
        image = _already_scrambled(args.image, args.key, image_size)
    else:
        image = fit(picture, image_size)
    scrambler = options.scrambler_from(args, image_size)
    deployed = deploy(
        args.net,
        args.dataset,
        weights,
        scrambler,
        scrambler if args.permute else None,
        device,
        args.backend,
    )
    preprocess = deployed.preprocess_scrambled if args.scrambled else deployed.preprocess
    with torch.inference_mode():
        logits, features = _run(deployed.net, preprocess(image[None].to(device)))
    best = logits.softmax(1)[0].topk(min(TOP, logits.shape[1]))
    for probability, label in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        print(f"{deployed.classes[label]:<16}{probability:7.2%}")

    if args.save_dir is not None:
        args.save_dir.mkdir(parents=True, exist_ok=True)
        seen = scrambler(image) if args.permute else image
        natural = scrambler.backward(image) if args.scrambled else image
        images = [natural, seen] if args.permute or args.scrambled else [natural]
        for shown, name in zip(images, ("image.png", "scrambled.png"), strict=False):
            save_png(shown, args.save_dir / name)
        _save_overview(deployed, images, features[0], args.save_dir / "features.png")
        print(f"pictures: {args.save_dir}")


def _already_scrambled(
    path: Path, key_file: Path | None, image_size: tuple[int, int]
) -> torch.Tensor:
    """The picture under the network's fixed key, whichever way ``scramble.py`` scrambled it."""
    image, label = scrambled_png.read(path)
    if tuple(image.shape[1:]) != image_size:
        raise UserError(
            f"{path}: {image.shape[2]}x{image.shape[1]} pixels; a scrambled picture cannot be "
            f"resized, expected {image_size[1]}x{image_size[0]}"
        )
    if label is None:  # by another program, or with a seed
        return image
    if key_file is None:
        raise UserError(f"{path}: was scrambled with key {label.fingerprint}; give it with -key")
    key = options.load_key(key_file)
    scrambled_png.check_key(label, key, path)
    return scrambled_png.to_fixed_key(image, key, label)


def _first_convolution(net: nn.Module) -> nn.Module:
    return next(m for m in net.modules() if isinstance(m, nn.Conv2d))


def _run(net: nn.Module, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits ``(N, num_classes)`` and the first convolution's output ``(N, C, H, W)``."""
    features = []
    hook = _first_convolution(net).register_forward_hook(lambda m, i, o: features.append(o))
    try:
        return net(batch), features[0]
    finally:
        hook.remove()


def _save_overview(
    deployed: Deployed, images: list[torch.Tensor], features: torch.Tensor, path: Path
) -> None:
    """The picture, what is sent, the first layer's maps; where keyed, these restored as well."""
    row = [image / 255 for image in images] + [feature_grid(features)]
    first = _first_convolution(deployed.net)
    if isinstance(first, KeyedConv2d):
        restore = ImageScrambler(first.output_size, key=first.out_key.cpu()).backward
        row.append(feature_grid(restore(features.cpu())))
    save_row(row, path)


if __name__ == "__main__":
    cli.run(main)
