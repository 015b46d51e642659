"""`python -m ptycho_backends`: the command line."""

from ptycho_backends.cli import app

app(prog_name="ptycho-backends")
