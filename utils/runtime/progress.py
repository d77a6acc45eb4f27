"""Progress over many images: a bar on a terminal, elsewhere a line now and then, on stderr."""

import sys
import time

from tqdm import tqdm

FIRST, EVERY = 3.0, 15.0  # seconds until the first line, and between lines


class ProgressBar:
    """Counts images and says how long the rest will take.

    Args:
        what: what is going on, in a word or two.
        total: images in all.
        done: how many of them are done already.
        later: images that come after these, for the estimate of the time left.
        quiet: show nothing.
    """

    def __init__(
        self, what: str, total: int, done: int = 0, later: int = 0, quiet: bool = False
    ) -> None:
        self.note = ""  # shown beside the figures
        self._what, self._total, self._later, self._quiet = what, total, later, quiet
        self._done = self._before = done
        self._started = time.monotonic()
        self._due = self._started + FIRST
        hidden = True if quiet else None  # None: on a terminal only
        self._bar = tqdm(
            desc=what, total=total, initial=done, unit="img", unit_scale=True, disable=hidden
        )

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def update(self, count: int) -> None:
        """``count`` more images are done."""
        self._done += count
        if self._quiet:
            return
        self._bar.update(count)
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + EVERY
        done, seconds = self._done - self._before, now - self._started
        left = f"{duration((self._total - self._done + self._later) * seconds / done)} left"
        note = ", ".join(part for part in (left, self.note) if part)
        if not self._bar.disable:
            self._bar.set_postfix_str(note)
        elif self._done < self._total:
            figures = f"{self._done}/{self._total} images, {pace(done, seconds)}"
            print(f"{self._what}: {figures}, {note}", file=sys.stderr, flush=True)


def pace(images: int, seconds: float) -> str:
    """How fast it goes: images a second, or seconds an image where that is more than one."""
    if images < seconds:
        return f"{seconds / images:.1f} s/image"
    rate = images / seconds
    return f"{rate:.{0 if rate >= 10 else 1}f} images/s"


def duration(seconds: float) -> str:
    """Seconds, or minutes where there are many."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
