"""Checkpoints: one documented dictionary, written atomically, loaded without running any code.

A checkpoint is a dictionary of tensors and plain values, so that ``torch.load(weights_only=True)``
reads it. Fields of format 2:

    format        2
    net           name of the network, compared and never run; a file without its folder
    data          name, classes, mean, std and image_size of the data set it was trained on
    key           fingerprint of the key that scrambled the training images, or None; never the key
    recipe        the training recipe, field by field
    train_seed    seed of initial weights, order and augmentation
    model         state_dict of the network; the plain and the keyed network have the same
    averaged      state_dict of the moving average of the weights, or None
    optimizer     state of the optimizer
    progress      where training stands: finished epochs, and steps and running sums of the current
    history       metrics of every finished epoch
    record        the record of the run, as in run.json
    sha256        digest of everything above
"""

import hashlib
import pickle
import re
import sys
import warnings
import zipfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.serialization import safe_globals

from models import public_name
from utils.io import weights
from utils.io.atomic import sync_folder, write_atomically
from utils.runtime.errors import UserError

FORMAT = 2
READABLE = (1, 2)  # 1 has the same fields; its runs drew their random numbers otherwise
FIELDS = ("net", "data", "key", "recipe", "train_seed", "model", "averaged", "optimizer")
FIELDS += ("progress", "history", "record")
# Training programs keep these beside their weights, a best accuracy or the command line; none of
# them runs code when it is read. Files name numpy's function as the version that wrote them did.
_SCALAR = np.float64(0).__reduce__()[0]
BESIDE_TENSORS = [
    Namespace,
    np.dtype,
    *{type(np.dtype(kind)) for kind in np.typecodes["AllInteger"] + "?efdg"},
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
]
LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"
KEY = "image.key"  # of a run that drew its own; beside its checkpoints, never in them


