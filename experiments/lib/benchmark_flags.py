"""The flags that the benchmarks share, and what must happen before anything is timed."""

import os
from argparse import ArgumentTypeError
from pathlib import Path

import torch

from utils import cli
from utils.cli import flags
from utils.runtime.allocator import keep_freed_memory
from utils.runtime.device import select_device


def add(parser: cli.Parser, what: str) -> None:
    """Add ``-rounds``, ``-gpu``, ``-threads`` and ``-out_dir``, the folder for ``what``."""
    parser.add_argument("-rounds", type=cli.positive_int, default=11, help="rounds that count")
    parser.add_argument(
        "-threads", type=threads, default=None, help="CPU threads; default: PyTorch's choice"
    )
    flags.add_device(parser)
    parser.add_argument(
        "-out_dir", type=Path, default=None, help=f"folder for {what}; default: none are written"
    )


def threads(text: str) -> int:
    """A number of threads that this machine has cores for."""
    count, cores = cli.positive_int(text), os.cpu_count() or 1
    if count > cores:
        raise ArgumentTypeError(f"expected a whole number in 1..{cores}, got {text!r}")
    return count


def set_up(args) -> torch.device:
    """Check device and folder, set the threads and the allocator; the device to time on.

    Raises:
        UserError: if there is no such device, or the folder cannot be written to.
    """
    device = select_device(args.gpu)
    if args.out_dir is not None:
        flags.writable_folder(args.out_dir, "-out_dir")
    keep_freed_memory()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    return device
