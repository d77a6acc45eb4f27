"""What every script's command line shares: one parser, one way to fail, one set of value types.

Flags carry a single dash and underscores, as published. Whatever the user got wrong ends in one
line on stderr that names the value received and what is valid, and exit status 2.
"""

import argparse
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import torch

from utils.runtime.errors import UserError, in_words

MAX_SEED = 2**32 - 1
MAX_COUNT = 2**31 - 1
MAX_SIDE = 10_000


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=24)

    def _get_help_string(self, action: argparse.Action) -> str:
        # a default of None is explained by the help text itself, that of a switch is clear
        known = action.default is None or action.default is False
        return action.help if known else super()._get_help_string(action)

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return "PATH" if action.type is Path else "N"

    def add_usage(self, usage, actions, groups, prefix=None) -> None:
        # optional flags, dozens of them, are explained below it
        needed = [_needed(action) for action in actions if action.required]
        super().add_usage(" ".join(["%(prog)s", *needed, "[flags]"]), actions, groups, prefix)


def _needed(action: argparse.Action) -> str:
    if not action.option_strings:
        return "|".join(action.choices)
    return (
        f"{action.option_strings[0]} {action.metavar or ('PATH' if action.type is Path else 'N')}"
    )


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` without abbreviations whose errors are one line, with status 2."""

    def __init__(self, description: str) -> None:
        super().__init__(
            description=description, formatter_class=_HelpFormatter, allow_abbrev=False
        )

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {_one_line(message)} (see {self.prog} -h)\n")

    def _get_option_tuples(self, option_string: str) -> list:
        # allow_abbrev=False is about double dashes only: with one, "-see 1312" would pass for
        # "-seed 1312", and the key would enter the record of the run
        return []


def run(main: Callable[[], None]) -> NoReturn:
    """Run a script's ``main``; what the user can mend becomes one line on stderr and status 2.

    That is every ``UserError``, and whatever the operating system refused on the way: memory, too.
    """
    try:
        main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        _discard_output()  # its reader is gone; there is nobody to tell
        sys.exit(1)
    except UserError as error:
        _fail(error)
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        _fail(UserError("out of memory; smaller batches (-b), images or paddings take less"))
    except OSError as error:
        _discard_output()  # a full disk may be that of stdout
        _fail(error)
    sys.exit(0)


def _out_of_memory(error: Exception) -> bool:
    # on the CPU torch has no error of its own for it
    known = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, known) or "can't allocate memory" in str(error)


def _fail(error: Exception) -> NoReturn:
    print(f"error: {_one_line(in_words(error))}", file=sys.stderr)
    sys.exit(2)


def _discard_output() -> None:
    """Send what stdout still buffers nowhere, so that Python does not fail on it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _one_line(message: str, longest: int = 600) -> str:
    line = " ".join(message.split())
    return line if len(line) <= longest else f"{line[:longest]}..."


def seed(text: str) -> int:
    """A seed of the published key stream: a whole number in 0..2^32-1."""
    if not (text.isascii() and text.isdigit() and len(text) <= 10) or int(text) > MAX_SEED:
        raise argparse.ArgumentTypeError(f"expected a whole number in 0..{MAX_SEED}, got {text!r}")
    return int(text)


def seed_list(text: str) -> list[int]:
    """At least two different seeds, with commas between them."""
    seeds = [seed(part) for part in text.split(",")]
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"expected at least two different seeds, got {text!r}")
    return seeds


def positive_int(text: str) -> int:
    """A whole number in 1..2^31-1."""
    return _number(text, int, lambda v: 1 <= v <= MAX_COUNT, f"a whole number in 1..{MAX_COUNT}")


def count(text: str) -> int:
    """A whole number in 0..2^31-1."""
    return _number(text, int, lambda v: 0 <= v <= MAX_COUNT, f"a whole number in 0..{MAX_COUNT}")


def positive_float(text: str) -> float:
    """A finite number above 0."""
    return _number(text, float, lambda v: 0 < v < math.inf, "a number above 0")


def non_negative_float(text: str) -> float:
    """A finite number of at least 0."""
    return _number(text, float, lambda v: 0 <= v < math.inf, "a number of at least 0")


def fraction(text: str) -> float:
    """A number in [0, 1)."""
    return _number(text, float, lambda v: 0 <= v < 1, "a number in [0, 1)")


def jpeg_quality(text: str) -> int:
    """A quality of JPEG files, 1..100."""
    return _number(text, int, lambda v: 1 <= v <= 100, "a whole number in 1..100")


def side(text: str) -> int:
    """The side of a picture in pixels, 1..10000: pictures have at most 100 megapixels."""
    return _number(text, int, lambda v: 1 <= v <= MAX_SIDE, f"a whole number in 1..{MAX_SIDE}")


def sides(text: str) -> tuple[int, ...]:
    """Rising sides of pictures in pixels, with commas between them."""
    numbers = tuple(side(part) for part in text.split(","))
    if list(numbers) != sorted(set(numbers)):
        raise argparse.ArgumentTypeError(f"expected rising numbers of pixels, got {text!r}")
    return numbers


def image_size(text: str) -> tuple[int, int]:
    """Height and width of a picture in pixels, as 180x240."""
    height, x, width = text.partition("x")
    if not x:
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH in pixels, got {text!r}")
    return side(height), side(width)


def factors(text: str) -> tuple[float, float]:
    """Two rising numbers above 0, with a comma between them."""
    numbers = tuple(positive_float(part) for part in text.split(","))
    if len(numbers) != 2 or numbers[0] > numbers[1]:
        raise argparse.ArgumentTypeError(f"expected two rising numbers, as 0.5,2, got {text!r}")
    return numbers


def padding(text: str) -> int:
    """A number of pixels in 0..10000."""
    return _number(text, int, lambda v: 0 <= v <= MAX_SIDE, f"a whole number in 0..{MAX_SIDE}")


def degrees(text: str) -> float:
    """An angle in [0, 180]."""
    return _number(text, float, lambda v: 0 <= v <= 180, "a number in [0, 180]")


def positive_fraction(text: str) -> float:
    """A number in (0, 1]."""
    return _number(text, float, lambda v: 0 < v <= 1, "a number in (0, 1]")


def fractions(text: str) -> tuple[float, ...]:
    """Rising numbers in (0, 1), with commas between them."""
    numbers = tuple(positive_fraction(part) for part in text.split(","))
    if numbers[-1] == 1 or list(numbers) != sorted(set(numbers)):
        raise argparse.ArgumentTypeError(f"expected rising numbers in (0, 1), got {text!r}")
    return numbers


def switch(text: str) -> bool:
    """``on`` or ``off``."""
    if text not in ("on", "off"):
        raise argparse.ArgumentTypeError(f"expected on or off, got {text!r}")
    return text == "on"


def _number(text: str, kind: type, valid: Callable[[float], bool], expected: str):
    try:
        value = kind(text)
    except ValueError:
        value = math.nan  # which no bound holds for
    if not valid(value):
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
    return value
