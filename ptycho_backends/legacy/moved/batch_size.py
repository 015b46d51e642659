"""`ptycho_backends.training.batch_size`, under its former name."""

import sys

from ptycho_backends.training import batch_size

sys.modules[__name__] = batch_size
