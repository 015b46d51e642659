"""`ptycho_backends.images.stitching`, under its former name."""

import sys

from ptycho_backends.images import stitching

sys.modules[__name__] = stitching
