"""The flags of scrambling: the key, the cipher, and one key for all images or one for each."""

import sys
from argparse import ArgumentTypeError
from pathlib import Path

import models
from operators import (
    BlockCipher,
    ImageScrambler,
    PerImageScrambler,
    SecretKey,
    make_scrambler,
)
from operators.block_ciphers import check_pixels
from operators.cipher_keys import key_bits, parse_cipher
from utils import cli
from utils.cli.parser import Parser
from utils.io import checkpoint
from utils.runtime.errors import UserError

SEED_BITS = 32
FEW_BITS = 80  # keys of so few bits are within reach of anyone who has many machines


def add_key(parser: Parser) -> None:
    """Add ``-seed`` and ``-key``, of which one may be given."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "-seed",
        type=cli.seed,
        default=None,
        help=f"the key, as a seed in 0..{cli.MAX_SEED}; default: that of the run whose weights "
        "are used, or a fresh one",
    )
    group.add_argument(
        "-key",
        type=Path,
        default=None,
        help="the key, as a file made by scramble.py keygen; default: none",
    )


def check_key(parser: Parser, args, scrambled: bool) -> None:
    """Refuse a ``-key``, or a keyed network, where the images are not ``scrambled``.

    ``-seed`` may be given with plain ones, as published.
    """
    if not scrambled and models.is_keyed(args.net):
        parser.error(f"-net {args.net} takes scrambled images; give -permute")
    if not scrambled and args.key is not None:
        parser.error("-key: nothing is scrambled; give -permute with it")


def take_run_key(args, weights: Path | None) -> None:
    """Where ``args`` name no key, take the one that the run of ``weights`` keeps, and say so."""
    if args.seed is not None or args.key is not None or weights is None:
        return
    key = weights.parent / checkpoint.KEY
    if key.is_file():
        args.key = key
        print(f"key: taken from {key}", file=sys.stderr)


def load_key(path: Path) -> SecretKey:
    """The key in a file.

    Raises:
        UserError: if it cannot be read, others may read it, or it is no key file.
    """
    try:
        return SecretKey.load(path)
    except PermissionError as error:
        raise UserError(f"-key: {error}") from error
    except OSError as error:
        raise UserError(f"-key {path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"-key: {error}") from error


def add_cipher(parser: Parser) -> None:
    """Add ``-cipher``."""
    parser.add_argument(
        "-cipher",
        type=cipher,
        default=None,
        metavar="CIPHER",
        help="pixels, the paper's; blocks:N, squares of NxN that move, turn and are mirrored; "
        "etc:N (EtC), inverted and recoloured, too; etc_published, le, ele, privconv "
        "(default: pixels)",
    )


def cipher(text: str) -> str:
    """The name of a cipher, as a type for argparse."""
    try:
        parse_cipher(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error
    return text


def check_cipher(parser: Parser, args, scrambled: bool, keyed: bool) -> None:
    """Refuse ``-cipher`` where nothing is ``scrambled``, or that ``keyed`` layers cannot take."""
    if args.cipher is None:
        return
    if not scrambled:
        parser.error(f"-cipher {args.cipher}: nothing is scrambled; give -permute with it")
    of_pixels = parse_cipher(args.cipher)[0] in ("pixels", "blocks")
    if getattr(args, "per_image", False) and not of_pixels:
        parser.error(f"-per_image takes -cipher pixels or blocks:N, got {args.cipher}")
    if keyed:
        try:
            check_pixels(args.cipher)
        except ValueError as error:
            parser.error(f"-net {args.net}: {error}")


def cipher_of(args) -> str:
    """The cipher that ``args`` ask for; ``pixels`` where a script has no such flag."""
    return getattr(args, "cipher", None) or "pixels"


def scrambler_from(
    args, image_size: tuple[int, int], secret: SecretKey | None = None
) -> ImageScrambler | BlockCipher:
    """What scrambles as ``-cipher`` says, by ``secret``, the key that ``args`` name or a fresh one.

    Raises:
        UserError: if the images cannot be divided into the blocks of the cipher.
    """
    if args.key is not None and secret is None:
        secret = load_key(args.key)
    try:
        return make_scrambler(cipher_of(args), image_size, args.seed, secret)
    except ValueError as error:
        raise UserError(f"-cipher {cipher_of(args)}: {error}") from error


def warn_of_few_keys(args, image_size: tuple[int, int]) -> None:
    """Say on stderr, once the work is done, that all keys could be tried: a seed's, a cipher's."""
    seed, bits = getattr(args, "seed", None), key_bits(cipher_of(args), image_size)
    if bits < FEW_BITS and (seed is None or bits < SEED_BITS):
        height, width = image_size
        print(
            f"warning: -cipher {cipher_of(args)} has 2^{bits:.0f} keys on {height}x{width} images, "
            "few enough to try them all",
            file=sys.stderr,
        )
    elif seed is not None:
        print(
            f"warning: -seed is one of 2^{SEED_BITS} keys, few enough to try them all; "
            "for pictures that matter use -key",
            file=sys.stderr,
        )


def add_per_image(parser: Parser) -> None:
    """Add ``-per_image``."""
    parser.add_argument(
        "-per_image",
        action="store_true",
        help="with -permute and -key: scramble each image under a key of its own",
    )


def check_per_image(parser: Parser, args) -> None:
    """Refuse ``-per_image`` where nothing is scrambled, or without a key to derive others from."""
    if args.per_image and not (args.permute and args.key):
        parser.error("-per_image needs -permute and -key")


def per_image_from(args, image_size: tuple[int, int]) -> PerImageScrambler | None:
    """What scrambles each image under a key of its own, where ``args`` ask for that."""
    if not args.per_image:
        return None
    _, block = parse_cipher(cipher_of(args))
    try:
        return PerImageScrambler(image_size, load_key(args.key), block=block)
    except ValueError as error:
        raise UserError(f"-cipher {args.cipher}: {error}") from error
