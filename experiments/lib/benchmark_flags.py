"""What the benchmarks share: their flags, what must happen before anything is timed, results."""

import os
from argparse import ArgumentTypeError
from pathlib import Path

import torch

from utils import cli
from utils.cli import flags
from utils.io.atomic import write_text
from utils.io.run_record import environment, public_command, write_json
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


def write(out_dir: Path, name: str, record: dict, table: str | None = None) -> None:
    """Write ``name.json``, with command and environment, and a Markdown table as ``name.md``."""
    out_dir.mkdir(parents=True, exist_ok=True)
    origin = {"command": public_command(), "environment": environment()}
    write_json(out_dir / f"{name}.json", origin | record)
    if table is not None:
        write_text(out_dir / f"{name}.md", table)
