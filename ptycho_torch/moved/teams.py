"""`ptycho_torch.backend.process_group`, under its former name."""

import sys

from ptycho_torch.backend import process_group

sys.modules[__name__] = process_group
