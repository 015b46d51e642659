"""`ptycho_torch.backend.arrays`, under its former name."""

import sys

from ptycho_torch.backend import arrays

sys.modules[__name__] = arrays
