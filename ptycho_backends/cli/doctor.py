"""The command `doctor`: does this installation work?"""

from pathlib import Path
from typing import Annotated

import typer

from ptycho_backends.cli.options import Debug, Verbose
from ptycho_backends.cli.reporting import session


def doctor(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder where results are to go.", metavar="DIR")
    ] = Path("."),
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Examine versions, devices, conflicts, compiler, disk and cluster, and test each backend against the reference.

    Exit code 1 if something does not work; each finding says what to do.

    Example: ptycho-backends doctor
    """
    with session(verbose, False, debug) as say:
        from ptycho_backends.testing.doctor import FAULT, examine

        faults = 0
        for check in examine(output):
            say(str(check))
            faults += check.state == FAULT
        say(f"\n{faults} fault{'' if faults == 1 else 's'} found" if faults else "\neverything works")
    if faults:
        raise typer.Exit(1)
