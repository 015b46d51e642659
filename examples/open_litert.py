"""An exported LiteRT model, opened with its interpreter: python open_litert.py model.tflite inputs.npz"""

import json
import sys
import zipfile

import numpy as np

try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError:  # TensorFlow brings one, too
    import tensorflow as tf

    Interpreter = tf.lite.Interpreter


def predict(path, **inputs):
    """`{name: array}` of the outputs, and the metadata; `inputs` as the metadata describe them."""
    runner = Interpreter(model_path=str(path)).get_signature_runner("serving_default")
    wanted = {name: np.asarray(inputs[name], np.float32) for name in runner.get_input_details()}
    with zipfile.ZipFile(path) as files:
        metadata = json.loads(files.read("metadata.json"))
    return runner(**wanted), metadata


if __name__ == "__main__":
    outputs, metadata = predict(sys.argv[1], **np.load(sys.argv[2]))
    print(metadata["licence"], metadata["tensors"], {name: array.shape for name, array in outputs.items()})
