"""Networks by name, and trained ones ready to use: from a name, a file of weights and a key."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import models
from operators import (
    BlockCipher,
    ImageScrambler,
    PerImageScrambler,
    keyed_parts,
    make_scrambler,
)
from utils.data.augment import Preprocess
from utils.data.datasets import DATASETS, FOLDER, DatasetSpec
from utils.data.segmentation import MASK_DATASETS
from utils.io import checkpoint
from utils.runtime.errors import UserError


def build(
    name: str,
    num_classes: int,
    image_size: tuple[int, int],
    scrambler: ImageScrambler | BlockCipher | None,
    device: torch.device,
    backend: str = "auto",
    maps: bool = False,
) -> nn.Module:
    """A network with random weights, drawn on the CPU, known to take images of ``image_size``.

    Args:
        name: a name of the registry of networks.
        num_classes: length of the logits.
        image_size: ``(H, W)`` of the images, in pixels.
        scrambler: of its images; a keyed network is built with the key in it, a plain one ignores
            it.
        device: where it is to run.
        backend: how keyed layers compute.
        maps: whether it is to give logits for every pixel; those of a keyed network come scrambled,
            under ``scrambler.for_output(image_size)``.

    Raises:
        UserError: if the network cannot be built for these images, or not be keyed exactly, or
            gives logits of another shape.
    """
    try:
        key = keyed_parts(scrambler)[0] if models.is_keyed(name) else None
        net = models.create_model(name, num_classes, key, backend, maps, image_size)
    except ValueError as error:
        height, width = image_size
        what = f"-net {name} cannot be built for {height}x{width} images"
        raise UserError(f"{what} ({error})") from error
    net = net.to(device)
    shape = check_size(net, name, image_size)
    if shape != (1, num_classes, *(image_size if maps else ())):
        wanted = "for every pixel" if maps else "for the whole image"
        raise UserError(
            f"-net {name} gives logits of shape {shape} for an image of "
            f"{image_size[0]}x{image_size[1]}; expected a network with {num_classes} {wanted}"
        )
    return net


def check_size(net: nn.Module, name: str, image_size: tuple[int, int]) -> tuple[int, ...]:
    """Refuse images that a network does not compute on; it is in evaluation mode afterwards.

    Returns:
        The shape of what it gives for one image.

    Raises:
        UserError: naming ``-net`` and the size.
    """
    try:
        with torch.no_grad():
            logits = net.eval()(torch.zeros(1, 3, *image_size, device=_device(net)))
    except Exception as error:  # of a network of one's own, anything
        height, width = image_size
        raise UserError(f"-net {name} cannot take {height}x{width} images ({error})") from error
    return _shape(logits, name)


def _device(net: nn.Module) -> torch.device:
    return next((p.device for p in net.parameters()), torch.device("cpu"))


def _shape(logits: object, name: str) -> tuple[int, ...]:
    if not isinstance(logits, torch.Tensor):
        raise UserError(f"-net {name} returns a {type(logits).__name__}; expected logits")
    return tuple(logits.shape)


def check_training(net: nn.Module, name: str, image_size: tuple[int, int], images: int = 2) -> None:
    """Refuse to train a network without trainable parameters, or without logits in training mode.

    Its weights and statistics stay as they are, and so does the stream of random numbers; it is in
    evaluation mode afterwards.

    Raises:
        UserError: naming ``-net``, or ``-b`` where batch-norm would see a single value.
    """
    if not any(p.requires_grad for p in net.parameters()):
        raise UserError(f"-net {name} cannot be trained (no parameter of it requires a gradient)")
    device = _device(net)
    try:
        net.train()  # what a keyed network does in training is keyed now
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            logits = copy.deepcopy(net)(torch.zeros(images, 3, *image_size, device=device))
    except Exception as error:
        what = f"-net {name} cannot be trained"
        if images == 1:
            what = "-b: a step would have a single image, which this network cannot learn from"
        raise UserError(f"{what} ({error})") from error
    net.eval()
    _shape(logits, name)


@dataclass(frozen=True)
class Deployed:
    """A network in evaluation mode with what surrounds it.

    Attributes:
        net: the network, on its device.
        preprocess: uint8 images as the camera saw them to network input, scrambled if asked.
        classes: class names in label order.
    """

    net: nn.Module
    preprocess: Preprocess
    classes: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """How many parameters the network has."""
        return sum(p.numel() for p in self.net.parameters())


@dataclass(frozen=True)
class Trained:
    """A file of weights, read once.

    Attributes:
        state: what ``checkpoint.read`` returned.
        spec: the data set that the weights were trained on.
        path: the file, for messages.
    """

    state: dict
    spec: DatasetSpec
    path: Path


def load(weights: Path, dataset: str) -> Trained:
    """Read weights, and say what data they were trained on.

    Args:
        weights: a checkpoint of ours, which knows its data set, or weights of another program.
        dataset: the name of the data set as the user gave it.

    Raises:
        UserError: if the file cannot be used, if the weights were trained on another data set, or
            if they do not tell enough of it.
    """
    state = checkpoint.read(weights)
    if "format" not in state:
        if dataset == FOLDER:
            raise UserError(f"{weights}: bare weights; -dataset folder needs a checkpoint of a run")
        return Trained(state, (DATASETS | MASK_DATASETS)[dataset], weights)
    data = state["data"]
    if data["name"] != dataset:
        raise UserError(f"{weights}: trained on {data['name']}; give -dataset {data['name']}")
    spec = DatasetSpec(
        num_classes=data["num_classes"],
        image_size=tuple(data["image_size"]),
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        classes=tuple(data["classes"]),
    )
    return Trained(state, spec, weights)


def deploy(
    name: str,
    trained: Trained,
    device: torch.device,
    scrambler: ImageScrambler | BlockCipher | None = None,
    scramble: Callable[[torch.Tensor], torch.Tensor] | None = None,
    backend: str = "auto",
    maps: bool = False,
) -> Deployed:
    """Build a network, give it trained weights and prepare its input.

    Args:
        name: a name in the registry of networks.
        trained: the weights.
        device: where to run.
        scrambler: of the images a keyed network is built for; a plain one ignores it.
        scramble: what scrambles the images, or None for images that are given as they arrive.
        backend: how keyed layers compute.
        maps: as for ``build``.

    Raises:
        UserError: if the network cannot take the images, or the weights cannot be used for it.
    """
    spec = trained.spec
    net = build(name, spec.num_classes, spec.image_size, scrambler, device, backend, maps)
    checkpoint.load_weights(net, trained.state, trained.path)
    return Deployed(
        net=net.eval(),
        preprocess=Preprocess(spec.mean, spec.std, received(name, scrambler, scramble)).to(device),
        classes=spec.classes or tuple(f"class {i}" for i in range(spec.num_classes)),
    )


def received(
    name: str,
    scrambler: ImageScrambler | BlockCipher | None,
    scramble: Callable[[torch.Tensor], torch.Tensor] | None,
) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """What is done to uint8 images before a network gets them, or None for nothing.

    They are scrambled by ``scramble``, where there is one; at the input of a keyed network what the
    cipher of its key did to their values is undone.
    """
    if not models.is_keyed(name) or isinstance(scrambler, ImageScrambler):
        return scramble
    _, undo = keyed_parts(scrambler)
    return undo if scramble is None else lambda images: undo(scramble(images))


def wrong_scrambler(
    image_size: tuple[int, int], seed: int | None, cipher: str = "pixels"
) -> ImageScrambler | BlockCipher:
    """A scrambler of another key than ``seed``'s: that of the next seed, or a fresh one."""
    return make_scrambler(cipher, image_size, None if seed is None else (seed + 1) % 2**32)


