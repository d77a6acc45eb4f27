"""Scrambled pictures as PNG files: the pixels, and in text chunks what restoring them takes.

The chunk ``PrivDL`` holds the scheme, the key's fingerprint and, with per-image keys, the image's
nonce: ``fixed <fingerprint>``, ``per-image <fingerprint> <nonce>`` or ``per-image-values
<fingerprint> <nonce>``, numbers in hexadecimal. None of them is secret.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL.PngImagePlugin import PngInfo

from operators import ImageScrambler, PerImageScrambler, SecretKey
from operators.key import NONCE_BYTES, new_nonces
from utils.io.pictures import read_image, save_png, to_tensor
from utils.runtime.errors import UserError

CHUNK = "PrivDL"
SCHEMES = ("fixed", "per-image", "per-image-values")


@dataclass(frozen=True)
class Label:
    """What a scrambled picture says of itself.

    Attributes:
        scheme: one of ``SCHEMES``.
        fingerprint: of the key.
        nonce: of the image; empty for the fixed scheme.
    """

    scheme: str
    fingerprint: str
    nonce: bytes = b""

    def __str__(self) -> str:
        return " ".join([self.scheme, self.fingerprint, self.nonce.hex()]).rstrip()


def new_label(scheme: str, key: SecretKey) -> Label:
    """A label for the next image to scramble, with a fresh nonce where the scheme needs one."""
    return Label(scheme, key.fingerprint, b"" if scheme == "fixed" else new_nonces(1)[0])


def scramble(image: torch.Tensor, key: SecretKey, label: Label) -> torch.Tensor:
    """Scramble uint8 ``(3, H, W)`` as its label says."""
    if label.scheme == "fixed":
        return ImageScrambler(tuple(image.shape[1:]), secret=key)(image)
    return _per_image(image, key, label).scramble(image[None], [label.nonce])[0]


def restore(image: torch.Tensor, key: SecretKey, label: Label) -> torch.Tensor:
    """Restore uint8 ``(3, H, W)``: the inverse of ``scramble``."""
    if label.scheme == "fixed":
        return ImageScrambler(tuple(image.shape[1:]), secret=key).unscramble(image)
    return _per_image(image, key, label).unscramble(image[None], [label.nonce])[0]


def to_fixed_key(image: torch.Tensor, key: SecretKey, label: Label) -> torch.Tensor:
    """What a network keyed by ``ImageScrambler(size, secret=key)`` expects: ``(3, H, W)``."""
    if label.scheme == "fixed":
        return image
    return _per_image(image, key, label).rekey(image[None], [label.nonce])[0]


def _per_image(image: torch.Tensor, key: SecretKey, label: Label) -> PerImageScrambler:
    return PerImageScrambler(tuple(image.shape[1:]), key, label.scheme == "per-image-values")


def write(image: torch.Tensor, label: Label | None, path: Path) -> None:
    """Write a scrambled image, uint8 ``(3, H, W)``, with its label if it has one.

    Raises:
        UserError: if it cannot be written.
    """
    info = PngInfo()
    if label is not None:
        info.add_text(CHUNK, str(label))
    save_png(image, path, info)


def read(path: Path) -> tuple[torch.Tensor, Label | None]:
    """Read a picture, uint8 ``(3, H, W)``, and its label, None if it has none.

    Raises:
        UserError: if it is no picture, or its label is damaged.
    """
    picture = read_image(path)
    text = picture.info.get(CHUNK)
    return to_tensor(picture), None if text is None else _parse(str(text), path)


def _parse(text: str, path: Path) -> Label:
    words = [*text.split(" "), ""]
    try:
        label = Label(words[0], words[1], bytes.fromhex(words[2]))
    except (ValueError, IndexError):
        label = None
    expected = 0 if words[0] == "fixed" else NONCE_BYTES
    if label is None or label.scheme not in SCHEMES or len(label.nonce) != expected:
        raise UserError(f"{path}: damaged label {text!r}; expected a scheme, a key and a nonce")
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
