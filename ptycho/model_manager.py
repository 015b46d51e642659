"""Saving the model that was trained last, and loading models."""

from ptycho_backends.legacy.model_manager import ModelManager, save

__all__ = ["ModelManager", "save"]
