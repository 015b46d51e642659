"""`ptycho_backends.scans.grouping`, under its former name."""

import sys

from ptycho_backends.scans import grouping

sys.modules[__name__] = grouping
