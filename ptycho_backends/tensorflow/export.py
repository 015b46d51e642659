"""Models as SavedModel and as LiteRT, with real tensors at their boundary."""

import contextlib
import math
import os
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ptycho_backends import constants
from ptycho_backends.config import ExecutionConfig
from ptycho_backends.errors import OutputError
from ptycho_backends.export.checking import require_agreement, sample_canvases, sample_inputs
from ptycho_backends.export.formats import FORMATS
from ptycho_backends.export.metadata import as_text, model_metadata
from ptycho_backends.files.output import replaced_atomically
from ptycho_backends.reference.initial_weights import LOG_SCALE, UNET_LEVELS
from ptycho_backends.tensorflow import correction, network
from ptycho_backends.tensorflow.compiling import compiled
from ptycho_backends.tensorflow.device import computing
from ptycho_backends.tensorflow.model import PtychoModel
from ptycho_backends.values import TrainedModel

Outputs = dict[str, tf.Tensor]

METADATA = "metadata.json"
SIGNATURE = "serving_default"


class NetworkAlone(tf.Module):
    """Normalised amplitudes (B, N, N, C) to amplitude and phase (B, N, N, c) of the object's patches."""

    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        self.model = PtychoModel(model.config.model, model.weights)
        self.scale = float(model.intensity_scale)
        config = model.config.model
        self.signature = [
            tf.TensorSpec((None, config.N, config.N, config.group_size), tf.float32, "diffraction")
        ]

    def forward(self, diffraction: tf.Tensor) -> Outputs:
        weights, config = self.model.tensors, self.model.config
        fed = self.scale * diffraction / tf.exp(weights[LOG_SCALE])
        amplitude, phase = network.decode(network.encode(fed, weights, config), weights, config)
        return {"amplitude": amplitude, "phase": phase}


class CorrectionAlone(tf.Module):
    """The correction of 'unrolled': real and imaginary part of a canvas and its light (B, N, N) to a better object."""

    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        self.model = PtychoModel(model.config.model, model.weights)
        N = model.config.model.N
        names = ("canvas_real", "canvas_imag", "light")
        self.signature = [tf.TensorSpec((None, N, N), tf.float32, name) for name in names]

    def forward(self, canvas_real: tf.Tensor, canvas_imag: tf.Tensor, light: tf.Tensor) -> Outputs:
        lit = tf.math.log1p(constants.LIGHT_CONTRAST * light) / math.log1p(constants.LIGHT_CONTRAST)
        seen = tf.stack([canvas_real - 1.0, canvas_imag, lit], axis=-1)
        N = self.model.config.N
        more = -N % 2 ** (UNET_LEVELS - 1)
        change = correction.unet(tf.pad(seen, [(0, 0), (0, more), (0, more), (0, 0)]), self.model.tensors)
        return {
            "object_real": canvas_real + change[:, :N, :N, 0],
            "object_imag": canvas_imag + change[:, :N, :N, 1],
        }


class NetworkAndPhysics(tf.Module):
    """Normalised amplitudes and offsets to the object (B, N, N) and the predicted amplitudes (B, N, N, C)."""

    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        self.model = PtychoModel(model.config.model, model.weights)
        self.scale = float(model.intensity_scale)
        N, C = model.config.model.N, model.config.model.group_size
        self.signature = [
            tf.TensorSpec((None, N, N, C), tf.float32, "diffraction"),
            tf.TensorSpec((None, C, 2), tf.float32, "offsets"),
        ]

    def forward(self, diffraction: tf.Tensor, offsets: tf.Tensor) -> Outputs:
        _, image, amplitude = self.model(self.scale * diffraction, offsets)
        return {
            "object_real": tf.math.real(image),
            "object_imag": tf.math.imag(image),
            "predicted_amplitude": tf.transpose(amplitude, (0, 2, 3, 1)),
        }


def export_model(model: TrainedModel, path: str | os.PathLike[str], format: str, licence: str) -> Path:
    """Write `model` as 'saved-model' (a folder) or 'litert', once the result computes the same numbers.

    Of several probes the first one counts, and all pixels are valid. The number of groups is free.

    Raises
    ------
    ExportError, OutputError
    """
    FORMATS[format].require_modules()
    metadata = as_text(model_metadata(model, format, licence))
    with computing(ExecutionConfig(accelerator="cpu")):
        module, inputs = _module_of(model, format)
        module.exported = compiled(module.forward, *module.signature)
        given = {name: tf.constant(value) for name, value in inputs.items()}
        want = {name: value.numpy() for name, value in module.exported(**given).items()}
        write = _write_saved_model if format == "saved-model" else _write_litert
        return write(module, Path(path), metadata, inputs, want)


def _module_of(model: TrainedModel, format: str) -> tuple[tf.Module, dict[str, NDArray[np.float32]]]:
    if format == "saved-model":
        return NetworkAndPhysics(model), sample_inputs(model)
    if model.config.model.architecture == "unrolled":
        return CorrectionAlone(model), sample_canvases(model)
    return NetworkAlone(model), {"diffraction": sample_inputs(model)["diffraction"]}


def _write_saved_model(
    module: tf.Module, path: Path, metadata: str, inputs: Mapping[str, NDArray], want: Mapping[str, NDArray]
) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export.") as folder:
            made = Path(folder) / "model"
            tf.saved_model.save(module, str(made), signatures={SIGNATURE: module.exported})
            # the place that SavedModel leaves to its users
            (made / "assets.extra").mkdir()
            (made / "assets.extra" / METADATA).write_text(metadata)
            signature = tf.saved_model.load(str(made)).signatures[SIGNATURE]
            got = signature(**{name: tf.constant(value) for name, value in inputs.items()})
            require_agreement("SavedModel", {name: value.numpy() for name, value in got.items()}, want)
            if path.is_dir():
                if not (path / "saved_model.pb").exists():
                    raise OutputError(f"{path}: is a folder, and no SavedModel that could be replaced")
                shutil.rmtree(path)
            os.replace(made, path)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error
    return path


def _write_litert(
    module: tf.Module, path: Path, metadata: str, inputs: Mapping[str, NDArray], want: Mapping[str, NDArray]
) -> Path:
    with _quiet():
        function = module.exported.get_concrete_function()
        content = tf.lite.TFLiteConverter.from_concrete_functions([function], module).convert()
        interpreter = tf.lite.Interpreter(model_content=content)
        runner = interpreter.get_signature_runner(SIGNATURE)
        got = runner(**inputs)
    require_agreement("LiteRT", got, want)
    with replaced_atomically(path) as stream:
        stream.write(content)
        # associated files of LiteRT are a ZIP archive behind the model
        with zipfile.ZipFile(stream, "a") as archive:
            archive.writestr(METADATA, metadata)
    return path


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without notes on where the interpreter moves to in later versions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
