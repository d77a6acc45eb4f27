"""Files: checkpoints, records of runs, pictures; every one written whole or not at all."""
