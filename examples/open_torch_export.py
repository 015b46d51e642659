"""An exported program, opened with PyTorch alone: python open_torch_export.py model.pt2 inputs.npz"""

import json
import sys

import numpy as np
import torch


def predict(path, **inputs):
    """`{name: array}` of the outputs, and the metadata; `inputs` are `diffraction` and `offsets`."""
    extra = {"metadata.json": ""}
    program = torch.export.load(path, extra_files=extra).module()
    tensors = (torch.as_tensor(inputs[name], dtype=torch.float32) for name in ("diffraction", "offsets"))
    with torch.no_grad():
        outputs = program(*tensors)
    return {name: tensor.numpy() for name, tensor in outputs.items()}, json.loads(extra["metadata.json"])


if __name__ == "__main__":
    outputs, metadata = predict(sys.argv[1], **np.load(sys.argv[2]))
    print(metadata["licence"], metadata["tensors"], {name: array.shape for name, array in outputs.items()})
