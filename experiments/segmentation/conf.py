"""Makes the repository importable from any working folder; see ``experiments/conf.py``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.conf import CHECKPOINT_DIR, LOG_DIR, ROOT  # noqa: F401
