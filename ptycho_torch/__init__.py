"""PyTorch and Lightning for `ptycho_backends`, and the names that Ptychodus and the port's callers import.

`backend/` is the implementation, file by file that of `ptycho_backends.tensorflow`; `api/` and the modules
beside it are the door through which Ptychodus comes.
"""

from ptycho_backends.images.matplotlib_import import import_matplotlib

# Modules under the names that they had before: `moved/physics.py` is `ptycho_torch.physics`.
__path__.append(f"{__path__[0]}/moved")

import_matplotlib()  # first: Lightning imports torchmetrics, which imports matplotlib