def digest(value: object) -> str:
    """SHA-256 over a tree of dictionaries, sequences, tensors and plain values, in hex."""
    sha = hashlib.sha256()

    def feed(item: object) -> None:
        if isinstance(item, torch.Tensor):
            sha.update(f"tensor {item.dtype} {tuple(item.shape)}\0".encode())
            sha.update(item.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        elif isinstance(item, dict):
            sha.update(f"dict {len(item)}\0".encode())
            for key, entry in item.items():
                sha.update(f"{key!r}\0".encode())
                feed(entry)
        elif isinstance(item, list | tuple):
            sha.update(f"list {len(item)}\0".encode())
            for entry in item:
                feed(entry)
        else:
            sha.update(f"{item!r}\0".encode())

    feed(value)
    return sha.hexdigest()


def save(path: Path, state: dict) -> None:
    """Write a checkpoint atomically: the file is the old one or the new one, never half of one.

    Args:
        path: where to; its folder must exist.
        state: the fields above without ``format`` and ``sha256``, which are added.

    Raises:
        UserError: if it cannot be written, a full disk included; ``path`` is then as it was.
    """
    state = {"format": FORMAT, **state}
    state["sha256"] = digest(state)
    write_atomically(path, lambda file: torch.save(state, file))


def save_last(folder: Path, state: dict) -> None:
    """Write ``last.pt`` and keep the one before it as ``previous.pt``.

    Raises:
        UserError: as ``save``; what was there before is still there.
    """
    new = folder / "next.pt"
    save(new, state)
    if (folder / LAST).exists():
        (folder / LAST).replace(folder / PREVIOUS)
    new.replace(folder / LAST)
    sync_folder(folder)


def read(path: Path) -> dict:
    """Load a checkpoint of ours, verified, or a bare ``state_dict``; runs no code.

    Raises:
        UserError: if it is missing, damaged, of another format, or holds anything but data.
    """
    try:
        with warnings.catch_warnings(), safe_globals(BESIDE_TENSORS):
            warnings.simplefilter("ignore")  # torch warns of what damage makes it read
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file{_instead(path)}") from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: is a folder; expected a file of weights") from error
    except pickle.UnpicklingError as error:
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        held = f"a {foreign[1]}" if foreign else "more than tensors and plain values, or is damaged"
        raise UserError(f"{path}: refused, it holds {held}{_instead(path)}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # a damaged file can raise anything
        if "pip install safetensors" in str(error):
            raise UserError(f"{path}: needs a package: pip install safetensors") from error
        raise UserError(f"{path}: damaged or not a checkpoint{_instead(path)}") from error
    if not isinstance(state, dict):
        raise UserError(f"{path}: holds a {type(state).__name__}; expected a dictionary of tensors")
    if "format" in state:
        _verify(path, state)
    else:
        _check_bits(path)
    return state


def _check_bits(path: Path) -> None:
    """Compare the parts of a zip file of bare weights with their checksums; torch does not."""
    if not zipfile.is_zipfile(path):  # torch's format of old
        return
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
    except Exception as error:  # a damaged zip file can raise anything
        raise UserError(f"{path}: damaged or not a checkpoint") from error
    if damaged is not None:
        raise UserError(f"{path}: damaged, the checksum of {damaged} differs")


def _verify(path: Path, state: dict) -> None:
    if state["format"] not in READABLE:
        expected = " or ".join(map(str, READABLE))
        raise UserError(f"{path}: checkpoint format {state['format']!r}; expected {expected}")
    unsigned = {name: value for name, value in state.items() if name != "sha256"}
    if state.get("sha256") != digest(unsigned):
        raise UserError(f"{path}: damaged, its content does not match its hash{_instead(path)}")
    missing = [name for name in FIELDS if name not in state]
    if missing:
        raise UserError(f"{path}: not a checkpoint of a run, it has no {missing[0]!r}")


def _instead(path: Path) -> str:
    other = path.with_name(PREVIOUS)
    return f"; use {other} instead" if path.name != PREVIOUS and other.exists() else ""


def weights_of(state: dict) -> dict[str, torch.Tensor]:
    """The weights that a checkpoint of ours reports: the averaged ones where it has them."""
    return state["averaged"] or state["model"]


def load_weights(net: nn.Module, state: dict, source: Path) -> None:
    """Load what ``read`` returned into a network, strictly; remarks go to stderr, in a line each.

    Raises:
        UserError: naming what does not fit, or the tensor that holds values which are not finite.
    """
    expected = net.state_dict()
    held, remarks = (weights_of(state), []) if "format" in state else weights.unpack(state)
    # a shape says more of a file than the names that it lacks
    _check_tensors({name: held[name] for name in expected if name in held}, expected, source)
    try:
        fitting, more = weights.fit(held, expected)
    except ValueError as error:
        raise UserError(f"{source}: {error}") from error
    _check_tensors(fitting, expected, source)
    for name, tensor in fitting.items():
        if not tensor.isfinite().all():
            raise UserError(f"{source}: {name!r} holds NaN or infinity; weights of a failed run?")
    net.load_state_dict(fitting, strict=True)
    for remark in remarks + more:
        print(f"{source}: {remark}", file=sys.stderr)


def _check_tensors(found: dict, expected: dict[str, torch.Tensor], source: Path) -> None:
    for name, tensor in found.items():
        if not isinstance(tensor, torch.Tensor):
            raise UserError(f"{source}: {name!r} is not a tensor")
        own = expected[name].dtype
        plain = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta
        if not plain or (tensor.is_complex(), tensor.is_floating_point()) != (
            own.is_complex,
            own.is_floating_point,
        ):
            kind = "meta" if tensor.is_meta else f"{tensor.layout} {tensor.dtype}"
            raise UserError(f"{source}: {name!r} is {kind}; expected dense values such as {own}")
        if tensor.shape != expected[name].shape:
            raise UserError(
                f"{source}: {name!r} has shape {tuple(tensor.shape)}; "
                f"the network's is {tuple(expected[name].shape)}"
            )


def folder_name(name: str) -> str:
    """The name of a network as that of a folder, on every operating system.

    Example:
        >>> folder_name("torchvision:resnet18"), folder_name("../nets/small.py:make")
        ('torchvision-resnet18', 'small.py-make')
    """
    return public_name(name).replace(":", "-")


def newest(root: Path, *nets: str, names: tuple[str, ...] = (LAST, PREVIOUS)) -> Path:
    """A checkpoint of the newest run below ``root`` of any of ``nets``.

    Args:
        root: the folder of all runs' weights.
        nets: names of networks.
        names: the file to look for in a run, and what to take where it is missing.

    Raises:
        UserError: if there is none.
    """
    runs = [run for net in nets for run in (root / folder_name(net)).glob("*/")]
    for run in sorted(runs, key=lambda run: run.name, reverse=True):
        for name in names:
            if (run / name).exists():
                return run / name
    raise UserError(f"{root}: no run of {nets[0]} with a checkpoint there")


def newest_weights(root: Path, *nets: str) -> Path:
    """The weights that the newest run reports: its ``best.pt`` if it selected one, else its last.

    Raises:
        UserError: as ``newest``, naming ``-weights``.
    """
    try:
        return newest(root, *nets, names=(BEST, LAST, PREVIOUS))
    except UserError as error:
        raise UserError(f"{error}; give one with -weights PATH") from error
