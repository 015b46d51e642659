"""The command line, `ptycho-backends`."""

import atexit
import gc

from ptycho_backends.cli.commands import app

__all__ = ["app", "main"]

# Objects made between two looks for garbage: importing a framework makes half a million, all to stay.
BETWEEN_LOOKS = 100_000


def main() -> None:
    """The program: `app`, which starts and ends sooner because less garbage is looked for."""
    gc.set_threshold(BETWEEN_LOOKS, *gc.get_threshold()[1:])
    # the first registered is the last to run: what is left ends with the process anyway
    atexit.register(gc.freeze)
    app(prog_name="ptycho-backends")
