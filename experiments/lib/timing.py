"""Fair timings side by side: interleaved rounds, medians and spread, peak memory.

Candidates take turns, so that whatever else the machine does falls on all of them alike. A ratio is
the median over rounds of (candidate / base in the same round), which a slow minute cannot shift.
``torch.utils.benchmark`` times one statement after the other, so that there it would.
"""

import ctypes
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

MAX_SLOW_ROUNDS = 3


@dataclass(frozen=True)
class Timing:
    """Seconds of one candidate: ``median`` with quartiles, and ``ratio`` to its base."""

    median: float
    low: float
    high: float
    ratio: float
    rounds: int


def spread(row: dict, digits: int) -> str:
    """Median and quartiles in milliseconds, from the fields of a ``Timing``."""
    low, median, high = (f"{1e3 * row[k]:.{digits}f}" for k in ("low", "median", "high"))
    return f"{median} ({low}-{high})"


def synchronise(device: torch.device) -> None:
    """Wait for the device: a GPU's kernels run on after the call that starts them."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_side_by_side(
    candidates: dict[str, Callable[[], object]],
    bases: dict[str, str],
    rounds: int,
    device: torch.device,
    slow: tuple[str, ...] = (),
) -> dict[str, Timing]:
    """Time candidates in interleaved rounds, after one warm-up round that does not count.

    Args:
        candidates: what to time, by name.
        bases: the name that each candidate's ratio refers to.
        rounds: rounds that count.
        device: where the candidates run.
        slow: candidates that run in the first three rounds only.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, call in candidates.items():
            if name in slow and number > MAX_SLOW_ROUNDS:
                continue
            synchronise(device)
            start = time.perf_counter()
            call()
            synchronise(device)
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: _summary(s, seconds[bases[name]]) for name, s in seconds.items()}


def _summary(own: list[float], base: list[float]) -> Timing:
    low, _, high = statistics.quantiles(own, n=4) if len(own) > 1 else own * 3
    ratios = [a / b for a, b in zip(own, base, strict=False)]
    return Timing(statistics.median(own), low, high, statistics.median(ratios), len(own))


def peak_memory(call: Callable[[], object], device: torch.device) -> int | None:
    """Bytes that ``call`` needs at its peak beyond what was held before it.

    On a GPU by the allocator's books; on Linux by the process's resident memory, after giving free
    memory back to the kernel; None elsewhere.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if not sys.platform.startswith("linux"):
        return None
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # starts VmHWM again; proc(5)
    except OSError:
        return None
    before = _resident("VmRSS")
    call()
    return max(0, _resident("VmHWM") - before)


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
