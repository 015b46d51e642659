"""`ptycho_backends.training.schedule`, under its former name."""

import sys

from ptycho_backends.training import schedule

sys.modules[__name__] = schedule
