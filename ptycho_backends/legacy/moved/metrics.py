"""`ptycho_backends.images.metrics`, under its former name."""

import sys

from ptycho_backends.images import metrics

sys.modules[__name__] = metrics
