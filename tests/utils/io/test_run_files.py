"""What a run leaves behind, and how it says that it could not."""

import pytest
import torch

from tests.utils.full_disk import room_for
from utils.io.run_files import RunFiles
from utils.runtime.errors import UserError


def test_events_that_cannot_be_written_end_in_one_error(tmp_path, capfd):
    """As on a full disk, which TensorBoard notices in a thread of its own."""
    files = RunFiles(tmp_path / "run", tmp_path / "logs", keep=False)
    with (
        room_for(1),
        pytest.raises(UserError, match=r"-log_dir .*logs: cannot be written \(File too large"),
    ):
        for epoch in range(1, 4):
            files.log_pictures([torch.zeros(2, 3, 64, 64, dtype=torch.uint8)])
            metrics = {"epoch": epoch, "loss": 1.0, "accuracy": 0.5, "lr": 0.1, "seconds": 1.0}
            files.report(metrics, epochs=3, images=10)
    assert "Traceback" not in capfd.readouterr().err
