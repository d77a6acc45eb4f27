"""The statistics by which papers on image encryption judge a cipher, on every scheme.

Histogram (chi-square against the uniform one, about 255 for random values), entropy in bits a
value, correlation of adjacent pixels, and four comparisons: NPCR is the share of values that
differ, UACI their mean difference as a share of 255 (99.6% and 33.5% for random values).

    changed pixel  one pixel of the picture changed by the lowest bit of its three values; where
                   each picture has its own nonce or key, the changed one has the next
    changed key    one bit of the key changed

Beside the schemes stands a stream cipher, the picture XOR SHAKE-256(key || nonce), once as it must
be used, with a fresh nonce for each picture, and once with the same nonce for all, which gives all
pictures away to whoever knows one.

    python3 cipher_statistics.py -data_dir DIR -images 1000
"""

import hashlib
import math

import conf  # noqa: F401
import torch

from experiments.lib import ciphertexts, schemes
from experiments.lib.ciphertexts import KEY, Scheme, Scramble
from experiments.lib.report import show, ssim, write
from utils import cli
from utils.cli import flags
from utils.data.datasets import DATASETS

NEIGHBOURS = {"horizontal": (0, 1), "vertical": (1, 0), "diagonal": (1, 1)}  # (dy, dx)


def parse_args():
    parser = schemes.parser(__doc__.splitlines()[0], "cipher_statistics")
    parser.add_argument("-images", type=cli.positive_int, default=1000, help="test images")
    return parser.parse_args()


def stream_cipher(fresh: bool) -> Scheme:
    """XOR with a stream of the key and each image's nonce, or of one nonce for all."""

    def keyed(size, key: bytes) -> Scramble:
        def scramble(images: torch.Tensor, first: int) -> torch.Tensor:
            length = images[0].numel()
            named = schemes.nonces(len(images), first) if fresh else [bytes(16)] * len(images)
            streams = b"".join(hashlib.shake_256(key + nonce).digest(length) for nonce in named)
            return images ^ torch.frombuffer(bytearray(streams), dtype=torch.uint8).view_as(images)

        return scramble

    return keyed


CIPHERS = ciphertexts.SCHEMES | {
    "stream cipher, fresh nonces": stream_cipher(fresh=True),
    "stream cipher, one nonce": stream_cipher(fresh=False),
}


def histogram(images: torch.Tensor) -> dict[str, float]:
    """Chi-square of the values' histogram and its entropy, means over uint8 ``(N, C, H, W)``."""
    values = images.flatten(1)
    counts = torch.stack([torch.bincount(v, minlength=256) for v in values.int()]).double()
    expected = values.shape[1] / 256
    shares = counts / values.shape[1]
    return {
        "chi-square": float(((counts - expected) ** 2 / expected).sum(1).mean()),
        "entropy": float(-torch.xlogy(shares, shares).sum(1).mean() / math.log(2)),
    }


def correlation(images: torch.Tensor, dy: int, dx: int) -> float:
    """Pearson's correlation of pixels with those ``(dy, dx)`` further on.

    The mean over images ``(N, C, H, W)`` and channels, leaving out those that are flat.
    """
    height, width = images.shape[2:]
    x = images.double()
    here = x[..., : height - dy, : width - dx].flatten(2)
    there = x[..., dy:, dx:].flatten(2)
    here, there = (v - v.mean(2, keepdim=True) for v in (here, there))
    scale = (here.square().sum(2) * there.square().sum(2)).sqrt()
    return float(((here * there).sum(2) / scale)[scale > 0].mean())


def npcr(a: torch.Tensor, b: torch.Tensor) -> float:
    """The share of values that differ."""
    return float((a != b).double().mean())


def uaci(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean absolute difference of values, as a share of 255."""
    return float((a.double() - b.double()).abs().mean() / 255)


def change_pixel(images: torch.Tensor) -> torch.Tensor:
    """The lowest bits of one pixel of each image flipped; which one is random, but repeatable."""
    plane = images.shape[2] * images.shape[3]
    pixel = torch.randint(plane, (len(images),), generator=torch.Generator().manual_seed(0))
    flat = images.flatten(2).clone()
    flat[torch.arange(len(images)), :, pixel] ^= 1
    return flat.reshape(images.shape)


def statistics(scheme: Scheme, images: torch.Tensor) -> dict[str, float]:
    """All statistics of a scheme on uint8 images ``(N, C, H, W)``."""
    size = tuple(images.shape[2:])
    scramble = scheme(size, KEY)
    scrambled = scramble(images, 0)
    changed = scramble(change_pixel(images), len(images))
    other_key = scheme(size, bytes([KEY[0] ^ 1]) + KEY[1:])(images, 0)
    return {
        **histogram(scrambled),
        **{name: correlation(scrambled, *step) for name, step in NEIGHBOURS.items()},
        "changed pixel: NPCR": npcr(scrambled, changed),
        "changed pixel: UACI": uaci(scrambled, changed),
        "changed key: NPCR": npcr(scrambled, other_key),
        "SSIM": ssim(images, scrambled),
    }


def main() -> None:
    args = parse_args()
    flags.writable_folder(args.out_dir, "-out_dir")
    size = DATASETS[args.dataset].image_size
    images, _ = schemes.shuffled_images(args, "test", args.images)
    rows = []
    for name, scheme in {"none": lambda size, key: lambda images, first: images, **CIPHERS}.items():
        rows.append({"scheme": name} | statistics(scheme, images))
        show(rows[-1])
    write(
        args.out_dir,
        "cipher_statistics",
        rows,
        f"Means over {len(images):,} pictures of {size[0]}x{size[1]}. Chi-square is about 255, "
        "NPCR 99.6% and UACI 33.5% for random values.",
    )


if __name__ == "__main__":
    cli.run(main)
