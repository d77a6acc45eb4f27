"""Scrambled pictures as files: the pixels, and in a label what restoring them takes.

The label holds the scheme, the key's fingerprint and, with per-image keys, the image's nonce:
``fixed <fingerprint>``, ``per-image <fingerprint> <nonce>`` or ``per-image-values <fingerprint>
<nonce>``, numbers in hexadecimal. The cipher follows the scheme where it is not ``pixels``: ``fixed
etc:4 <fingerprint>``. None of them is secret. It is the text chunk ``PrivDL`` of a PNG file, and in
a JPEG file the comment ``PrivDL <label>``.

PNG keeps every pixel. JPEG codes squares of 8x8 pixels, each by itself: a cipher that moves whole
ones loses no more than a plain picture does (``fits_jpeg``), any other takes them apart.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from operators import PerImageScrambler, SecretKey, make_scrambler
from operators.cipher_keys import key_bits, parse_cipher
from operators.key import NONCE_BYTES, new_nonces
from utils.io.atomic import write_atomically
from utils.io.pictures import read_with, save, to_rgb, to_tensor, upright
from utils.runtime.errors import UserError

CHUNK = "PrivDL"
JPEG_BLOCK = 8  # side in pixels of the squares that JPEG codes
CIPHERS_OF = {  # by scheme
    "fixed": ("pixels", "blocks", "etc", "le", "ele", "privconv"),  # what can be restored
    "per-image": ("pixels", "blocks"),
    "per-image-values": ("pixels",),
}
HEXADECIMAL = re.compile("[0-9a-f]{16}")


@dataclass(frozen=True)
class Label:
    """What a scrambled picture says of itself.

    Attributes:
        scheme: one of ``CIPHERS_OF``.
        fingerprint: of the key.
        nonce: of the image; empty for the fixed scheme.
        cipher: how the key scrambles (``operators.CIPHERS``).
    """

    scheme: str
    fingerprint: str
    nonce: bytes = b""
    cipher: str = "pixels"

    def __str__(self) -> str:
        cipher = [] if self.cipher == "pixels" else [self.cipher]
        return " ".join([self.scheme, *cipher, self.fingerprint, self.nonce.hex()]).rstrip()


def new_label(scheme: str, key: SecretKey, cipher: str = "pixels") -> Label:
    """A label for the next image to scramble, with a fresh nonce where the scheme needs one."""
    nonce = b"" if scheme == "fixed" else new_nonces(1)[0]
    return Label(scheme, key.fingerprint, nonce, cipher)


def scramble(image: torch.Tensor, key: SecretKey, label: Label) -> torch.Tensor:
    """Scramble uint8 ``(3, H, W)`` as its label says.

    Raises:
        ValueError: the image cannot be divided into the blocks of the cipher.
    """
    if label.scheme == "fixed":
        return make_scrambler(label.cipher, tuple(image.shape[1:]), secret=key)(image)
    return _per_image(image, key, label).scramble(image[None], [label.nonce])[0]


def restore(image: torch.Tensor, key: SecretKey, label: Label) -> torch.Tensor:
    """Restore uint8 ``(3, H, W)``: the inverse of ``scramble``."""
    if label.scheme == "fixed":
        return make_scrambler(label.cipher, tuple(image.shape[1:]), secret=key).unscramble(image)
    return _per_image(image, key, label).unscramble(image[None], [label.nonce])[0]


def to_fixed_key(image: torch.Tensor, key: SecretKey, label: Label) -> torch.Tensor:
    """What the secret's fixed key makes of the picture, as a keyed network expects it."""
    if label.scheme == "fixed":
        return image
    return _per_image(image, key, label).rekey(image[None], [label.nonce])[0]


def _per_image(image: torch.Tensor, key: SecretKey, label: Label) -> PerImageScrambler:
    values, (_, block) = label.scheme == "per-image-values", parse_cipher(label.cipher)
    return PerImageScrambler(tuple(image.shape[1:]), key, values, block)


