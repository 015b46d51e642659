"""`ptycho_backends.scans.product_scan`, under its former name."""

import sys

from ptycho_backends.scans import product_scan

sys.modules[__name__] = product_scan
