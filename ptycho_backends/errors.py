"""Every error that this library raises on purpose.

Each is also the builtin that a caller would expect, so `except ValueError` keeps working.
"""


class PtychoBackendsError(Exception):
    """Root of every error this library raises on purpose."""


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


class ExportError(PtychoBackendsError, ValueError):
    """A model or an image cannot be written in the format asked for; the text gives the command that would do it."""
