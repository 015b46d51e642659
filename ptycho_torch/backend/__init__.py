"""The PyTorch and Lightning implementation of the `Backend` protocol; the files of `ptycho_backends.tensorflow`."""

from ptycho_torch.backend.backend import TorchBackend

__all__ = ["TorchBackend"]
