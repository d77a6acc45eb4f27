"""What a script in this folder must do before it imports anything else of the project."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import experiments.classification.conf  # noqa: E402, F401  (one helpful line if torch is broken)
