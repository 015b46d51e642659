"""Ptychodus's product with the patterns beside it, `diffraction.h5`, or in the file that the options name."""

from pathlib import Path

from ptycho_backends.errors import ScanError
from ptycho_backends.files.file_kind import kind_of
from ptycho_backends.files.mapped_npz import mapped_npy
from ptycho_backends.scans.product import load_product
from ptycho_backends.scans.product_scan import scan_from_product
from ptycho_backends.scans.raw_scan import RawScan
from ptycho_backends.scans.readers.source import Source

BESIDE = ("diffraction.h5", "diffraction.hdf5")


def recognises(source: Source) -> bool:
    return source.kind == "HDF5" and "probe_position_x_m" in source.entries


def read(source: Source) -> RawScan:
    product = load_product(source.path)
    named = source.options.patterns_from
    data = Path(named) if named else next(filter(None, map(source.beside, BESIDE)), None)
    if data is None:
        raise ScanError(
            "a Ptychodus product, which holds no patterns; put its diffraction.h5 beside it, or name them with "
            "--patterns-from FILE"
        )
    patterns = mapped_npy(data) if kind_of(data) == "NPY" else data
    scan = scan_from_product(product, patterns)
    raw = RawScan(
        format="product of Ptychodus",
        name=source.name,
        patterns=scan.patterns,
        positions=scan.scan_positions_px,
        positions_unit="px",
        measurement="intensity",
        energy_eV=scan.photon_energy_eV,
        distance_m=scan.detector_distance_m,
        pixel_size_m=scan.pixel_size_m,
        probe=scan.probe_guess,
        probe_modes=scan.probe_modes,
        object=scan.object_guess,
        valid_pixels=scan.valid_pixels,
        scan_index=scan.scan_index,
    )
    raw.took("patterns", str(data.name), "counts, paired by their indexes")
    raw.took("positions", "probe_position_x_m, _y_m", "m, in pixels of the object")
    raw.took("probe and object", "probe, object")
    return raw
