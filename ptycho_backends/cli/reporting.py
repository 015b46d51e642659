"""Logging, errors, progress and results of a command, as lines on the terminal."""

import logging
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ptycho_backends.errors import PtychoBackendsError, printable

if TYPE_CHECKING:
    from ptycho_backends.scans.scan import Scan
    from ptycho_backends.workflows import RunResult


Say = Callable[[str], None]
"""Prints a line, or nothing."""


def echo(text: object, err: bool = False) -> None:
    """Print a line; texts from files cannot steer the terminal."""
    typer.echo(printable(text), err=err)


EXIT_ERROR, EXIT_INTERRUPTED = 2, 130


@contextmanager
def session(verbose: int, quiet: bool, debug: bool) -> Iterator[Say]:
    """Logging to stderr while a command runs; errors of this library become one line and exit code 2.

    Yields `echo`, or with `--quiet` a function that prints nothing.
    """
    from ptycho_backends.registry import logger_names

    level = logging.ERROR if quiet else max(logging.WARNING - 10 * verbose, logging.DEBUG)
    handler = _Messages(sys.stderr)
    handler.setFormatter(_Lines())
    loggers = [logging.getLogger(name) for name in (*logger_names(), "py.warnings")]
    before = [(logger, logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False
    if not verbose:
        # a framework's advice to developers is no message for whoever runs a scan
        logging.getLogger("py.warnings").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            logging.captureWarnings(True)
            yield (lambda text: None) if quiet else echo
    except PtychoBackendsError as error:
        if debug:
            raise
        echo(f"error: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(EXIT_ERROR) from error
    except KeyboardInterrupt:
        if debug:
            raise
        echo("interrupted", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    finally:
        logging.captureWarnings(False)
        for logger, old_level, propagate in before:
            logger.removeHandler(handler)
            logger.setLevel(old_level)
            logger.propagate = propagate


class _Messages(logging.StreamHandler):
    """Messages on lines of their own, also where the progress stands on one."""

    def emit(self, record: logging.LogRecord) -> None:
        from ptycho_backends.training.progress import leave_line

        leave_line()
        super().emit(record)


class _Lines(logging.Formatter):
    """`warning: text`, in the form of the errors."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {printable(' '.join(super().format(record).split()))}"


# Settings that the folder of a run keeps, and options that name it or matter to one call only.
_KEPT_IN_RUN = ("config", "execution", "output", "resume", "overwrite", "start")


def again(
    context: typer.Context,
    command: str | None = None,
    *arguments: Path,
    backend: str,
    resume: Path,
    output: Path | None = None,
    with_config: bool = False,
) -> str:
    """The command that goes on with an interrupted run: the one that runs now, with its options.

    Parameters
    ----------
    context : typer.Context
        Of the command that runs.
    command : str, optional
        Another one, with only these `arguments`.
    backend : str
        That computes; the default may change meanwhile.
    resume : Path
    output : Path, optional
        Where the command has another default than `resume`.
    with_config : bool
        Repeat `--config`, which has settings that the folder does not keep.
    """
    words = ["ptycho-backends", command or str(context.info_name), *map(str, arguments)]
    if command is None:
        for parameter in context.command.params:
            words += _words(context, parameter)
    else:
        words += [
            word for name in ("accelerator", "refine") for word in _words(context, _named(context, name))
        ]
    words += [] if output is None else ["-o", str(output)]
    if with_config and context.params.get("config") is not None:
        words += ["--config", str(context.params["config"])]
    return shlex.join([*words, "--resume", str(resume), "--backend", backend])


def _named(context: typer.Context, name: str) -> Any:
    return next(parameter for parameter in context.command.params if parameter.name == name)


def _words(context: typer.Context, parameter: Any) -> list[str]:
    """An argument or option as it was typed; nothing if it was not."""
    name = parameter.name or ""
    given = context.get_parameter_source(name)
    if given is None or given.name != "COMMANDLINE" or name in (*_KEPT_IN_RUN, "backend"):
        return []
    value = context.params[name]
    if parameter.param_type_name == "argument":
        return [str(item) for item in (value if isinstance(value, list | tuple) else [value])]
    if isinstance(value, bool):
        return [(parameter.opts if value else parameter.secondary_opts)[0]]
    option = max(parameter.opts, key=len)
    if getattr(parameter, "count", False):
        return [option] * value
    return [
        word for one in (value if isinstance(value, list | tuple) else [value]) for word in (option, str(one))
    ]


def until_signal(verb: "Callable[..., RunResult]", *arguments: Any, **options: Any) -> "RunResult":
    """The result of a verb; of one that a signal has ended, with what was kept. `report` then ends the program."""
    from ptycho_backends.training.interrupts import Terminated

    try:
        return verb(*arguments, **options)
    except Terminated as ended:
        if ended.result is None:
            raise
        result: RunResult = ended.result
        return result


def report(result: "RunResult", say: Say, again: str | None = None) -> None:
    """Print epochs, metrics and files; exit code 128 + n after signal n, 130 after Ctrl-C."""
    if not result.files:
        # one of several processes, of which the first writes and reports

        def say(_: str) -> None:
            return

    history = () if result.model is None else result.model.history
    if history and "history" in result.files:
        seconds = sum(record.seconds for record in history)
        say(f"trained {len(history)} epochs on {result.backend} in {seconds:.0f} s")
    passes = () if result.reconstruction is None else result.reconstruction.passes
    if passes:
        seconds = sum(record.seconds for record in passes)
        say(f"refined with {len(passes)} passes on {result.backend} in {seconds:.1f} s")
    if passes and result.model is not None and result.model.config.model.architecture == "unrolled":
        assert result.reconstruction is not None
        taken = (
            "in the image"
            if result.reconstruction.corrected
            else "left out: it predicts held-out pixels worse"
        )
        say(f"learned correction: {taken}")
    if result.report:
        say(f"\n{result.report}")
    if result.metrics is not None:
        say(f"\n{result.metrics}")
    say(f"\nwritten to {result.output_dir}:")
    for path in result.files.values():
        say(f"  {path.name}")
    if again is not None and (result.interrupted or result.signal is not None):
        done = f"{len(history)} epochs" if result.training_interrupted else f"{len(passes)} passes"
        by = "" if result.signal is None else f" by {signal.Signals(result.signal).name}"
        echo(f"interrupted{by} after {done}; go on with: {again}", err=True)
        raise typer.Exit(EXIT_INTERRUPTED if result.signal is None else 128 + result.signal)


def described(scan: "Scan") -> str:
    from ptycho_backends.scans.statistics import holds_counts

    x, y = scan.xcoords, scan.ycoords
    whole = "whole counts" if holds_counts(scan) else "not whole counts"
    rows = [
        ("scan", scan.name),
        ("patterns", f"{len(scan)} of {scan.N} x {scan.N} pixels, {scan.patterns.dtype}"),
        (
            "measurement",
            f"{scan.measurement}, {whole}, {scan.pattern_energies.mean() / scan.lit_fraction:.4g} a pattern",
        ),
        *_masked_rows(scan),
        ("positions", f"x {x.min():.1f} .. {x.max():.1f}, y {y.min():.1f} .. {y.max():.1f} px"),
        ("probe", _described_probe(scan)),
        (
            "object",
            "none" if scan.object_guess is None else "{} x {} pixels".format(*scan.object_guess.shape),
        ),
        ("pixel", "size unknown" if scan.pixel_size_m is None else f"{scan.pixel_size_m * 1e9:.4g} nm"),
        *(("taken from" if number == 0 else "", note) for number, note in enumerate(scan.notes)),
    ]
    return "\n".join(f"{label:<12} {value}" for label, value in rows)


def _described_probe(scan: "Scan") -> str:
    if scan.probe_modes is None:
        return "none; the default one is used"
    count = len(scan.probe_modes)
    return "guess given" if count == 1 else f"guess given, {count} modes"


def _masked_rows(scan: "Scan") -> list[tuple[str, str]]:
    if scan.valid_pixels is None:
        return []
    invalid = scan.valid_pixels.size - int(scan.valid_pixels.sum())
    return [("mask", f"{invalid} of {scan.valid_pixels.size} pixels take no part")]
