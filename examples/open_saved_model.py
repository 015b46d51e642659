"""An exported SavedModel, opened with TensorFlow alone: python open_saved_model.py model.savedmodel inputs.npz"""

import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf


def predict(path, **inputs):
    """`{name: array}` of the outputs, and the metadata; `inputs` are `diffraction` and `offsets`."""
    signature = tf.saved_model.load(str(path)).signatures["serving_default"]
    tensors = {name: tf.constant(inputs[name], tf.float32) for name in ("diffraction", "offsets")}
    metadata = json.loads(Path(path, "assets.extra", "metadata.json").read_text())
    return {name: tensor.numpy() for name, tensor in signature(**tensors).items()}, metadata


if __name__ == "__main__":
    outputs, metadata = predict(sys.argv[1], **np.load(sys.argv[2]))
    print(metadata["licence"], metadata["tensors"], {name: array.shape for name, array in outputs.items()})
