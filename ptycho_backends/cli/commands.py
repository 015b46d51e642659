"""The command line, `ptycho-backends`: one command for each verb of `workflows`.

Slow imports happen inside the commands, so that `--help` answers at once.
"""

from pathlib import Path
from typing import Annotated

import typer

from ptycho_backends import __version__
from ptycho_backends.builtin_backends import BUILT_IN
from ptycho_backends.cli.checking import check as check_command
from ptycho_backends.cli.convert import convert
from ptycho_backends.cli.doctor import doctor
from ptycho_backends.cli.export import export
from ptycho_backends.cli.groups import Messages, takes_groups
from ptycho_backends.cli.images import compare, infer, refine
from ptycho_backends.cli.inspection import inspect
from ptycho_backends.cli.options import option
from ptycho_backends.cli.schema import schema
from ptycho_backends.cli.simulation import simulate
from ptycho_backends.cli.training import demo, find_rate, run, train
from ptycho_backends.cli.watch import watch

app = typer.Typer(
    name="ptycho-backends",
    help="Train physics-informed networks on ptychographic scans and reconstruct with them, on "
    f"{' or '.join(entry.label for entry in BUILT_IN.values())}.\n\nStart with: ptycho-backends demo",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ptycho-backends {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


for command in (
    demo, simulate, find_rate, train, run, infer, refine, watch, compare, convert, export, schema, doctor
):  # fmt: skip
    app.command()(command)
app.command()(takes_groups(check_command))
app.command()(takes_groups(inspect))


@app.command()
@takes_groups
def parity(
    backends: Annotated[
        list[str],
        typer.Argument(
            help=f"Backends to compare: {', '.join(BUILT_IN)}, or a third party's.", metavar="NAME..."
        ),
    ],
    cases: Annotated[
        int | None, option("--cases", "-n", help="Generated cases. Default: the profile's: 20, 60 or 300.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same cases.")] = 0,
    profile: Annotated[str, typer.Option("--profile", help="fast, ci or nightly: how much of each case.")] = (
        "fast"
    ),
    part: Annotated[
        str, typer.Option("--part", help="arrays (single batches), verbs (train, infer, ...) or all.")
    ] = "all",
    device: Annotated[
        str, typer.Option("--device", help="Where backends compute: cpu, gpu, cuda, mps or auto.")
    ] = "cpu",
    case: Annotated[
        str | None, typer.Option("--case", help="Measure this case alone, as a report prints it.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the report.", metavar="DIR")
    ] = Path("parity_report"),
    *,
    messages: Messages,
) -> None:
    """Hold backends against the float64 reference and against each other; write a report.

    Exit code 1 if any deviation is beyond its allowance.

    Example: ptycho-backends parity torch tensorflow
    """
    with messages.session() as say:
        from ptycho_backends.testing.command import parity_command

        code = parity_command(
            backends,
            cases=cases,
            seed=seed,
            profile=profile,
            part=part,
            device=device,
            case=case,
            output_dir=output,
            say=say,
        )
    if code:
        raise typer.Exit(code)
