"""`python -m ptycho_backends`: the command line."""

from ptycho_backends.cli import main

if __name__ == "__main__":
    main()
