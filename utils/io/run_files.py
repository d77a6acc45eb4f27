"""What a training run leaves behind: checkpoints, the record and TensorBoard logs.

Files of a run named RUN of a network NET: ``checkpoints/NET/RUN/`` holds ``last.pt``,
``previous.pt``, ``best.pt``, ``run.json``, and ``image.key`` if the run drew its own key;
``runs/NET/RUN/`` holds the TensorBoard events.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import make_grid

from operators import SecretKey
from utils.io import checkpoint
from utils.io.atomic import STRAY, sync_folder
from utils.io.run_record import write_json
from utils.runtime.errors import UserError
from utils.runtime.progress import duration, pace


class RunFiles:
    """Writes the files of one run; under ``torchrun`` only the main process has one that writes.

    Args:
        folder: of checkpoints and record.
        logs: of the TensorBoard events, or None to write none.
        keep: whether checkpoints and record are written.

    Raises:
        UserError: if the folder of the events cannot be written.
    """

    def __init__(self, folder: Path, logs: Path | None, keep: bool) -> None:
        self.folder, self.keep, self._logs, self._writer = folder, keep, logs, None
        if logs is not None:
            threading.excepthook = _leave_to_the_main_thread
            with self._logging():
                self._writer = SummaryWriter(logs)

    @contextmanager
    def _logging(self) -> Iterator[None]:
        """What TensorBoard's thread could not write it raises at the next call."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"-log_dir {self._logs}: cannot be written ({error.strerror})"
            ) from error

    def save_last(self, state: dict) -> Path | None:
        """Write ``last.pt``, keeping the one before; returns its path, or None if none is kept."""
        if not self.keep:
            return None
        checkpoint.save_last(self.folder, state)
        return self.folder / checkpoint.LAST

    def save_best(self, state: dict) -> None:
        """Write ``best.pt``."""
        if self.keep:
            checkpoint.save(self.folder / checkpoint.BEST, state)

    def write_key(self, key: SecretKey) -> None:
        """Write ``image.key`` of a new run, for its owner alone, and say so.

        Raises:
            UserError: if it cannot be written.
        """
        if not self.keep:
            return
        path = self.folder / checkpoint.KEY
        try:
            key.save(path)
            sync_folder(self.folder)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{path}: the key cannot be written ({reason})") from error
        print(f"key: {path}, secret; the weights are of use with it alone", flush=True)

    def write_record(self, record: dict) -> None:
        """Write ``run.json``."""
        if self.keep:
            write_json(self.folder / "run.json", record)

    def report(self, metrics: dict, epochs: int, images: int) -> None:
        """Log the metrics of an epoch over ``images`` images, and print them in one line."""
        if self._writer is None:
            return
        epoch = metrics["epoch"]
        with self._logging():
            for name, value in metrics.items():
                if name != "epoch":
                    self._writer.add_scalar(f"train/{name}", value, epoch)
            self._writer.flush()
        chosen = [
            f", {name.replace('_', ' ')} {value:.2%}"
            for name, value in metrics.items()
            if name.startswith(("validation_", "test_"))
        ]
        print(
            f"epoch {epoch}/{epochs}: loss {metrics['loss']:.4f}, "
            f"accuracy {metrics['accuracy']:.2%}{''.join(chosen)}, lr {metrics['lr']:.4g}, "
            f"{pace(images, metrics['seconds'])}, "
            f"{duration(metrics['seconds'] * (epochs - epoch))} left",
            flush=True,
        )

    def report_test(self, record: dict, score: str) -> None:
        """Log and print how the run ended, by the score of this name."""
        if self._writer is None:
            return
        value = record[f"test_{score}"]
        with self._logging():
            self._writer.add_scalar(f"test/{score}", value, len(record["epochs"]))
            self._writer.close()
        how = "; the epoch was chosen on these images" if record["select"] == "test" else ""
        print(f"Test {score}: {value:.2%} ({record['images']['test']} images{how})")
        if self.keep:
            print(f"weights: {self.folder / record['weights']}")

    def log_pictures(self, rows: list[torch.Tensor]) -> None:
        """One grid, a row for each batch of as many images, uint8 ``(N, 3, H, W)``."""
        if self._writer is not None:
            with self._logging():
                self._writer.add_image("images", make_grid(torch.cat(rows), nrow=len(rows[0])), 0)


def _leave_to_the_main_thread(failed: threading.ExceptHookArgs) -> None:
    """No traceback of a thread that could not write: its error is raised again at the next call."""
    if not issubclass(failed.exc_type, OSError):
        threading.__excepthook__(failed)


def new_folder(parent: Path, make: bool) -> Path:
    """Name the folder of a new run by the time, and make it if asked.

    Raises:
        UserError: if it cannot be made, so that this is found before training.
    """
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    if not make:
        return parent / stamp
    for attempt in range(100):
        folder = parent / (f"{stamp}-{attempt}" if attempt else stamp)
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError as error:
            if not parent.is_dir():
                raise UserError(f"-checkpoint_dir: {parent} is no folder") from error
        except OSError as error:
            raise UserError(
                f"-checkpoint_dir: {parent} cannot be written ({error.strerror})"
            ) from error
    raise UserError(f"-checkpoint_dir: {parent} cannot hold a new run folder")


def clear_strays(folder: Path) -> None:
    """Remove what a killed process left half-written in a run's folder."""
    for stray in folder.glob(f"*{STRAY}"):
        stray.unlink(missing_ok=True)
