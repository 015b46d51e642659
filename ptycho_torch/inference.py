"""`load_and_predict`, under the name that programs written for the port know."""

from ptycho_torch.api.image import load_and_predict
from ptycho_torch.backend.device import computing

__all__ = ["computing", "load_and_predict"]
