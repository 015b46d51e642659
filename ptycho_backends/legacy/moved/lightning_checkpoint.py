"""`ptycho_backends.archive.lightning_checkpoint`, under its former name."""

import sys

from ptycho_backends.archive import lightning_checkpoint

sys.modules[__name__] = lightning_checkpoint
