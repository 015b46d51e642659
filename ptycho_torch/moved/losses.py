"""`ptycho_torch.backend.losses`, under its former name."""

import sys

from ptycho_torch.backend import losses

sys.modules[__name__] = losses
