"""An exported ONNX model, opened with onnxruntime alone: python open_onnx.py model.onnx inputs.npz"""

import json
import sys

import numpy as np
import onnxruntime


def predict(path, **inputs):
    """`{name: array}` of the outputs, and the metadata; `inputs` as the metadata describe them."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    metadata = json.loads(session.get_modelmeta().custom_metadata_map["metadata"])
    names = [output.name for output in session.get_outputs()]
    wanted = {one.name: np.asarray(inputs[one.name], np.float32) for one in session.get_inputs()}
    return dict(zip(names, session.run(names, wanted), strict=True)), metadata


if __name__ == "__main__":
    outputs, metadata = predict(sys.argv[1], **np.load(sys.argv[2]))
    print(metadata["licence"], metadata["tensors"], {name: array.shape for name, array in outputs.items()})
