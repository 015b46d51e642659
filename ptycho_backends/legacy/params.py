"""`params.cfg` under its former name."""

import sys

from ptycho_backends.params import params

sys.modules[__name__] = params
