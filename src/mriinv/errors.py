"""Errors whose message is complete: the command line prints it without a traceback."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Sequence
from numbers import Integral
from types import UnionType

_shortened = reprlib.Repr()
_shortened.maxlevel = 2  # nested deeper, thousands of entries would be shown


def shown(value: object) -> str:
    """Return a value from a file or a caller as a message shows it, shortened."""
    return _shortened.repr(value)


class MriinvError(Exception):
    """Base of every error that a user can act on."""


class InputError(MriinvError):
    """A file, a field of it or an argument is not what is needed.

    Parameters
    ----------
    source : file or argument that holds the bad value
    field : the entry in it (a dataset, a key), or ``""`` for the whole
    found, expected : what is there, and what would be right
    """

    def __init__(self, source: object, field: str, found: str, expected: str) -> None:
        self.source, self.field, self.found, self.expected = str(source), field, found, expected
        where = f"{source}: {field}" if field else str(source)
        super().__init__(f"{where}: found {found}; expected {expected}")


def require(source: object, *requirements: tuple[str, object, bool, str]) -> None:
    """Raise an `InputError` for the first of (field, found, whether it is valid, expected) that is not valid."""
    for field, found, valid, expected in requirements:
        if not valid:
            raise InputError(source, field, str(found), expected)


def is_size(value: object, least: int) -> bool:
    """Say whether a value is a size (y, x): two integers, none of them smaller than `least`."""
    numbers = value if isinstance(value, Sequence) else ()
    return len(numbers) == 2 and all(isinstance(number, Integral) and int(number) >= least for number in numbers)


def require_kind(source: object, field: str, found: object, kind: type | UnionType, expected: str) -> None:
    """Raise an `InputError` for what is no instance of `kind`, such as a class of that kind in place of an object."""
    if not isinstance(found, kind):
        said = f"the class {found.__name__}" if isinstance(found, type) else type(found).__name__
        raise InputError(source, field, said, expected)


class NoScanError(InputError):
    """An intact file that holds no k-space."""


class UnwritableError(InputError):
    """A place that cannot be written: nothing that follows could be stored either."""


class UnknownNameError(MriinvError):
    """A name that nothing is registered under; the message lists the close ones, and ends with a `note`."""

    def __init__(self, what: str, name: str, known: Iterable[str], note: str = "") -> None:
        known = sorted(set(known))
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(known) or 'none'}"
        super().__init__(f"unknown {what} '{name}'; {hint}{note}")


class SettingsError(MriinvError):
    """A setting that does not exist or has a value out of its range."""


class CompatibilityError(MriinvError):
    """A prior, solver or operator that cannot work together."""


class WeightsError(MriinvError):
    """A weight file that is missing, damaged or made for another architecture."""


class PluginError(MriinvError):
    """A plug-in that failed to load, or whose claims do not hold."""
