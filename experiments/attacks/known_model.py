"""Attack: find the permutation under which a known network recognises the scrambled images.

The attacker has the plain weights, which the scheme does not hide, and scrambled images. The loss
of a permutation is low where the network's answers have low entropy each and high entropy together,
and where the maps before every batch normalisation have the mean and variance that it remembers
(Yin et al., CVPR 2020). It is all that the attacker can judge by: every method keeps, of the
permutations it came by, that of least loss.

``gradient`` optimises a soft permutation (a matrix made doubly stochastic by Sinkhorn's iteration;
Mena et al., ICLR 2018) that sharpens from step to step, and rounds it to a permutation on the way.
``ciphertext-only`` takes the symmetry of least loss of what that attack finds: no public pictures
are needed. ``ciphertext-only, gradient`` goes on from there by gradient. With per-image keys the
gradient attacks each image alone; the other still looks for one key of all, which is not there.

    python3 known_model.py -data_dir DIR -weights PATH -images 64 -steps 100
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import ciphertext_only
import conf  # noqa: F401
import numpy as np
import torch
from torch import nn

from experiments.lib import schemes
from experiments.lib.recovery import symmetries
from experiments.lib.report import placement, psnr, show, unscramble, write
from experiments.lib.solvers import linear_sum_assignment
from utils import cli
from utils.cli import flags
from utils.data.datasets import DATASETS
from utils.inference.network import deploy, load

SCORED_IMAGES = 500
UPRIGHT_IMAGES = 64
SINKHORN_ROUNDS = 10
SHARPEST = 3.0  # factor of the scores at the last step; 1 at the first
SPREAD = 0.7  # pixels
BATCH = 16
ROUND_EVERY = 10  # steps
LR = 0.3
REFINING_LR = 0.1  # Adam's first steps, equally long everywhere, soon erase a start


def parse_args():
    parser = schemes.parser(__doc__.splitlines()[0], "known_model")
    parser.add_argument(
        "-images", type=cli.positive_int, default=64, help="scrambled images for the gradient"
    )
    parser.add_argument(
        "-ciphertext_images",
        type=cli.positive_int,
        default=2000,
        help="scrambled images for the ciphertext-only attack",
    )
    parser.add_argument("-steps", type=cli.positive_int, default=100, help="gradient steps")
    parser.add_argument("-weights", type=Path, required=True, help="weights of vgg16")
    schemes.add_schemes(parser)
    return parser.parse_args()


def soft_permutation(scores: torch.Tensor) -> torch.Tensor:
    """Sinkhorn's iteration: scores ``(P, P)`` to a matrix whose rows and columns sum to 1."""
    for _ in range(SINKHORN_ROUNDS):
        scores = scores - scores.logsumexp(1, keepdim=True)
        scores = scores - scores.logsumexp(0, keepdim=True)
    return scores.exp()


