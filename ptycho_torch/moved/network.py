"""`ptycho_torch.backend.network`, under its former name."""

import sys

from ptycho_torch.backend import network

sys.modules[__name__] = network
