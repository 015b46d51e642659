"""`ptycho_backends.reference.probe`, under its former name."""

import sys

from ptycho_backends.reference import probe

sys.modules[__name__] = probe
