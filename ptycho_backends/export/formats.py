"""The formats that are written, as data: names, suffixes, and the modules that each needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ptycho_backends.builtin_backends import BUILT_IN, is_importable
from ptycho_backends.errors import ExportError

INSTALL = "pip install 'ptycho-backends[export]'"
"""Command that installs the modules that are no framework."""


@dataclass(frozen=True)
class ExportFormat:
    """One format of a file.

    Attributes
    ----------
    name : str
        As `export(format=...)` takes it.
    label : str
        Name for people.
    source : {'model', 'image', 'scan'}
        Kind of value that is written: a `TrainedModel`, a `Reconstruction`, or a `Scan`.
    suffixes : tuple of str
        Endings of files that mean this format, the usual one first; '' for a folder.
    content : str
        Tensors or arrays in the file.
    consumer : str
        Program of `examples/` that opens it.
    modules : tuple of str
        Modules beyond the framework that writing and checking need.
    """

    name: str
    label: str
    source: str
    suffixes: tuple[str, ...]
    content: str
    consumer: str
    modules: tuple[str, ...] = ()

    @property
    def writer(self) -> str | None:
        """Name of the built-in backend that alone writes this format; None where no framework is needed."""
        return next((name for name, entry in BUILT_IN.items() if self.name in entry.export_formats), None)

    def require_modules(self) -> None:
        """Raise `ExportError` with the command that installs whatever is missing."""
        missing = [module for module in self.modules if not is_importable(module)]
        if missing:
            raise ExportError(f"{self.label}: {', '.join(missing)} not installed; run: {INSTALL}")


_NETWORK = "network alone: amplitude and phase of patches; of 'unrolled' its correction"
_WHOLE = "network and physics: object and predicted amplitudes"
_ONNX = ("onnx", "onnxscript", "onnxruntime")

FORMATS: Mapping[str, ExportFormat] = MappingProxyType(
    {
        one.name: one
        for one in (
            ExportFormat("onnx", "ONNX", "model", (".onnx",), _NETWORK, "open_onnx.py", _ONNX),
            ExportFormat(
                "onnx-physics", "ONNX with physics", "model", (".physics.onnx",), _WHOLE, "open_onnx.py", _ONNX
            ),
            ExportFormat("torch-export", "torch.export", "model", (".pt2",), _WHOLE, "open_torch_export.py"),
            ExportFormat(
                "saved-model", "TensorFlow SavedModel", "model", (".savedmodel",), _WHOLE, "open_saved_model.py"
            ),
            ExportFormat("litert", "LiteRT", "model", (".tflite",), _NETWORK, "open_litert.py"),
            ExportFormat(
                "ptychopinn", "PtychoPINN archive", "model", (".h5.zip", ".zip"),
                "weights and configuration, for PtychoPINN", "open_ptychopinn.py",
            ),
            ExportFormat(
                "training", "training NPZ", "scan", (".npz",),
                "patterns, positions, probe, object, as PtychoPINN and Ptychodus train on", "open_training.py",
            ),
            ExportFormat(
                "product", "Ptychodus product", "image", (".h5", ".hdf5"),
                "object, probe, positions in metres", "open_product.py",
            ),
            ExportFormat(
                "cxi", "CXI image", "image", (".cxi",), "object, probe modes, positions, coverage", "open_cxi.py"
            ),
            ExportFormat(
                "nxcxi-ptycho", "NXcxi_ptycho image", "image", (".nxs",),
                "as CXI, with NeXus classes, units and axes", "open_cxi.py",
            ),
            ExportFormat(
                "tiff", "TIFF", "image", (".tif", ".tiff"),
                "amplitude and phase as two pages of 32 bits, the pixel size in the tags", "open_tiff.py",
            ),
            ExportFormat(
                "png", "PNG", "image", (".png",),
                "phase of 16 bits; beside it `_amplitude.png`; limits and pixel size in the file", "open_png.py",
            ),
        )
    }
)  # fmt: skip
"""Every format by name."""

WITHOUT_FRAMEWORK = frozenset(name for name, one in FORMATS.items() if one.writer is None)
"""Formats that every backend writes."""


def format_of(path: str | Path, source: str | None = None) -> ExportFormat:
    """The format that the ending of `path` means, of those that write a `source` if that is given.

    Raises
    ------
    ExportError
        If it means none; the text lists the endings.
    """
    name = Path(path).name.lower()
    fitting = [one for one in FORMATS.values() if source in (None, one.source)]
    # the longest ending counts: .physics.onnx is an .onnx too
    endings = sorted(
        ((suffix, one) for one in fitting for suffix in one.suffixes), key=lambda pair: -len(pair[0])
    )
    for suffix, one in endings:
        if name.endswith(suffix):
            return one
    known = ", ".join(f"{one.suffixes[0]} ({one.name})" for one in fitting)
    raise ExportError(f"format: {path} does not tell it; want --format, or one of the endings {known}")


def format_named(name: str) -> ExportFormat:
    """The format `name`.

    Raises
    ------
    ExportError
        If there is none; the text lists the names.
    """
    if name not in FORMATS:
        raise ExportError(f"format: got {name!r}, want one of {', '.join(FORMATS)}")
    return FORMATS[name]
