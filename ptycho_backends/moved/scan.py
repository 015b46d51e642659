"""`ptycho_backends.scans.scan`, under its former name."""

import sys

from ptycho_backends.scans import scan

sys.modules[__name__] = scan
