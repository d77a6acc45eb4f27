"""Weights as people have them: whatever a file of PyTorch holds, under the names of a network.

Training programs wrap networks (``DataParallel``, ``torch.compile``, Lightning, ``AveragedModel``)
and put their weights into containers of their own. What is undone here is what can be undone
without a guess: a change of names counts only if every name then is one of the network's.
"""

from collections.abc import Iterator

import torch

CONTAINERS = ("state_dict", "model_state_dict", "model", "net")
AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
WRAPPERS = ("module", "_orig_mod")  # of DataParallel and of torch.compile
PROFILER = ("total_ops", "total_params")  # what a profiler leaves beside a layer's weights
COUNTER = "num_batches_tracked"  # of batch-norm; not in files of before 2018
AVERAGE_COUNTER = "n_averaged"  # of torch's AveragedModel


def unpack(held: dict, depth: int = 4) -> tuple[dict, list[str]]:
    """The dictionary of weights among what a file holds, and remarks on what was passed over.

    Containers in one another are opened ``depth`` times: a damaged file can hold itself.
    """
    inner = [name for name in CONTAINERS + AVERAGES if isinstance(held.get(name), dict)]
    if not inner or not depth:
        return held, []
    weights, remarks = unpack(held[inner[0]], depth - 1)
    if inner[0] in CONTAINERS and inner[-1] in AVERAGES:
        remarks.append(f"holds {inner[0]!r} and their average {inner[-1]!r}; the former are taken")
    return weights, remarks


def fit(weights: dict, expected: dict[str, torch.Tensor]) -> tuple[dict, list[str]]:
    """Weights under the names of a network.

    Args:
        weights: names to tensors, as ``unpack`` returns them.
        expected: the network's own ``state_dict``; counters of batch-norm that ``weights`` lack
            are taken from it.

    Returns:
        The weights, and remarks on what was passed over.

    Raises:
        ValueError: saying what differs, if no change of names makes them fit.
    """
    if not expected.keys() - weights.keys() and not weights.keys() - expected.keys():
        return weights, []
    left_out = {n for n in map(str, weights) if _is_beside(n) and n not in expected}
    kept = {str(n): tensor for n, tensor in weights.items() if str(n) not in left_out}
    counters = {n: tensor for n, tensor in expected.items() if n.rpartition(".")[2] == COUNTER}
    for names in _spellings(list(kept)):
        renamed = dict(zip(names, kept.values(), strict=True))
        whole = counters | renamed
        if len(renamed) == len(kept) and whole.keys() == expected.keys():
            counted = len(left_out - {AVERAGE_COUNTER})
            remarks = [f"{counted} counters of a profiler are ignored"] if counted else []
            return {name: whole[name] for name in expected}, remarks
    raise ValueError(_difference(list(kept), list(expected), set(counters)))


def _is_beside(name: str) -> bool:
    return name.rpartition(".")[2] in PROFILER or name == AVERAGE_COUNTER


def _spellings(names: list[str]) -> Iterator[list[str]]:
    """The names as they are, then without wrappers, each with ever fewer of the shared prefixes."""
    bare = [".".join(p for p in name.split(".") if p not in WRAPPERS) for name in names]
    yield from _without_prefixes(names)
    yield from _without_prefixes(bare)


def _without_prefixes(names: list[str]) -> Iterator[list[str]]:
    """The names, and again without the component that all begin with, while there is one."""
    yield names
    split = [name.partition(".") for name in names]
    if len({first for first, _, _ in split}) == 1 and all(rest for _, _, rest in split):
        yield from _without_prefixes([rest for _, _, rest in split])


def _difference(names: list[str], expected: list[str], optional: set[str]) -> str:
    missing = [name for name in expected if name not in names and name not in optional]
    unknown = [name for name in names if name not in expected]
    hint = "weights of another architecture?"
    if len(missing) < len(expected) - len(optional):  # some names are the network's
        if missing:
            return f"no tensor {missing[0]!r}{_others(missing)}; {hint}"
        return f"unexpected tensor {unknown[0]!r}{_others(unknown)}; {hint}"
    *_, shortest = _without_prefixes(names)
    shared = names[0].removesuffix(shortest[0]) if names else ""
    if not names:
        what = f"no tensor {missing[0]!r}, nor any other"
    elif shared:
        what = f"the names of the file begin with {shared!r}"
    else:
        what = f"the names of the file are {_some(names)}"
    return f"{what}; the network has {_some(missing)}; {hint}"


def _others(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:2])) + (", ..." if len(names) > 2 else "")
