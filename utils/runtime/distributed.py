"""Processes that train together, as ``torchrun`` starts them; a process alone is a group of one.

Every function here is called by all processes of the group, in the same order. Small values travel
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
    """Whether this process belongs to a group that ``torchrun`` started."""
    return "TORCHELASTIC_RUN_ID" in os.environ or {"RANK", "MASTER_ADDR"} <= os.environ.keys()


@contextmanager
def process_group(device: torch.device):
    """While entered, the processes that ``torchrun`` started can talk to each other."""
    if not started_by_torchrun():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=PATIENCE)
    yield
    distributed.destroy_process_group()  # not after an error: the others may never answer


def rank() -> int:
    """This process's number in the group."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_main_process() -> bool:
    """Whether this process, of rank 0, prints and writes the files."""
    return rank() == 0


def local_rank() -> int:
    """This process's number on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_world_size() -> int:
    """How many processes of the group run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def world_size() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def parallel(net: nn.Module, device: torch.device, whole: bool = True) -> nn.Module:
    """The network whose gradients are averaged over the group; ``net`` itself for a group of one.

    Not ``whole``: a step may leave parameters out, the same ones in every process.
    Buffers are left alone: only evaluation reads running statistics, after ``broadcast_buffers``.
    """
    if world_size() == 1:
        return net
    devices = [device] if device.type == "cuda" else None
    with warnings.catch_warnings():
        # the argument has a new name in the newest torch, which older ones do not know
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(
            net, device_ids=devices, broadcast_buffers=False, find_unused_parameters=not whole
        )


def broadcast(make: Callable[[], object]) -> object:
    """What ``make`` returns in the main process, in every process; the others wait for it."""
    if world_size() == 1:
        return make()
    values = [make() if is_main_process() else None]
    distributed.broadcast_object_list(values, src=0, device=torch.device("cpu"))
    return values[0]


def local_main_process_first(make: Callable[[], object]) -> object:
    """What ``make`` returns here; the main process of each machine goes first.

    For work that leaves files behind which the others then find, such as a download.
    """
    if world_size() == 1:
        return make()
    if local_rank() == 0:
        value = make()
    distributed.barrier()
    if local_rank() != 0:
        value = make()
    return value


def all_reduce(*numbers: float) -> list[float]:
    """The sum over the group of each of ``numbers``, in float64."""
    if world_size() == 1:
        return list(numbers)
    sums = torch.tensor(numbers, dtype=torch.float64)
    distributed.all_reduce(sums)
    return sums.tolist()


def all_reduce_max(number: int) -> int:
    """The largest ``number`` of the group."""
    if world_size() == 1:
        return number
    value = torch.tensor(number)
    distributed.all_reduce(value, op=distributed.ReduceOp.MAX)
    return int(value)


def broadcast_buffers(net: nn.Module) -> None:
    """Give every process the running statistics of the main process."""
    if world_size() == 1:
        return
    saved = net.state_dict()
    for name, buffer in net.named_buffers():
        if name in saved:  # keys and index tables are the same everywhere
            distributed.broadcast(buffer, src=0)