def check_cipher(name: str, state: dict, scrambler: ImageScrambler | BlockCipher) -> None:
    """Refuse weights of a plain network that was trained on the pictures of another cipher.

    Raises:
        UserError: naming both ciphers.
    """
    record = state.get("record") or {}
    trained = cipher_of_run(record)
    if not models.is_keyed(name) and trained is not None and trained != scrambler.cipher:
        raise UserError(
            f"-net {name} was trained on {trained} pictures, asked for is {scrambler.cipher}; "
            f"give -cipher {trained}"
        )


def cipher_of_run(record: dict) -> str | None:
    """The cipher of a run's pictures, None for plain ones; older records know only one."""
    return record.get("cipher", "pixels") if record.get("permute") else None


def per_image_scrambling(
    camera: PerImageScrambler, server: PerImageScrambler | None
) -> Callable[[torch.Tensor], torch.Tensor]:
    """What arrives at the network when each image has its own key: a function of uint8 images.

    Args:
        camera: scrambles each image, under nonces that depend on nothing but the batch, so that a
            run can be repeated and resumed exactly; divided among processes it has others.
        server: rekeys them for a keyed network; None for a network without a key.
    """

    def rekeyed(images: torch.Tensor) -> torch.Tensor:
        nonces = camera.nonces_for(images)
        scrambled = camera.scramble(images, nonces)
        return scrambled if server is None else server.rekey(scrambled, nonces)

    return rekeyed
