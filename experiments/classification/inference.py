"""Classify one picture, plain or scrambled, and show what the server sees (paper, figure 2).

python3 inference.py -net "vgg16" -weights PATH -image PATH
python3 inference.py -net "vgg16_permuted" -permute -weights PATH -image PATH -out_dir DIR
python3 inference.py -net "vgg16_permuted" -permute -per_image -key my.key -weights PATH -image PATH
python3 inference.py -net "vgg16_permuted" -scrambled -key my.key -weights PATH -image PATH
"""

from pathlib import Path

import conf  # noqa: F401
import torch
from torch import nn

import models
from experiments.lib import testing
from operators import BlockCipher, ImageScrambler, SecretKey
from operators.block_ciphers import check_pixels
from utils import cli
from utils.cli import flags
from utils.data.datasets import NAMES
from utils.inference.network import check_cipher, deploy, load
from utils.io import scrambled_picture
from utils.io.pictures import feature_grid, fit, read_image, save_png, save_row
from utils.io.scrambled_picture import Label
from utils.runtime.device import select_device
from utils.runtime.errors import UserError

TOP = 5


def parse_args():
    parser = cli.Parser("Classify one picture and show what the server sees of it.")
    flags.add_network(parser)
    parser.add_argument(
        "-dataset", choices=NAMES, default="cifar10", help="data set the weights were trained on"
    )
    testing.add_keys(parser, wrong=False)
    parser.add_argument(
        "-scrambled", action="store_true", help="the given picture was scrambled already"
    )
    flags.add_cipher(parser)
    parser.add_argument(
        "-image", type=Path, required=True, help="picture of any size; its centre is used"
    )
    parser.add_argument(
        "-out_dir", type=Path, default=None, help="folder for PNGs of it; default: none are made"
    )
    args = parser.parse_args()
    flags.check_backend(parser, args, models.is_keyed(args.net))
    flags.check_per_image(parser, args)
    if args.permute and args.scrambled:
        parser.error("-permute scrambles a picture and -scrambled says that it is; give one")
    flags.check_cipher(parser, args, args.permute or args.scrambled, models.is_keyed(args.net))
    flags.check_key(parser, args, args.permute or args.scrambled)
    return args


def main() -> None:
    args = parse_args()
    device = select_device(args.gpu)
    if args.out_dir is not None:
        flags.writable_folder(args.out_dir, "-out_dir")
    picture = None if args.scrambled else read_image(args.image)
    weights = flags.weights_from(args)
    if args.permute or args.scrambled:
        flags.take_run_key(args, weights)
    if args.scrambled and args.seed is None and args.key is None:
        raise UserError("-scrambled needs the -key or -seed that the picture was scrambled with")
    trained = load(weights, args.dataset)
    image_size = trained.spec.image_size
    key = None if args.key is None else flags.load_key(args.key)
    label = None
    if args.scrambled:
        seen, label = _read_scrambled(args.image, key, image_size)
        if label is not None:
            args.cipher = _cipher_of(args, label)
    scrambler = flags.scrambler_from(args, image_size)
    if args.permute or args.scrambled:
        check_cipher(args.net, trained.state, scrambler)
    if args.scrambled:
        if label is not None:
            image = scrambled_picture.restore(seen, key, label)
        else:
            image = _restored(seen, scrambler)
    elif args.per_image:
        image = fit(picture, image_size)
        label = scrambled_picture.new_label("per-image", key, scrambler.cipher)
        seen = scrambled_picture.scramble(image, key, label)
    else:
        image = fit(picture, image_size)
        seen = scrambler(image) if args.permute else image
    # a network without the key has to take the picture as it comes
    rekeyed = label is not None and models.is_keyed(args.net)
    expected = scrambled_picture.to_fixed_key(seen, key, label) if rekeyed else seen
    deployed = deploy(args.net, trained, device, scrambler, backend=args.backend)
    with torch.inference_mode():
        batch = deployed.preprocess(expected[None].to(device))
        logits, features = _run(deployed.net, batch)
    best = logits.softmax(1)[0].topk(min(TOP, logits.shape[1]))
    for probability, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        print(f"{deployed.classes[index]:<16}{probability:7.2%}")

    if args.out_dir is not None:
        args.out_dir.mkdir(parents=True, exist_ok=True)
        images = [] if image is None else [image]
        if args.scrambled:
            scrambled_picture.copy(args.image, args.out_dir / f"scrambled{args.image.suffix}")
        elif args.permute:
            scrambled_picture.write(seen, label, args.out_dir / "scrambled.png")
        if args.permute or args.scrambled:
            images.append(seen)
        if image is not None:
            save_png(image, args.out_dir / "image.png")
        _save_overview(deployed.net, images, features, args.out_dir / "features.png")
        print(f"pictures: {args.out_dir}")
    if args.permute or args.scrambled:
        flags.warn_of_few_keys(args, scrambler.image_size)


