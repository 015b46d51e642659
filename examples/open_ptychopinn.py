"""An archive of PtychoPINN, opened as its scripts do: python open_ptychopinn.py run/wts.h5.zip"""

import json
import sys
from pathlib import Path

from ptycho.model_manager import ModelManager


def open_model(path):
    """The model that takes diffraction to an object, and the metadata in the file beside the archive."""
    models = ModelManager.load_multiple_models(str(path).removesuffix(".zip"))
    beside = Path(f"{path}.metadata.json")
    return models["diffraction_to_obj"], json.loads(beside.read_text())


if __name__ == "__main__":
    model, metadata = open_model(sys.argv[1])
    print(metadata["licence"], model)
