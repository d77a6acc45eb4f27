"""Processes that train together, as ``torchrun`` starts them; a process alone is a team of one.

Every function here is called by all processes of the team, in the same order. Small values travel
over gloo on the CPU, also where the gradients travel over NCCL, so that no step waits for a GPU.
"""

import os
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from utils.runtime.device import select_device

PATIENCE = timedelta(minutes=30)  # for one process to read data or write a checkpoint


def device_of(gpu: bool) -> torch.device:
    """This process's device: the CPU, or under ``-gpu`` the GPU of its place on its machine.

    Raises:
        UserError: as ``select_device``.
    """
    device = select_device(gpu)
    if gpu and started_by_torchrun():
        device = torch.device("cuda", local_rank())
        torch.cuda.set_device(device)
    return device


def started_by_torchrun() -> bool:
    """Whether this process is one of a team."""
    return "TORCHELASTIC_RUN_ID" in os.environ or {"RANK", "MASTER_ADDR"} <= os.environ.keys()


@contextmanager
def team(device: torch.device):
    """While entered, the processes that ``torchrun`` started can talk to each other."""
    if not started_by_torchrun():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=PATIENCE)
    yield
    distributed.destroy_process_group()  # not after an error: the others may never answer


def rank() -> int:
    """This process's number in the team; 0 writes the files."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def local_rank() -> int:
    """This process's number on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_size() -> int:
    """How many processes of the team share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def size() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def parallel(net: nn.Module, device: torch.device, whole: bool = True) -> nn.Module:
    """The network whose gradients are the team's mean; ``net`` itself for a team of one.

    Not ``whole``: a step may leave parameters out, the same ones in every process.
    Buffers are left alone: only evaluation reads running statistics, after ``share_buffers``.
    """
    if size() == 1:
        return net
    devices = [device] if device.type == "cuda" else None
    with warnings.catch_warnings():
        # the argument has a new name in the newest torch, which older ones do not know
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(
            net, device_ids=devices, broadcast_buffers=False, find_unused_parameters=not whole
        )


def share(make: Callable[[], object]) -> object:
    """What ``make`` returns in process 0, in every process; the others wait for it."""
    if size() == 1:
        return make()
    values = [make() if rank() == 0 else None]
    distributed.broadcast_object_list(values, src=0, device=torch.device("cpu"))
    return values[0]


def one_first(make: Callable[[], object]) -> object:
    """What ``make`` returns here; one process of each machine goes first.

    For work that leaves files behind which the others then find, such as a download.
    """
    if size() == 1:
        return make()
    if local_rank() == 0:
        value = make()
    distributed.barrier()
    if local_rank() != 0:
        value = make()
    return value


def total(*numbers: float) -> list[float]:
    """The sum over the team of each of ``numbers``, in float64."""
    if size() == 1:
        return list(numbers)
    sums = torch.tensor(numbers, dtype=torch.float64)
    distributed.all_reduce(sums)
    return sums.tolist()


def highest(number: int) -> int:
    """The largest ``number`` of the team."""
    if size() == 1:
        return number
    value = torch.tensor(number)
    distributed.all_reduce(value, op=distributed.ReduceOp.MAX)
    return int(value)


def share_buffers(net: nn.Module) -> None:
    """Give every process the running statistics of process 0."""
    if size() == 1:
        return
    saved = net.state_dict()
    for name, buffer in net.named_buffers():
        if name in saved:  # keys and index tables are the same everywhere
            distributed.broadcast(buffer, src=0)
