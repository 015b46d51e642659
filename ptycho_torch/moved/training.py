"""`ptycho_torch.backend.training`, under its former name."""

import sys

from ptycho_torch.backend import training

sys.modules[__name__] = training
