"""The command `schema`: what a file of settings may hold, for editors."""

from typing import Annotated

import typer

from ptycho_backends.cli.groups import Messages, takes_groups


@takes_groups
def schema(
    section: Annotated[
        str | None,
        typer.Argument(
            help="Of a file of one configuration alone: training, inference, refinement, execution or model. Default: "
            "of a file of all sections, as --print-config prints it.",
            metavar="SECTION",
            show_default=False,
        ),
    ] = None,
    *,
    messages: Messages,
) -> None:
    """Print the JSON schema of a file of settings, with which an editor completes, explains and checks it.

    Example: ptycho-backends schema > ptycho.schema.json

    Then, as the file's first line: # yaml-language-server: $schema=ptycho.schema.json
    """
    with messages.session():
        import json

        from ptycho_backends.config_schema import json_schema

        typer.echo(json.dumps(json_schema(section), indent=2))
