"""What carries scrambled pictures to the server: image files of any kind, lossy ones too."""

import io
from dataclasses import dataclass, field

import torch
from PIL import Image

from experiments.lib.schemes import SECRET, nonces
from operators import PerImageScrambler, make_scrambler
from operators.cipher_keys import key_bits, parse_cipher
from utils.io.pictures import to_picture, to_tensor


@dataclass(frozen=True)
class Channel:
    """A way to code pictures.

    Attributes:
        name: in tables.
        coding: for Pillow's ``Image.save``.
    """

    name: str
    coding: dict = field(hash=False)

    def carry(self, images: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Code and decode uint8 ``(N, 3, H, W)``: what arrives, and the bytes of all files."""
        arrived, size = torch.empty_like(images), 0
        for image, target in zip(images, arrived, strict=True):
            file = io.BytesIO()
            to_picture(image).save(file, **self.coding)
            size += len(file.getvalue())
            with Image.open(file) as decoded:
                target.copy_(to_tensor(decoded.convert("RGB")))
        return arrived, size


QUALITIES = (95, 85, 75)
CHANNELS = (
    Channel("PNG", {"format": "PNG"}),
    *(
        Channel(
            f"JPEG {colours}, {quality}",
            {"format": "JPEG", "quality": quality, "subsampling": colours},
        )
        for colours in ("4:4:4", "4:2:0")
        for quality in QUALITIES
    ),
    *(
        Channel(f"WebP, {quality}", {"format": "WEBP", "quality": quality})  # always 4:2:0
        for quality in QUALITIES
    ),
)


@dataclass(frozen=True)
class Scheme:
    """A way to scramble, with the secret of ``schemes``.

    Attributes:
        name: in tables.
        cipher: as the scripts take it, None for plain pictures.
        per_image: a key for each image.
    """

    name: str
    cipher: str | None
    per_image: bool = False

    def bits(self, image_size: tuple[int, int]) -> float | None:
        """Logarithm to base 2 of the number of keys of an image."""
        return None if self.cipher is None else key_bits(self.cipher, image_size)

    def through(self, channel: Channel, images: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Scramble, code, decode and restore uint8 ``(N, 3, H, W)``; the result, bytes of files."""
        if self.cipher is None:
            return channel.carry(images)
        size = tuple(images.shape[2:])
        if self.per_image:
            _, block = parse_cipher(self.cipher)
            camera, named = PerImageScrambler(size, SECRET, block=block), nonces(len(images))
            arrived, sent = channel.carry(camera.scramble(images, named))
            return camera.unscramble(arrived, named), sent
        camera = make_scrambler(self.cipher, size, secret=SECRET)
        arrived, sent = channel.carry(camera.scramble(images))
        return camera.unscramble(arrived), sent


PLAIN = Scheme("no scrambling", None)
SCHEMES = (
    PLAIN,
    Scheme("whole image", "pixels"),
    Scheme("blocks:4", "blocks:4"),
    Scheme("blocks:8", "blocks:8"),
    Scheme("blocks:8 per image", "blocks:8", per_image=True),
    Scheme("blocks:16", "blocks:16"),
    Scheme("etc:8", "etc:8"),
)
