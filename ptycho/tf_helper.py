"""Stitching; the name is the legacy package's, TensorFlow takes no part in it."""

from ptycho_backends.legacy.reassembly import reassemble_position

__all__ = ["reassemble_position"]
