"""PtyLab's HDF5: `ptychogram`, `encoder` in metres (row, column), `dxd`, `zo`, `wavelength`."""

from ptycho_backends.errors import ScanError
from ptycho_backends.scans.raw_scan import HC_EV_M, RawScan
from ptycho_backends.scans.readers.hdf5_parts import frames, quantity
from ptycho_backends.scans.readers.source import Source


def recognises(source: Source) -> bool:
    return source.kind == "HDF5" and {"ptychogram", "encoder"} <= source.entries


def read(source: Source) -> RawScan:
    with source.hdf5() as file:
        raw = RawScan(
            format="PtyLab HDF5",
            name=source.name,
            patterns=frames(source, file, ["ptychogram"]),
            measurement="intensity",
        )
        encoder = file.array("encoder")
        if encoder.ndim != 2 or encoder.shape[1] != 2:
            raise ScanError(f"encoder: got shape {encoder.shape}, want (M, 2), row and column")
        raw.positions, raw.positions_unit = encoder[:, ::-1].astype(float), "m"
        raw.took("patterns", "ptychogram", "counts")
        raw.took("positions", "encoder", "m (row, column)")
        side = quantity(file, ["dxd"], "m")
        raw.detector_pixel_m = None if side is None else (side, side)
        raw.distance_m = quantity(file, ["zo"], "m")
        wavelength = quantity(file, ["wavelength"], "m")
        raw.energy_eV = None if wavelength is None else HC_EV_M / wavelength
        raw.took("detector pixel, distance, wavelength", "dxd, zo, wavelength", "m")
        for name in ("background", "orientation"):
            shape = file.shape(name)
            if shape == () and file.number(name) != 0:
                raw.took(name, f"{file.number(name):g} in the file is left to you")
        for part, name in (("probe", "probe"), ("object", "object")):
            shape = file.shape(name)
            # PtyLab's (wavelengths, modes, slices, ...)
            if part == "probe" and shape is not None and len(shape) >= 2 and shape[-2:] == raw.shape:
                raw.probe = file.array(name).reshape(-1, *raw.shape)
                raw.took("probe", name)
    return raw
