"""The command line, `ptycho-backends`."""

from ptycho_backends.cli.commands import app

__all__ = ["app"]
