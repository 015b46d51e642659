"""`ptycho_backends.images.figures`, under its former name."""

import sys

from ptycho_backends.images import figures

sys.modules[__name__] = figures
