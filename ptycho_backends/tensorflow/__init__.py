"""The TensorFlow implementation of `ptycho_backends`; imported only when its backend is asked for.

`physics`, `network`, `losses` and `model` mirror the files of that name in `ptycho_backends.reference`,
function by function; `data`, `training` and `inference` drive them; `backend` implements the protocol.
It is plain TensorFlow, functions over a dictionary of variables: no Keras layer, no global state.
"""

import os

from ptycho_backends.images.matplotlib_import import import_matplotlib

# TensorFlow reads both when it is imported, and the user's own values count.
# Errors only; a few lines about the processor and missing GPUs come before TensorFlow heeds the level.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Another framework in this process keeps its part of a GPU's memory.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

import_matplotlib()  # first: TensorFlow imports Keras, which imports matplotlib
