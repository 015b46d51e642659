"""The bridge to `params.cfg` under its former name."""

import sys

from ptycho_backends.params import bridge

sys.modules[__name__] = bridge
