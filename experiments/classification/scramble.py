"""The client: make a key, scramble pictures before they leave, restore them when they come back.

python3 scramble.py keygen -key my.key
python3 scramble.py scramble -key my.key -per_image -in photos -out scrambled
python3 scramble.py scramble -key my.key -cipher blocks:8 -jpeg 85 -in photos -out scrambled
python3 scramble.py restore -key my.key -in scrambled -out restored

Scrambled pictures are PNG files, 8 bits per channel, or with ``-jpeg`` JPEG files, and have nothing
of the original's metadata. The server classifies them with ``inference.py -scrambled`` and the same
key. A network takes pictures of its own size only: ``-size 32`` crops and resizes before
scrambling, as it cannot be done after.
"""

import math
import sys
from pathlib import Path

import conf  # noqa: F401
import torch

from operators import SecretKey
from operators.cipher_keys import key_bits, parse_cipher
from utils import cli
from utils.cli import flags
from utils.io import scrambled_picture
from utils.io.pictures import SUFFIXES, fit, read_image, save_png
from utils.runtime.errors import UserError

PNG, JPEG = (".png",), (".jpg", ".jpeg")  # names of files to write, the first of them by default
MAX_JPEG = 65_500  # side in pixels, of libjpeg


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
        help="file to write, or folder for files of the same names; needed by them, too",
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
    parser.add_argument(
        "-jpeg",
        type=cli.jpeg_quality,
        default=None,
        metavar="Q",
        help="scramble: write JPEG files of this quality, 1 to 100; only ciphers that move whole "
        f"{scrambled_picture.JPEG_BLOCK}x{scrambled_picture.JPEG_BLOCK} squares keep what a plain "
        "picture keeps: blocks:8, etc:8; default: PNG files",
    )
    parser.add_argument(
        "-subsampling",
        choices=("444", "420"),
        default=None,
        help="with -jpeg: colours at full (444) or at half resolution (420); default: 444",
    )
    args = parser.parse_args()
    if args.action != "keygen" and (args.source is None or args.out is None):
        parser.error(f"{args.action} needs -in and -out")
    for flag, given in (("-in", args.source), ("-out", args.out)):
        if args.action == "keygen" and given is not None:
            parser.error(f"keygen takes no {flag}")
    of_scramble = (args.per_image, args.per_image_values, args.size, args.cipher, args.jpeg)
    if args.action != "scramble" and any(of_scramble):
        parser.error("-per_image, -per_image_values, -cipher, -size and -jpeg are for scramble")
    if args.subsampling is not None and args.jpeg is None:
        parser.error(f"-subsampling {args.subsampling} needs -jpeg Q")
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
    pairs = files(args.source, args.out, PNG if args.jpeg is None else JPEG)
    if args.action == "scramble":
        per_image = "per-image-values" if args.per_image_values else "per-image"
        scheme = per_image if args.per_image or args.per_image_values else "fixed"
        cipher = flags.cipher_of(args)
        coding = {}
        if args.jpeg is not None:
            coding = {"quality": args.jpeg, "subsampling": args.subsampling or "444"}
        sizes = [check(source, cipher, args.size, coding) for source, _ in pairs]
        for source, target in pairs:
            scramble(source, target, key, scheme, cipher, args.size, coding)
        if scheme != "per-image-values":
            flags.warn_of_few_keys(args, min(sizes, key=math.prod))
        if coding:
            warn_of_loss(scheme, cipher)
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


def files(source: Path, out: Path, suffixes: tuple[str, ...]) -> list[tuple[Path, Path]]:
    """Pairs of picture and file to write: one, or those of a folder and what is below it."""
    if not source.is_dir():
        if not source.is_file():
            raise UserError(f"-in {source}: no such file or folder")
        if out.suffix.lower() not in suffixes:
            reason = "only PNG keeps every pixel" if suffixes is PNG else "-jpeg writes JPEG"
            raise UserError(f"-out {out}: {reason}; expected a name in {' or '.join(suffixes)}")
        flags.writable_file(out, "-out")
        pairs = [(source, out)]
    else:
        found = [p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()]
        if not found:
            raise UserError(f"-in {source}: no {', '.join(SUFFIXES)} below it")
        pairs = [(p, out / p.relative_to(source).with_suffix(suffixes[0])) for p in sorted(found)]
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
    image, label = scrambled_picture.read(source)
    if label is not None:
        raise UserError(f"{source}: is scrambled already")
    return image


def check(source: Path, cipher: str, size: int | None, coding: dict) -> tuple[int, int]:
    """The size of a picture that can be scrambled, ``(H, W)``; all are checked before one is.

    Raises:
        UserError: the picture is scrambled already, cannot be divided into blocks, or is too large
            for JPEG.
    """
    image_size = tuple(plain(source).shape[1:]) if size is None else (size, size)
    if coding and max(image_size) > MAX_JPEG:
        raise UserError(f"{source}: -jpeg takes sides of at most {MAX_JPEG}, got {max(image_size)}")
    try:
        key_bits(cipher, image_size)
    except ValueError as error:
        raise UserError(f"{source}: -cipher {cipher}: {error}") from error
    return image_size


def scrambled(source: Path, key: SecretKey) -> tuple[torch.Tensor, scrambled_picture.Label]:
    """A picture that was scrambled with a key, uint8 ``(3, H, W)``, and its label."""
    image, label = scrambled_picture.read(source)
    if label is None:
        raise UserError(f"{source}: not a picture that scramble.py wrote")
    scrambled_picture.check_key(label, key, source)
    return image, label


def scramble(
    source: Path,
    target: Path,
    key: SecretKey,
    scheme: str,
    cipher: str,
    size: int | None,
    coding: dict,
) -> None:
    """Scramble one picture."""
    image = plain(source)
    if size is not None:
        image = fit(read_image(source), (size, size))
    label = scrambled_picture.new_label(scheme, key, cipher)
    target.parent.mkdir(parents=True, exist_ok=True)
    seen = scrambled_picture.scramble(image, key, label)
    scrambled_picture.write(seen, label, target, **coding)


def warn_of_loss(scheme: str, cipher: str) -> None:
    """Say on stderr, once the work is done, if JPEG takes more of such pictures than of others."""
    if not scrambled_picture.fits_jpeg(scheme, cipher):
        side = scrambled_picture.JPEG_BLOCK
        given = "-per_image_values" if scheme == "per-image-values" else f"-cipher {cipher}"
        print(
            f"warning: -jpeg ruins these pictures: it codes squares of {side}x{side} pixels, which "
            f"{given} takes apart; -cipher blocks:{side} moves them whole",
            file=sys.stderr,
        )


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
        save_png(scrambled_picture.restore(image, key, label), target)


if __name__ == "__main__":
    cli.run(main)
