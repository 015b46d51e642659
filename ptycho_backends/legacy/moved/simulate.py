"""`ptycho_backends.scans.simulate`, under its former name."""

import sys

from ptycho_backends.scans import simulate

sys.modules[__name__] = simulate
