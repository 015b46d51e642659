"""The model, its modules, and `PtychoPINN_Lightning`, under the names that Ptychodus and the port's callers know."""

from ptycho_torch.backend.model import PtychoModel
from ptycho_torch.backend.module import PtychoModule
from ptycho_torch.lightning_module import PtychoPINN_Lightning

__all__ = ["PtychoModel", "PtychoModule", "PtychoPINN_Lightning"]
