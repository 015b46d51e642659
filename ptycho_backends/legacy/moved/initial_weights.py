"""`ptycho_backends.reference.initial_weights`, under its former name."""

import sys

from ptycho_backends.reference import initial_weights

sys.modules[__name__] = initial_weights
