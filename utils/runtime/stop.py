"""SIGINT and SIGTERM during training: finish the step, save, leave with the usual exit status."""

import signal
import sys
from pathlib import Path
from types import FrameType

from utils.runtime import distributed


class StopSignal:
    """While entered, SIGINT and SIGTERM are noted instead of ending the process.

    A second SIGINT ends it at once. One that is not entered receives nothing.
    """

    def __init__(self) -> None:
        self._received = 0

    def __enter__(self) -> "StopSignal":
        self._before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == self._received == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = number

    def received(self) -> int:
        """The signal that any process of the group has received, or 0; all get the same answer."""
        return distributed.all_reduce_max(self._received)

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def leave(number: int, saved: Path | None) -> None:
    """End the process as a signal would have: with status 130 for SIGINT, 143 for SIGTERM.

    Args:
        number: the signal.
        saved: the checkpoint that was written, or None; the main process says so.
    """
    if distributed.is_main_process():
        kept = f"saved {saved}" if saved else "nothing is saved, for want of -save_weights"
        print(f"stopped: {kept}", flush=True)
    sys.exit(128 + number)
