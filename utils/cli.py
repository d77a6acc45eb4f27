"""What every script's command line shares: one parser, one way to fail, one set of value types.

Flags carry a single dash and underscores, as published. Whatever the user got wrong ends in one
line on stderr that names the value received and what is valid, and exit status 2.
"""

import argparse
import math
import sys
from collections.abc import Callable
from typing import NoReturn

import torch

MAX_SEED = 2**32 - 1


class UserError(Exception):
    """A mistake that the user can mend; its message is the one line that they see."""


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str:
        # a default of None is explained by the help text itself
        return action.help if action.default is None else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` without abbreviations whose errors are one line."""

    def __init__(self, description: str) -> None:
        super().__init__(
            description=description, formatter_class=_HelpFormatter, allow_abbrev=False
        )

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} -h)\n")


def run(main: Callable[[], None]) -> NoReturn:
    """Run a script's ``main``; a ``UserError`` becomes one line on stderr and exit status 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output is gone; there is nobody to tell
        sys.exit(1)
    sys.exit(0)


def seed(text: str) -> int:
    """A seed of the published key stream: a whole number in 0..2^32-1."""
    if not (text.isascii() and text.isdigit()) or int(text) > MAX_SEED:
        raise argparse.ArgumentTypeError(f"expected a whole number in 0..{MAX_SEED}, got {text!r}")
    return int(text)


def positive_int(text: str) -> int:
    """A whole number of at least 1."""
    return _number(text, int, lambda value: value >= 1, "a whole number of at least 1")


def count(text: str) -> int:
    """A whole number of at least 0."""
    return _number(text, int, lambda value: value >= 0, "a whole number of at least 0")


def positive_float(text: str) -> float:
    """A finite number above 0."""
    return _number(text, float, lambda value: value > 0, "a number above 0")


def non_negative_float(text: str) -> float:
    """A finite number of at least 0."""
    return _number(text, float, lambda value: value >= 0, "a number of at least 0")


def fraction(text: str) -> float:
    """A number in [0, 1)."""
    return _number(text, float, lambda value: 0 <= value < 1, "a number in [0, 1)")


def switch(text: str) -> bool:
    """``on`` or ``off``."""
    if text not in ("on", "off"):
        raise argparse.ArgumentTypeError(f"expected on or off, got {text!r}")
    return text == "on"


def _number(text: str, kind: type, valid: Callable[[float], bool], expected: str):
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and valid(value)):
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
    return value


def select_device(gpu: bool) -> torch.device:
    """The device that ``-gpu`` asks for.

    Raises:
        UserError: if a GPU is asked for and PyTorch finds none.
    """
    if gpu and not torch.cuda.is_available():
        raise UserError("-gpu: PyTorch finds no CUDA GPU here; leave -gpu out to use the CPU")
    return torch.device("cuda" if gpu else "cpu")
