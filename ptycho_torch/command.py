"""Common frame of `python -m ptycho_torch.train` and `python -m ptycho_torch.inference`."""

import logging
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence

from ptycho_backends.errors import PtychoBackendsError

ERROR, INTERRUPTED = 2, 130


def run_command(
    parser: ArgumentParser, task: Callable[[Namespace], object], arguments: Sequence[str] | None
) -> int:
    """Parse `arguments` (default: those of the process), do the task, and print its result.

    Returns
    -------
    int
        Exit code: 0, or 2 after a line with an error of this library, 130 after Ctrl-C. A wrong command line
        ends the process with 2, as argparse does.
    """
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        sys.stdout.write(f"{task(options)}\n")
    except PtychoBackendsError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return ERROR
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    return 0
