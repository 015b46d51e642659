"""`load_and_predict`, under the name that programs written for the legacy port know."""

from ptycho_torch.api.image import load_and_predict

__all__ = ["load_and_predict"]
