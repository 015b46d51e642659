"""`ptycho_torch.backend.data`, under its former name."""

import sys

from ptycho_torch.backend import data

sys.modules[__name__] = data
