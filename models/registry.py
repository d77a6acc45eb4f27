"""The networks, by name. ``create_model`` builds any of them; the command line accepts these names.

Every plain network ``NAME`` has a keyed twin ``NAME_permuted`` with the same parameters: for VGG16
the network that is written out in ``models.vgg_deformable``, for all others what ``key_network``
makes of them. The paper's are ``vgg16_permuted`` and ``preresnet110_permuted``. Only networks
behind an adaptation network have none: they learn to undo a cipher without its key. Names of
networks from elsewhere are those of ``models.sources``.
"""

from functools import partial

from torch import nn

from models import sources
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


def names() -> tuple[str, ...]:
    """The project's own networks, plain and keyed."""
    return *(name + suffix for name in _PLAIN for suffix in ("", KEYED_SUFFIX)), *_ADAPTED


def is_keyed(name: str) -> bool:
    """Whether ``name`` is the keyed twin of a network."""
    return name.endswith(KEYED_SUFFIX)


def check_name(name: str) -> str:
    """``name``, or ValueError with the valid ones if there is no such network.

    A file of one's own that it names is run.
    """
    plain = name.removesuffix(KEYED_SUFFIX)
    if name in _ADAPTED or plain in _PLAIN or sources.find(plain) is not None:
        return name
    if plain in _ADAPTED:
        raise ValueError(f"unknown network {name!r}; {plain} has no keyed twin")
    known = ", ".join((*_PLAIN, *_ADAPTED))
    raise ValueError(
        f"unknown network {name!r}; expected {sources.KINDS}, or one of {known}; "
        f"{KEYED_SUFFIX} appended: its keyed twin"
    )


def create_model(
    name: str,
    num_classes: int = 10,
    scrambler: ImageScrambler | None = None,
    backend: str = "auto",
    scramble_output: bool = False,
    image_size: tuple[int, int] | None = None,
) -> nn.Module:
    """Build a network by name, with random weights.

    Args:
        name: one of ``names()``, or of ``models.sources``, plain or keyed.
        num_classes: length of the logits, or channels of a map of logits.
        scrambler: the key of the images; for keyed networks only, which need it.
        backend: ``auto``, ``deform`` (the paper's operator), ``gather`` or ``triton`` (CUDA only),
            for keyed layers.
        scramble_output: of a keyed network: return maps under ``scrambler.for_output``.
        image_size: ``(H, W)``, for networks from elsewhere that are made for images of one size;
            None for that of the scrambler, or else their default.

    Raises:
        ValueError: if the name is unknown, a keyed network gets no scrambler or a plain one does,
            VGG16 is to be keyed for images that it cannot take, or a network from elsewhere cannot
            be made.
        KeyingError: if a network cannot be keyed exactly.

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
        size = scrambler.image_size if scrambler is not None else image_size
        net = sources.make(plain, num_classes, size)
    if not is_keyed(name):
        return net
    return key_network(net, scrambler, backend=backend, scramble_output=scramble_output)
