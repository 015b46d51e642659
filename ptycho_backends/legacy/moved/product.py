"""`ptycho_backends.scans.product`, under its former name."""

import sys

from ptycho_backends.scans import product

sys.modules[__name__] = product
