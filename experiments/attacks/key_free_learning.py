"""Attack: learn to classify scrambled images without the key, from labelled scrambled images.

Two networks that do not care where pixels are: a perceptron over all values (it can learn any fixed
order), and one that sees only the histogram of colours (which scrambling pixels cannot change).
A third row unscrambles the training images first, by the ciphertext-only attack, and then trains a
small convolutional network on them; it is also trained on plain and on scrambled images, as the
ceiling and the floor.

    python3 key_free_learning.py -data_dir DIR -epochs 5
"""

import time

import ciphertext_only
import conf  # noqa: F401
import torch
from torch import nn

from experiments.lib import schemes
from experiments.lib.report import show, unscramble, write
from utils import cli
from utils.cli import flags
from utils.data.datasets import DATASETS

LEVELS = 8  # of each colour channel in the histogram
CIPHERTEXT_IMAGES = 2000
HIDDEN = 512


def parse_args():
    parser = schemes.parser(__doc__.splitlines()[0], "key_free_learning")
    parser.add_argument("-epochs", type=cli.positive_int, default=5, help="epochs of each network")
    parser.add_argument(
        "-train_images", type=cli.positive_int, default=50_000, help="labelled scrambled images"
    )
    parser.add_argument("-test_images", type=cli.positive_int, default=10_000, help="scored images")
    schemes.add_schemes(parser)
    args = parser.parse_args()
    if args.train_images < 2:  # batch normalisation learns nothing from one
        parser.error(f"-train_images: expected at least 2, got {args.train_images}")
    return args


class ColourHistogram(nn.Module):
    """Shares of pixels of each colour: uint8 ``(N, 3, H, W)`` -> ``(N, LEVELS**3)``."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        levels = (images.long() * LEVELS // 256).flatten(2)  # (N, 3, P)
        colour = (levels[:, 0] * LEVELS + levels[:, 1]) * LEVELS + levels[:, 2]  # (N, P)
        counts = torch.zeros(len(images), LEVELS**3).scatter_add_(
            1, colour, torch.ones(colour.shape)
        )
        return (counts / colour.shape[1]).sqrt() * 4 - 0.1


class Values(nn.Module):
    """Pixel values about zero: uint8 ``(N, 3, H, W)`` -> float32 of the same shape."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float() / 64 - 2


def perceptron(values: int, classes: int, first: nn.Module) -> nn.Module:
    """Two hidden layers over what ``first`` makes of an image."""
    return nn.Sequential(
        *(first, nn.Flatten(), nn.Linear(values, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU()),
        *(nn.Dropout(0.3), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, classes)),
    )


def convolutional(classes: int) -> nn.Module:
    """A small convolutional network: three blocks, 32 to 128 channels."""
    layers, channels = [Values()], 3
    for width in (32, 64, 128):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
        channels = width
    return nn.Sequential(
        *layers, nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(4 * channels, classes)
    )


def learn(
    net: nn.Module,
    train: tuple[torch.Tensor, torch.Tensor],
    test: tuple[torch.Tensor, torch.Tensor],
    epochs: int,
) -> float:
    """Train by AdamW on a one-cycle schedule and return the accuracy on the test images."""
    (images, labels), batch = train, 256
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.01)
    batches = -(-len(images) // batch)
    steps = epochs * batches
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    net.train()
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for chosen in order.tensor_split(batches):  # evenly: no batch of one image
            loss = nn.functional.cross_entropy(net(images[chosen]), labels[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    net.eval()
    with torch.inference_mode():
        predicted = torch.cat([net(part).argmax(1) for part in test[0].split(1000)])
    return float((predicted == test[1]).float().mean())


def main() -> None:
    args = parse_args()
    flags.writable_folder(args.out_dir, "-out_dir")
    spec = DATASETS[args.dataset]
    train = schemes.shuffled_images(args, "train", args.train_images)
    test = schemes.shuffled_images(args, "test", args.test_images)
    values = 3 * spec.image_size[0] * spec.image_size[1]
    learners = {
        "perceptron": lambda: perceptron(values, spec.num_classes, Values()),
        "colour histogram": lambda: perceptron(LEVELS**3, spec.num_classes, ColourHistogram()),
        "convolutional": lambda: convolutional(spec.num_classes),
    }
    rows, shown = [], {"image": train[0]}

    def measure(scheme: str, learner: str, what: str, seen: torch.Tensor, tested: torch.Tensor):
        torch.manual_seed(0)
        started = time.perf_counter()
        accuracy = learn(learners[learner](), (seen, train[1]), (tested, test[1]), args.epochs)
        seconds = time.perf_counter() - started
        row = {"scheme": scheme, "network": learner, "images": what, "accuracy": accuracy}
        rows.append(row | {"seconds": seconds})
        show(rows[-1])

    for learner in learners:
        measure("none", learner, "plain", train[0], test[0])
    for name in args.scheme:
        scheme = schemes.SCHEMES[name](spec.image_size)
        # one call, so that no two images share a nonce
        scrambled = scheme.scramble(torch.cat([train[0], test[0]]))
        parts = scrambled.split([len(train[0]), len(test[0])])
        for learner in learners:
            measure(name, learner, "scrambled", *parts)
        permutation = torch.from_numpy(ciphertext_only.attack(parts[0][:CIPHERTEXT_IMAGES]))
        unscrambled = [unscramble(part, permutation) for part in parts]
        measure(name, "convolutional", "unscrambled", *unscrambled)
        shown |= {f"scrambled, {name}": parts[0], f"unscrambled, {name}": unscrambled[0]}
    write(
        args.out_dir,
        "key_free_learning",
        rows,
        f"Networks trained for {args.epochs} epochs on {len(train[0]):,} labelled scrambled images "
        f"without the key, tested on {len(test[0]):,}. Unscrambled: by the ciphertext-only attack "
        f"on {min(CIPHERTEXT_IMAGES, len(train[0])):,} of the training images.",
        shown,
    )


if __name__ == "__main__":
    cli.run(main)
