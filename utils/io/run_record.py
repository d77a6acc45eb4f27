"""The record of a run: ``run.json`` says what was run, where, with what, and how it went.

Tables are generated from these files. A key is recorded by its fingerprint only.
"""

import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch
import torchvision

from utils.io.atomic import write_text
from utils.runtime import distributed

ROOT = Path(__file__).resolve().parents[2]
SECRET_FLAGS = ("-seed", "-key")


def public_command(argv: list[str] | None = None) -> str:
    """The command line, quoted for a shell, without the values of ``-seed`` and ``-key``.

    A path is shown by its last part: where a run's files lay on one machine is of no use elsewhere.
    """
    words = list(sys.argv if argv is None else argv)
    shown = [Path(words[0]).name]
    for word, before in zip(words[1:], words, strict=False):
        flag, assigned, value = word.partition("=")
        if before in SECRET_FLAGS:
            shown.append("***")
        elif assigned and flag.startswith("-"):
            shown.append(f"{flag}={'***' if flag in SECRET_FLAGS else _last_part(value)}")
        else:
            shown.append(_last_part(word))
    return " ".join(word if "***" in word else shlex.quote(word) for word in shown)


def _last_part(word: str) -> str:
    return Path(word).name if os.sep in word else word


def environment() -> dict:
    """Versions, hardware and the commit of the code, for the record of a run."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # a TorchVersion is not a plain value
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),  # of the instructions used
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "processes": distributed.world_size(),
        "commit": _commit(),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def write_json(path: Path, value: object) -> None:
    """Write a JSON file atomically.

    Raises:
        UserError: if it cannot be written.
    """
    write_text(path, json.dumps(value, indent=2) + "\n")


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def _commit() -> str | None:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
