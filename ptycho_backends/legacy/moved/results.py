"""`ptycho_backends.images.results`, under its former name."""

import sys

from ptycho_backends.images import results

sys.modules[__name__] = results
