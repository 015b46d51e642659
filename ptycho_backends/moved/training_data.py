"""`ptycho_backends.scans.training_data`, under its former name."""

import sys

from ptycho_backends.scans import training_data

sys.modules[__name__] = training_data
