"""Settings of the classification scripts, and what must happen before they import anything else.

Importing this module makes the repository importable from any working folder and turns a torch and
a torchvision that do not match into one helpful line.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

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
