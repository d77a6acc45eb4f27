"""What all scripts share before they import anything else of the project.

A script imports the ``conf`` of its own folder, which puts the repository on the path and reaches
this one: folders of results, and one helpful line where torch and torchvision do not match.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

try:
    import torchvision  # noqa: F401
except (ImportError, RuntimeError) as error:
    print(
        f"error: torch and torchvision cannot be used together ({str(error).splitlines()[0]}); "
        "install a matching pair: pip install -r requirements.txt into a fresh environment",
        file=sys.stderr,
    )
    sys.exit(2)

CHECKPOINT_DIR = ROOT / "checkpoints"
LOG_DIR = ROOT / "runs"