def _read_scrambled(
    path: Path, key: SecretKey | None, image_size: tuple[int, int]
) -> tuple[torch.Tensor, Label | None]:
    """The picture as the server receives it, and its label if ``scramble.py`` wrote it."""
    image, label = scrambled_picture.read(path)
    if tuple(image.shape[1:]) != image_size:
        raise UserError(
            f"{path}: {image.shape[2]}x{image.shape[1]} pixels; a scrambled picture cannot be "
            f"resized, expected {image_size[1]}x{image_size[0]}"
        )
    if label is None:  # by another program, or with a seed
        return image, None
    if key is None:
        raise UserError(f"{path}: was scrambled with key {label.fingerprint}; give it with -key")
    scrambled_picture.check_key(label, key, path)
    return image, label


def _cipher_of(args, label: Label) -> str:
    """The cipher of a labelled picture, which has to be the one asked for, if any."""
    if args.cipher not in (None, label.cipher):
        raise UserError(
            f"{args.image}: was scrambled with -cipher {label.cipher}, asked for is {args.cipher}"
        )
    if models.is_keyed(args.net):
        try:
            check_pixels(label.cipher)
        except ValueError as error:
            raise UserError(f"-net {args.net}: {error}") from error
    return label.cipher


def _restored(seen: torch.Tensor, scrambler: ImageScrambler | BlockCipher) -> torch.Tensor | None:
    """The picture before it was scrambled, or None where the cipher loses a part of it."""
    if isinstance(scrambler, BlockCipher) and not scrambler.lossless:
        return None
    return scrambler.unscramble(seen)


def _first_map(net: nn.Module) -> tuple[nn.Module | None, torch.Tensor | None]:
    """The module that returns the first map, and that map's key where it is scrambled."""
    if isinstance(net, models.KeyedNetwork):
        return net.first_map or (None, None)
    first = next((m for m in net.modules() if isinstance(m, nn.Conv2d)), None)
    return first, getattr(first, "out_key", None)


def _run(net: nn.Module, batch: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits ``(N, num_classes)``, and the first map ``(N, C, H, W)`` of networks that have one."""
    features, (first, _) = [], _first_map(net)
    if first is None:
        return net(batch), features
    hook = first.register_forward_hook(lambda m, i, o: features.append(o))
    try:
        return net(batch), features[:1]
    finally:
        hook.remove()


def _save_overview(
    net: nn.Module, images: list[torch.Tensor], features: list[torch.Tensor], path: Path
) -> None:
    """The picture, what is sent, the first map's channels; where keyed, these restored as well."""
    row, (_, key) = [image / 255 for image in images], _first_map(net)
    for (seen,) in features:
        row.append(feature_grid(seen))
        if key is not None:
            restore = ImageScrambler(seen.shape[-2:], key=key.cpu()).unscramble
            row.append(feature_grid(restore(seen.cpu())))
    save_row(row, path)


if __name__ == "__main__":
    cli.run(main)