def near(permutation: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """Scores ``(P, P)`` of a soft permutation: a hard one, blurred by ``SPREAD`` pixels."""
    y, x = (torch.from_numpy(c).float() for c in np.divmod(np.arange(size[0] * size[1]), size[1]))
    squared = (y[permutation][:, None] - y) ** 2 + (x[permutation][:, None] - x) ** 2
    return -squared / (2 * SPREAD**2)


def attack(
    net: nn.Module,
    scrambled: torch.Tensor,
    steps: int,
    lr: float = LR,
    start: np.ndarray | None = None,
) -> np.ndarray:
    """Permutation ``(P,)`` from a network and its scrambled input ``(N, C, H, W)``.

    Args:
        net: in evaluation mode; takes natural images and returns logits.
        scrambled: preprocessed images under one key.
        steps: of Adam, each on at most ``BATCH`` of the images.
        lr: its rate.
        start: a permutation to begin at, or None.

    Returns:
        The permutation of least ``loss`` on all images, among the start and those that the soft
        permutation was rounded to.
    """
    flat = scrambled.flatten(2)
    generator = torch.Generator().manual_seed(0)
    scores = 0.01 * torch.randn(flat.shape[2], flat.shape[2], generator=generator)
    if start is not None:
        scores += near(start, tuple(scrambled.shape[2:]))
    scores.requires_grad_()
    optimizer = torch.optim.Adam([scores], lr=lr)
    permutations = [] if start is None else [start]
    for step in range(1, steps + 1):
        chosen = torch.randperm(len(flat), generator=generator)[:BATCH]
        soft = soft_permutation(scores * (1 + (SHARPEST - 1) * step / steps))
        guess = (flat[chosen] @ soft).reshape(-1, *scrambled.shape[1:])
        (scores.grad,) = torch.autograd.grad(loss(net, guess), scores)
        optimizer.step()
        if step % ROUND_EVERY == 0 or step == steps:
            sharp = soft_permutation(SHARPEST * scores.detach())
            permutations.append(linear_sum_assignment(-sharp.numpy())[1])
    return least_loss(net, scrambled, permutations)


def loss(net: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """How little the network takes its input ``(N, C, H, W)`` for natural images, one number."""
    mismatch: list[torch.Tensor] = []
    hooks = [
        module.register_forward_hook(lambda m, i, o: mismatch.append(_batch_mismatch(m, i[0])))
        for module in net.modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    try:
        return entropy_loss(net(inputs)) + sum(mismatch)
    finally:
        for hook in hooks:
            hook.remove()


def entropy_loss(logits: torch.Tensor) -> torch.Tensor:
    """Mean entropy of the answers ``(N, classes)``, less the entropy of their mean."""
    log_p = logits.log_softmax(1)
    mean = log_p.exp().mean(0)
    entropy_of_mean = -(mean * (mean + 1e-9).log()).sum() if len(logits) > 1 else 0
    return -(log_p.exp() * log_p).sum(1).mean() - entropy_of_mean


def _batch_mismatch(norm: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
    scale = norm.running_var + norm.eps
    return ((mean - norm.running_mean).square() / scale + (variance / scale - 1).square()).mean()


def loss_of(net: nn.Module, scrambled: torch.Tensor, permutation: np.ndarray) -> float:
    """The loss of preprocessed images ``(N, C, H, W)`` once they are unscrambled."""
    with torch.inference_mode():
        return float(loss(net, unscramble(scrambled, torch.from_numpy(permutation))))


def least_loss(
    net: nn.Module, scrambled: torch.Tensor, permutations: list[np.ndarray]
) -> np.ndarray:
    """Of several permutations, the first that has the least loss."""
    return min(permutations, key=lambda permutation: loss_of(net, scrambled, permutation))


def main() -> None:
    args = parse_args()
    flags.writable_folder(args.out_dir, "-out_dir")
    size = DATASETS[args.dataset].image_size
    deployed = deploy("vgg16", load(args.weights, args.dataset), torch.device("cpu"))
    net, preprocess = deployed.net.requires_grad_(False), deployed.preprocess
    needed = max(args.ciphertext_images, args.images, SCORED_IMAGES)
    images, labels = schemes.shuffled_images(args, "test", needed)
    rows, shown = [], {"image": images}
    for name in args.scheme:
        scheme = schemes.SCHEMES[name](size)
        scrambled, truth = scheme.scramble(images), scheme.positions(len(images)).numpy()
        count = 1 if name.startswith("per-image") else args.images
        seen = preprocess(scrambled[:count])
        found = attacks(net, preprocess, scrambled, count, args.ciphertext_images, args.steps)
        for method, images_used, permutation, seconds in found:
            recovered = unscramble(scrambled[:SCORED_IMAGES], torch.from_numpy(permutation))
            row = {"scheme": name, "method": method, "images": images_used}
            row |= placement(permutation, truth[:images_used], size[1])
            scored = min(images_used, SCORED_IMAGES)
            row["PSNR"] = psnr(images[:scored], recovered[:scored])
            row["loss"] = loss_of(net, seen, permutation)
            row["accuracy"] = _accuracy(net, preprocess(recovered), labels)
            rows.append(row | {"seconds": seconds})
            show(rows[-1])
            shown[f"{method}, {name}"] = recovered
    write(
        args.out_dir,
        "known_model",
        rows,
        "Scrambled images and the plain weights. Shares of pixels placed right, no symmetry "
        f"forgiven; accuracy of the plain network on {SCORED_IMAGES} images unscrambled so. "
        f"The gradient took {args.steps} steps on the first {args.images} images; of what it "
        "found and its start it kept that of least loss, without knowing the truth. Under "
        "per-image keys it attacks one image, and the accuracy asks whether what it found opens "
        "the others.",
        shown,
    )


def attacks(
    net: nn.Module,
    preprocess: Callable[[torch.Tensor], torch.Tensor],
    scrambled: torch.Tensor,
    count: int,
    ciphertext_images: int,
    steps: int,
) -> Iterator[tuple[str, int, np.ndarray, float]]:
    """Try every method.

    Args:
        net: the plain network, in evaluation mode.
        preprocess: uint8 images to its input.
        scrambled: uint8 ``(N, 3, H, W)``.
        count: images that the gradient sees.
        ciphertext_images: images for the ciphertext-only attack.
        steps: of the gradient.

    Yields:
        The method, the images it used, the permutation ``(P,)`` it found and the seconds it took.
    """
    seen = preprocess(scrambled[:count])
    started = time.perf_counter()
    yield "gradient", count, attack(net, seen, steps), time.perf_counter() - started
    started = time.perf_counter()
    permutation = ciphertext_only.attack(scrambled[:ciphertext_images])
    turned = symmetries(permutation, tuple(scrambled.shape[2:]))
    permutation = least_loss(net, preprocess(scrambled[: max(count, UPRIGHT_IMAGES)]), turned)
    first_seconds = time.perf_counter() - started
    yield "ciphertext-only", ciphertext_images, permutation, first_seconds
    # the time between two yields is that of whoever scores the first result
    started = time.perf_counter()
    refined = attack(net, seen, steps, REFINING_LR, start=permutation)
    seconds = first_seconds + time.perf_counter() - started
    yield "ciphertext-only, gradient", ciphertext_images, refined, seconds


def _accuracy(net: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> float:
    with torch.inference_mode():
        predicted = torch.cat([net(part).argmax(1) for part in inputs.split(100)])
    return float((predicted == labels[: len(predicted)]).float().mean())


if __name__ == "__main__":
    cli.run(main)
