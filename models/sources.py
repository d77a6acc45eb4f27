"""Networks from elsewhere, by name, with random weights.

    torchvision:NAME    any classifier or segmentation network of torchvision
    timm:NAME           any network of timm, where that is installed
    PATH.py:FACTORY     what ``FACTORY(num_classes=K)`` of a Python file returns; the file is run

Where a network is made for images of one size, torchvision and timm are told theirs.
"""

import importlib.util
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path, PurePath

import torchvision
from torch import Tensor, nn

KINDS = "torchvision:NAME, timm:NAME, or PATH.py:FACTORY"
_SEGMENTATION = frozenset(torchvision.models.list_models(module=torchvision.models.segmentation))
# The auxiliary classifiers of these run in training only, and return tuples there.
_TORCHVISION_OPTIONS = {
    **{name: {"weights_backbone": None} for name in _SEGMENTATION},
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}

ImageSize = tuple[int, int]
Factory = Callable[[int, ImageSize | None], nn.Module]


def find(name: str) -> Factory | None:
    """What makes a network from the length of its logits and ``(H, W)`` or None; None if ``name``
    is none of the kinds above.

    Raises:
        ValueError: if there is no such network there.
    """
    source, _, rest = name.rpartition(":")
    if source == "torchvision":
        return _of_torchvision(rest)
    if source == "timm":
        return _of_timm(rest)
    if source.endswith(".py"):
        return _of_file(source, rest)
    return None


def make(name: str, num_classes: int, image_size: ImageSize | None) -> nn.Module:
    """The network of a name that ``find`` knows.

    Raises:
        ValueError: if what makes it raises anything, or returns something else.
    """
    factory = find(name)
    try:
        net = factory(num_classes, image_size)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{name} raises {type(error).__name__}: {error}") from error
    if not isinstance(net, nn.Module):
        raise ValueError(f"{name} returns a {type(net).__name__}; expected an nn.Module")
    return net


def public_name(name: str) -> str:
    """A name as records and folders show it: a file's without the folder that it lies in.

    Example:
        >>> public_name("nets/small.py:make"), public_name("torchvision:resnet18")
        ('small.py:make', 'torchvision:resnet18')
    """
    return PurePath(name).name


def _of_torchvision(name: str) -> Factory:
    if name not in (*torchvision.models.list_models(module=torchvision.models), *_SEGMENTATION):
        raise ValueError(f"torchvision has no network {name!r}; expected one such as resnet18")

    def factory(num_classes: int, image_size: ImageSize | None) -> nn.Module:
        options = dict(_TORCHVISION_OPTIONS.get(name, {}))
        if name.startswith("vit_") and image_size is not None:
            options["image_size"] = max(image_size)
        net = torchvision.models.get_model(name, num_classes=num_classes, **options)
        if name in _SEGMENTATION:
            net.register_forward_hook(_logit_map)
        return net

    return factory


def _logit_map(net: nn.Module, args: tuple, output: dict[str, Tensor]) -> Tensor:
    """Of what a segmentation network of torchvision returns, the logits ``(N, num_classes, H, W)``.

    A forward hook, which leaves the names of the weights as they are.
    """
    return output["out"]


def _of_timm(name: str) -> Factory:
    try:
        import timm
    except ImportError as error:
        raise ValueError(f"timm:{name} needs a package: pip install timm") from error
    if not timm.is_model(name):
        raise ValueError(f"timm {timm.__version__} has no network {name!r}")

    def factory(num_classes: int, image_size: ImageSize | None) -> nn.Module:
        config = timm.get_pretrained_cfg(name)
        fixed = config is not None and config.fixed_input_size
        options = {"img_size": image_size} if fixed and image_size is not None else {}
        return timm.create_model(name, pretrained=False, num_classes=num_classes, **options)

    return factory


def _of_file(path: str, name: str) -> Factory:
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file")
    factory = vars(_run(Path(path).resolve())).get(name)
    if not callable(factory):
        raise ValueError(f"{path} has no function {name!r}")
    return lambda num_classes, image_size: factory(num_classes=num_classes)


@cache
def _run(path: Path) -> object:
    """Run a Python file, once, as a module that finds those beside it, after the project's own."""
    name = "own_" + re.sub(r"\W", "_", str(path))
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # as dataclasses and pickle expect
    sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ValueError(f"{path.name}: raises {type(error).__name__}: {error}") from error
    return module
