"""What a script in this folder must do before it imports anything else of the project."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from experiments.classification.conf import CHECKPOINT_DIR  # noqa: E402, F401
