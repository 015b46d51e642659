"""`ptycho_torch.backend.physics`, under its former name."""

import sys

from ptycho_torch.backend import physics

sys.modules[__name__] = physics