def fits_jpeg(scheme: str, cipher: str) -> bool:
    """Whether a cipher leaves the squares whole that JPEG codes."""
    name, block = parse_cipher(cipher)
    moves_blocks = scheme != "per-image-values" and name in ("blocks", "etc")
    return moves_blocks and block % JPEG_BLOCK == 0


def write(
    image: torch.Tensor,
    label: Label | None,
    path: Path,
    quality: int | None = None,
    subsampling: str = "444",
) -> None:
    """Write a scrambled image, uint8 ``(3, H, W)``, with its label if it has one.

    Args:
        quality: of a JPEG file, 1 to 100; None for a PNG file.
        subsampling: of a JPEG file's colours, ``444`` for none or ``420``.

    Raises:
        UserError: if it cannot be written.
    """
    if quality is None:
        info = PngInfo()
        if label is not None:
            info.add_text(CHUNK, str(label))
        save(image, path, format="PNG", pnginfo=info)
    else:
        comment = "" if label is None else f"{CHUNK} {label}"
        coding = {"quality": quality, "subsampling": ":".join(subsampling)}
        save(image, path, format="JPEG", comment=comment, **coding)


def read(path: Path) -> tuple[torch.Tensor, Label | None]:
    """Read a picture, uint8 ``(3, H, W)``, and its label, None if it has none.

    One with a label is taken as it lies in the file, as it was sent: an orientation tag that some
    program added does not turn it.

    Raises:
        UserError: if it is no picture, its label is damaged, or it cannot be divided into the
            blocks that its label names.
    """
    picture, text = read_with(path, _with_label)
    image = to_tensor(picture)
    return image, None if text is None else _parse(text, tuple(image.shape[1:]), path)


def _with_label(file: Image.Image) -> tuple[Image.Image, str | None]:
    """The picture in a file as RGB, and the text of its label."""
    text = file.info.get(CHUNK)
    if text is None:
        # all comments, not Pillow's info["comment"]: that is the last one, and PNG has some, too
        comments = [content for name, content in getattr(file, "applist", ()) if name == "COM"]
        ours = [content for content in comments if content.startswith(f"{CHUNK} ".encode())]
        if not ours:
            return upright(file), None
        text = ours[0].decode("ascii", "replace").removeprefix(f"{CHUNK} ")
    return to_rgb(file), str(text)


def copy(source: Path, target: Path) -> None:
    """Copy a scrambled picture byte for byte: to decode and encode it again would lose more of it.

    Raises:
        UserError: if it cannot be written.
    """
    content = source.read_bytes()
    write_atomically(target, lambda file: file.write(content))


def _parse(text: str, image_size: tuple[int, int], path: Path) -> Label:
    words = text.split(" ")
    cipher = "pixels" if len(words) < 2 or HEXADECIMAL.fullmatch(words[1]) else words.pop(1)
    try:
        name, _ = parse_cipher(cipher)
        label = Label(words[0], words[1], bytes.fromhex("".join(words[2:3])), cipher)
    except (ValueError, IndexError):
        label = None
    expected = 0 if words[0] == "fixed" else NONCE_BYTES
    if (
        label is None
        or name not in CIPHERS_OF.get(label.scheme, ())
        or not HEXADECIMAL.fullmatch(label.fingerprint)
        or len(label.nonce) != expected
    ):
        raise UserError(f"{path}: damaged label {text!r}; expected a scheme, a key and a nonce")
    try:
        key_bits(cipher, image_size)
    except ValueError as error:
        raise UserError(f"{path}: cropped or resized since it was scrambled: {error}") from error
    return label


def check_key(label: Label, key: SecretKey, path: Path) -> None:
    """Refuse a picture that was scrambled with another key.

    Raises:
        UserError: naming both keys' fingerprints.
    """
    if label.fingerprint != key.fingerprint:
        raise UserError(
            f"{path}: scrambled with key {label.fingerprint}, the given one is {key.fingerprint}"
        )
