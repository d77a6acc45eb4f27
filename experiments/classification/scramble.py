"""The client: make a key, scramble pictures before they leave, restore them when they come back.

python3 scramble.py keygen -key my.key
python3 scramble.py scramble -key my.key -per_image -in photos -out scrambled
python3 scramble.py restore -key my.key -in scrambled -out restored

Scrambled pictures are PNG files, 8 bits per channel, with nothing of the original's metadata. The
server classifies them with ``inference.py -scrambled`` and the same key. A network takes pictures
of its own size only: ``-size 32`` crops and resizes before scrambling, as it cannot be done after.
"""

import math
import sys
from pathlib import Path

import conf  # noqa: F401
import torch

from operators import SecretKey
from operators.block_ciphers import key_bits, parse_cipher
from utils import cli
from utils.cli import flags
from utils.io import scrambled_png
from utils.io.pictures import SUFFIXES, fit, read_image, save_png
from utils.runtime.errors import UserError


def parse_args():
    parser = cli.Parser("Make a key, scramble pictures with it, restore them.")
    parser.add_argument("action", choices=("keygen", "scramble", "restore"), help="what to do")
    parser.add_argument("-key", type=Path, required=True, help="key file, made by keygen")
    parser.add_argument(
        "-in",
        dest="source",
        type=Path,
        default=None,
        help="picture, or folder of pictures; needed by scramble and restore",
    )
    parser.add_argument(
        "-out",
        type=Path,
        default=None,
        help="PNG file, or folder for PNG files of the same names; needed by them, too",
    )
    scheme = parser.add_mutually_exclusive_group()
    scheme.add_argument(
        "-per_image", action="store_true", help="scramble: a fresh permutation for every picture"
    )
    scheme.add_argument(
        "-per_image_values",
        action="store_true",
        help="scramble: -per_image of single values, half of them inverted",
    )
    flags.add_cipher(parser)
    parser.add_argument(
        "-size",
        type=cli.side,
        default=None,
        help="scramble: first crop and resize to SIZE x SIZE pixels; default: as it is",
    )
    args = parser.parse_args()
    if args.action != "keygen" and (args.source is None or args.out is None):
        parser.error(f"{args.action} needs -in and -out")
    for flag, given in (("-in", args.source), ("-out", args.out)):
        if args.action == "keygen" and given is not None:
            parser.error(f"keygen takes no {flag}")
    of_scramble = (args.per_image, args.per_image_values, args.size, args.cipher)
    if args.action != "scramble" and any(of_scramble):
        parser.error("-per_image, -per_image_values, -cipher and -size are for scramble")
    name, _ = parse_cipher(flags.cipher_of(args))
    if name == "etc_published":
        parser.error("-cipher etc_published loses colours, which nothing could restore")
    if args.per_image_values and name != "pixels":
        parser.error(f"-per_image_values is a cipher of its own, got -cipher {args.cipher}")
    if args.per_image and name not in ("pixels", "blocks"):
        parser.error(f"-per_image takes -cipher pixels or blocks:N, got {args.cipher}")
    return args


def main() -> None:
    args = parse_args()
    if args.action == "keygen":
        keygen(args.key)
        return
    key = flags.load_key(args.key)
    pairs = files(args.source, args.out)
    if args.action == "scramble":
        per_image = "per-image-values" if args.per_image_values else "per-image"
        scheme = per_image if args.per_image or args.per_image_values else "fixed"
        cipher = flags.cipher_of(args)
        sizes = [check(source, cipher, args.size) for source, _ in pairs]
        for source, target in pairs:
            scramble(source, target, key, scheme, cipher, args.size)
        if scheme != "per-image-values":
            flags.warn_of_few_keys(args, min(sizes, key=math.prod))
    else:
        restore(pairs, key)
    print(f"{args.action}d {len(pairs)}: {args.out}")


def keygen(path: Path) -> None:
    """Make a key file."""
    key = SecretKey.generate()
    try:
        key.save(path)
    except FileExistsError as error:
        raise UserError(f"-key {error}") from error
    except OSError as error:
        raise UserError(f"-key {path}: cannot be written ({error.strerror})") from error
    print(f"{path}: key {key.fingerprint}")


def files(source: Path, out: Path) -> list[tuple[Path, Path]]:
    """Pairs of picture and PNG file to write: one, or those of a folder and what is below it."""
    if not source.is_dir():
        if not source.is_file():
            raise UserError(f"-in {source}: no such file or folder")
        if out.suffix.lower() != ".png":
            raise UserError(f"-out {out}: only PNG keeps every pixel; expected a name in .png")
        flags.writable_file(out, "-out")
        pairs = [(source, out)]
    else:
        found = [p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()]
        if not found:
            raise UserError(f"-in {source}: no {', '.join(SUFFIXES)} below it")
        pairs = [(p, out / p.relative_to(source).with_suffix(".png")) for p in sorted(found)]
        flags.writable_folder(out, "-out")
    targets: dict[Path, Path] = {}
    for origin, target in pairs:
        if target.exists():
            raise UserError(f"-out {target}: exists; pictures are not overwritten")
        if target in targets:
            raise UserError(f"-in {origin} and {targets[target]} would both become {target}")
        targets[target] = origin
    return pairs


def plain(source: Path) -> torch.Tensor:
    """A picture that is not scrambled yet, uint8 ``(3, H, W)``."""
    image, label = scrambled_png.read(source)
    if label is not None:
        raise UserError(f"{source}: is scrambled already")
    return image


def check(source: Path, cipher: str, size: int | None) -> tuple[int, int]:
    """The size of a picture that can be scrambled, ``(H, W)``; all are checked before one is.

    Raises:
        UserError: the picture is scrambled already, or cannot be divided into blocks.
    """
    image_size = tuple(plain(source).shape[1:]) if size is None else (size, size)
    try:
        key_bits(cipher, image_size)
    except ValueError as error:
        raise UserError(f"{source}: -cipher {cipher}: {error}") from error
    return image_size


def scrambled(source: Path, key: SecretKey) -> tuple[torch.Tensor, scrambled_png.Label]:
    """A picture that was scrambled with a key, uint8 ``(3, H, W)``, and its label."""
    image, label = scrambled_png.read(source)
    if label is None:
        raise UserError(f"{source}: not a picture that scramble.py wrote")
    scrambled_png.check_key(label, key, source)
    return image, label


def scramble(
    source: Path, target: Path, key: SecretKey, scheme: str, cipher: str, size: int | None
) -> None:
    """Scramble one picture."""
    image = plain(source)
    if size is not None:
        image = fit(read_image(source), (size, size))
    label = scrambled_png.new_label(scheme, key, cipher)
    target.parent.mkdir(parents=True, exist_ok=True)
    scrambled_png.write(scrambled_png.scramble(image, key, label), label, target)


def restore(pairs: list[tuple[Path, Path]], key: SecretKey) -> None:
    """Restore pictures; says on stderr if two of them share a nonce."""
    for source, _ in pairs:  # all of them, before anything is written
        scrambled(source, key)
    seen: dict[bytes, Path] = {}
    for source, target in pairs:
        image, label = scrambled(source, key)
        if label.nonce and label.nonce in seen:
            print(
                f"warning: {source} and {seen[label.nonce]} share a nonce, so one permutation",
                file=sys.stderr,
            )
        seen[label.nonce] = source
        target.parent.mkdir(parents=True, exist_ok=True)
        save_png(scrambled_png.restore(image, key, label), target)


if __name__ == "__main__":
    cli.run(main)
