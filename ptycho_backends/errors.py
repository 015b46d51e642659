"""Every error that this library raises on purpose.

Each is also the builtin that a caller would expect, so `except ValueError` keeps working.
"""

import re
from typing import Any

# Control characters but tab and line feed, those of the upper half too, marks that reorder text, halves of characters.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
    """`text` with control characters as escapes: files from strangers must not steer the terminal."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], str(text))


class PtychoBackendsError(Exception):
    """Root of every error this library raises on purpose; control characters in its text are escaped."""

    def __str__(self) -> str:
        return printable(super().__str__())


class ConfigError(PtychoBackendsError, ValueError):
    """One or more configuration values are not allowed; the text lists all of them."""


class ShapeError(PtychoBackendsError, ValueError):
    """An array at the public boundary has the wrong rank, size or dtype."""


class ScanError(PtychoBackendsError, ValueError):
    """A scan lacks something, or holds values that no detector gives."""


class GroupingError(PtychoBackendsError, ValueError):
    """The scan cannot be divided into the groups that were asked for."""


class ArchiveError(PtychoBackendsError, ValueError):
    """An archive is damaged, foreign or hostile; the text names the member and the reason."""


class OutputError(PtychoBackendsError, OSError):
    """A result cannot be written where it was asked to go."""


class UnknownBackendError(PtychoBackendsError, ValueError):
    """No backend is registered under this name."""


class BackendUnavailableError(PtychoBackendsError, RuntimeError):
    """The backend exists, but its framework is not installed."""


class DivergenceError(PtychoBackendsError, ArithmeticError):
    """A loss, a gradient or a weight of training is not finite; the text names the place and the usual causes.

    As every error that ends a training, it has the last good model as `trained_model`.
    """

    trained_model: Any = None


class ExportError(PtychoBackendsError, ValueError):
    """A model or an image cannot be written in the format asked for; the text gives the command that would do it."""
