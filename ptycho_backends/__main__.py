"""`python -m ptycho_backends`: the command line."""

from ptycho_backends.cli import app

if __name__ == "__main__":
    app(prog_name="ptycho-backends")
