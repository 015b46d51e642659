"""`ptycho_backends.training.plan`, under its former name."""

import sys

from ptycho_backends.training import plan

sys.modules[__name__] = plan
