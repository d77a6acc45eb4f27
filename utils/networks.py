"""Networks by name, for images of a given size."""

import copy

import torch
from torch import nn

import models
from operators import ImageScrambler
from utils.cli import UserError


def build(
    name: str,
    num_classes: int,
    image_size: tuple[int, int],
    scrambler: ImageScrambler | None,
    device: torch.device,
    backend: str = "auto",
) -> nn.Module:
    """A network with random weights, drawn on the CPU, known to take images of ``image_size``.

    Args:
        name: a name of the registry of networks.
        num_classes: length of the logits.
        image_size: ``(H, W)`` of the images, in pixels.
        scrambler: the key that a keyed network is built with; a plain one ignores it.
        device: where it is to run.
        backend: how keyed layers compute.

    Raises:
        UserError: if the network cannot be built for these images, or not be keyed exactly.
    """
    try:
        keyed = models.is_keyed(name)
        net = models.create_model(name, num_classes, scrambler if keyed else None, backend)
    except ValueError as error:
        raise _cannot_take(name, image_size, error) from error
    net = net.to(device)
    check_size(net, name, image_size)
    return net


def check_size(net: nn.Module, name: str, image_size: tuple[int, int]) -> None:
    """Refuse images that a network does not compute on; it is in evaluation mode afterwards.

    Raises:
        UserError: naming ``-net`` and the size.
    """
    device = next(net.parameters()).device
    try:
        with torch.no_grad():
            net.eval()(torch.zeros(1, 3, *image_size, device=device))
    except (AssertionError, RuntimeError, ValueError) as error:  # torchvision asserts sizes
        raise _cannot_take(name, image_size, error) from error


def _cannot_take(name: str, image_size: tuple[int, int], error: Exception) -> UserError:
    height, width = image_size
    return UserError(f"-net {name} cannot take {height}x{width} images ({error})")


def check_batch_of_one(net: nn.Module, image_size: tuple[int, int]) -> None:
    """Refuse to train by single images a network whose batch-norm then sees a single value.

    Raises:
        UserError: naming ``-b``.
    """
    device = next(net.parameters()).device
    try:
        with torch.no_grad():
            copy.deepcopy(net).train()(torch.zeros(1, 3, *image_size, device=device))
    except ValueError as error:
        raise UserError(
            f"-b: a step would have a single image, which this network cannot learn from ({error})"
        ) from error


def folder_name(name: str) -> str:
    """The name of a network as that of a folder, on every operating system.

    Example:
        >>> folder_name("torchvision:resnet18")
        'torchvision-resnet18'
    """
    return name.replace(":", "-")
