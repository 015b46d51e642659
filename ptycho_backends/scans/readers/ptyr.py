"""PtyPy's reconstruction, `.ptyr`: probe and object, with the patterns of the `.ptyd` beside it that it names."""

from pathlib import Path

import numpy as np

from ptycho_backends.errors import ScanError
from ptycho_backends.files.datasets_hdf5 import DatasetFile
from ptycho_backends.files.file_kind import kind_of
from ptycho_backends.scans.raw_scan import RawScan
from ptycho_backends.scans.readers import ptyd
from ptycho_backends.scans.readers.source import Source


def recognises(source: Source) -> bool:
    if source.kind != "HDF5" or "content" not in source.entries:
        return False
    with source.hdf5() as file:
        return file.holds("/content/obj", "/content/probe")


def read(source: Source) -> RawScan:
    with source.hdf5() as file:
        data = _data_file(file, source)
        inner = Source(data, data, kind_of(data), source.options, source.mapped)
        if not ptyd.recognises(inner):
            raise ScanError(f"{data.name}: no .ptyd of PtyPy, want the one that this reconstruction is of")
        raw = ptyd.read(inner)
        raw.format, raw.name = "PtyPy .ptyr with its .ptyd", source.name
        _read_probe(file, raw)
        _read_object(file, raw)
    return raw


def _data_file(file: DatasetFile, source: Source) -> Path:
    """The `.ptyd` that the options name, or the reconstruction's parameters."""
    if source.options.patterns_from is not None:
        return Path(source.options.patterns_from)
    named = []
    for scan in file.members("/content/pars/scans"):
        text = file.text(f"/content/pars/scans/{scan}/data/dfile")
        if text:
            named.append(text)
            if (found := source.beside(text)) is not None:
                return found
    raise ScanError(
        f"a reconstruction of PtyPy, which holds no patterns; put {named[0] if named else 'its .ptyd'} beside it, or "
        "name it with --patterns-from FILE.ptyd"
    )


def _read_probe(file: DatasetFile, raw: RawScan) -> None:
    for name in file.members("/content/probe"):
        place = f"/content/probe/{name}/data"
        shape = file.shape(place)
        if shape is not None and shape[-2:] == raw.shape:
            raw.probe = file.array(place)
            raw.took("probe", place)
            return


def _read_object(file: DatasetFile, raw: RawScan) -> None:
    """Set the object, and positions in its pixels."""
    for name in file.members("/content/obj"):
        at = f"/content/obj/{name}"
        shapes = [file.shape(f"{at}/{part}") for part in ("data", "_psize", "_origin")]
        if None in shapes or raw.positions is None or raw.positions_unit != "m":
            continue
        pixel, origin = file.array(f"{at}/_psize").reshape(-1), file.array(f"{at}/_origin").reshape(-1)
        if not (pixel > 0).all():
            continue
        metres = np.asarray(raw.positions)
        raw.object = file.array(f"{at}/data")[0]
        raw.positions = (metres - origin[::-1]) / pixel[::-1]
        raw.positions_unit = "px"
        raw.pixel_size_m = float(pixel[-1])
        raw.took("object", f"{at}/data")
        raw.took("positions", f"those of the .ptyd by {at}/_origin and _psize", "object pixels")
        return
