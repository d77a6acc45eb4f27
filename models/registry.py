"""The networks, by name. ``create_model`` builds any of them; the command line accepts these names.

Every plain network ``NAME`` has a keyed twin ``NAME_permuted`` with the same parameters: for VGG16
the network that is written out in ``models.vgg_deformable``, for all others what ``key_network``
makes of them. The paper's are ``vgg16_permuted`` and ``preresnet110_permuted``. Only networks
behind an adaptation network have none: they learn to undo a cipher without its key. Beside the
project's own networks, ``torchvision:NAME`` is any classifier or segmentation network of
torchvision, untrained.
"""

from functools import partial

import torchvision
from torch import Tensor, nn

from models.adaptation import AdaptedNetwork, BlockAdaptation, SharedAdaptation
from models.convmixer import ConvMixer
from models.keying import key_network
from models.preresnet import DEPTHS, PreResNet
from models.pyramidnet import PyramidNet
from models.unet import UNet
from models.vgg import VGG16
from models.vgg_deformable import VGG16Deformable
from operators import ImageScrambler

KEYED_SUFFIX = "_permuted"
TORCHVISION_PREFIX = "torchvision:"

_PLAIN = {
    "vgg16": VGG16,
    **{f"preresnet{depth}": partial(PreResNet, depth) for depth in DEPTHS},
    **{f"preresnet{depth}_basic": partial(PreResNet, depth, basic=True) for depth in DEPTHS},
    "pyramidnet110": PyramidNet,
    "unet": UNet,
    "convmixer512_16": ConvMixer,
    "convmixer256_8": partial(ConvMixer, image_size=32, width=256, depth=8, kernel_size=5, patch=4),
}
# These learn to undo a cipher, so they have no keyed twins.
_ADAPTED = {
    "pyramidnet110_adapted": partial(AdaptedNetwork, BlockAdaptation, PyramidNet),
    "pyramidnet110_adapted_le": partial(AdaptedNetwork, SharedAdaptation, PyramidNet),
    "preresnet20_adapted": partial(AdaptedNetwork, BlockAdaptation, partial(PreResNet, 20)),
    "preresnet20_adapted_le": partial(AdaptedNetwork, SharedAdaptation, partial(PreResNet, 20)),
}
_SEGMENTATION = frozenset(torchvision.models.list_models(module=torchvision.models.segmentation))
# The auxiliary classifiers of these run in training only, and return tuples there.
_TORCHVISION_OPTIONS = {
    **{name: {"weights_backbone": None} for name in _SEGMENTATION},
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


def names() -> tuple[str, ...]:
    """The project's own networks, plain and keyed."""
    return *(name + suffix for name in _PLAIN for suffix in ("", KEYED_SUFFIX)), *_ADAPTED


def is_keyed(name: str) -> bool:
    """Whether ``name`` is the keyed twin of a network."""
    return name.endswith(KEYED_SUFFIX)


def check_name(name: str) -> str:
    """``name``, or ValueError with the valid ones if there is no such network."""
    if name in _ADAPTED:
        return name
    plain = name.removesuffix(KEYED_SUFFIX)
    known = (*torchvision.models.list_models(module=torchvision.models), *_SEGMENTATION)
    if plain in _PLAIN or (
        plain.startswith(TORCHVISION_PREFIX) and plain.removeprefix(TORCHVISION_PREFIX) in known
    ):
        return name
    raise ValueError(
        f"unknown network {name!r}; expected one of {', '.join(names())}, or "
        f"{TORCHVISION_PREFIX}NAME with a network of torchvision such as resnet18"
    )


def create_model(
    name: str,
    num_classes: int = 10,
    scrambler: ImageScrambler | None = None,
    backend: str = "auto",
    scramble_output: bool = False,
) -> nn.Module:
    """Build a network by name, with random weights.

    Args:
        name: one of ``names()``, or ``torchvision:NAME``, plain or keyed.
        num_classes: length of the logits, or channels of a map of logits.
        scrambler: the key of the images; for keyed networks only, which need it.
        backend: ``auto``, ``deform`` (the paper's operator), ``gather`` or ``triton`` (CUDA only),
            for keyed layers.
        scramble_output: of a keyed network: return maps under ``scrambler.for_output``.

    Raises:
        ValueError: if the name is unknown, a keyed network gets no scrambler or a plain one does,
            or VGG16 is to be keyed for images that it cannot take.
        KeyingError: if a network of torchvision cannot be keyed exactly.

    Example:
        >>> keyed = create_model("vgg16_permuted", scrambler=ImageScrambler(32, seed=1312))
        >>> missing, unexpected = keyed.load_state_dict(create_model("vgg16").state_dict())
    """
    plain = check_name(name).removesuffix(KEYED_SUFFIX)
    if is_keyed(name) and scrambler is None:
        raise ValueError(f"{name} needs the scrambler of its images")
    if not is_keyed(name) and scrambler is not None:
        keyed = "" if name in _ADAPTED else f"; {name + KEYED_SUFFIX} does"
        raise ValueError(f"{name} takes no scrambler{keyed}")
    if name == "vgg16" + KEYED_SUFFIX:
        return VGG16Deformable(scrambler, num_classes, backend)
    own = _PLAIN | _ADAPTED
    if plain in own:
        net = own[plain](num_classes=num_classes)
    else:
        plain = plain.removeprefix(TORCHVISION_PREFIX)
        options = _TORCHVISION_OPTIONS.get(plain, {})
        net = torchvision.models.get_model(plain, num_classes=num_classes, **options)
        if plain in _SEGMENTATION:
            net.register_forward_hook(_logit_map)
    if not is_keyed(name):
        return net
    return key_network(net, scrambler, backend=backend, scramble_output=scramble_output)


def _logit_map(net: nn.Module, args: tuple, output: dict[str, Tensor]) -> Tensor:
    """Of what a segmentation network of torchvision returns, the logits ``(N, num_classes, H, W)``.

    A forward hook, which leaves the names of the weights as they are.
    """
    return output["out"]
