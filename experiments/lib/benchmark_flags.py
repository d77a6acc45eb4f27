"""The flags that the benchmarks share, and what must happen before anything is timed."""

import os
from argparse import ArgumentTypeError
from pathlib import Path

import torch

from utils import cli
from utils.cli import flags
from utils.runtime.allocator import keep_freed_memory
from utils.runtime.device import select_device


def add(parser: cli.Parser, files: dict[str, str]) -> None:
    """Add ``-rounds``, ``-gpu``, ``-threads`` and a flag for each file of results.

    Args:
        files: name of the flag, and what the file holds.
    """
    parser.add_argument("-rounds", type=cli.positive_int, default=11, help="rounds that count")
    parser.add_argument(
        "-threads", type=threads, default=None, help="CPU threads; default: PyTorch's choice"
    )
    flags.add_device(parser)
    for flag, what in files.items():
        parser.add_argument(
            f"-{flag}", type=Path, default=None, help=f"file for the {what}; default: nowhere"
        )


def threads(text: str) -> int:
    """A number of threads that this machine has cores for."""
    count, cores = cli.positive_int(text), os.cpu_count() or 1
    if count > cores:
        raise ArgumentTypeError(f"expected a whole number in 1..{cores}, got {text!r}")
    return count


def set_up(args, files: dict[str, str]) -> torch.device:
    """Check device and files, set the threads and the allocator; the device to time on.

    Raises:
        UserError: if there is no such device, or a file could not be written.
    """
    device = select_device(args.gpu)
    for flag in files:
        flags.writable_file(getattr(args, flag), f"-{flag}")
    keep_freed_memory()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    return device
