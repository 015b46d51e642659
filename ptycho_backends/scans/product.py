"""Ptychodus products: probe, object, positions in metres and losses in one HDF5 file, from and to scans and images.

A product holds no patterns; those are in a `diffraction.h5` beside it, or anywhere else. Units are in the
names; pairs are `[x, y]`, as everywhere.
"""

import dataclasses
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_backends import checks
from ptycho_backends.errors import ScanError, ShapeError
from ptycho_backends.files.datasets_hdf5 import DatasetFile, write_datasets
from ptycho_backends.scans.scan import PTYCHODUS_ANCHOR_PX
from ptycho_backends.values import EpochRecord, Reconstruction

log = logging.getLogger(__name__)

POLARIZATIONS = ("left_circular", "right_circular")

# How far the two sides of a pixel may differ and still be called one length.
SQUARE = 1e-6


@dataclass(frozen=True)
class ProductMetadata:
    """Metadata that Ptychodus keeps of the experiment, under its names in the file. 0 stands for unknown.

    Raises
    ------
    ScanError
        If a number is not finite, or the polarization unknown.
    """

    detector_object_distance_m: float
    photon_energy_eV: float
    name: str = ""
    comments: str = ""
    probe_photon_count: float = 0.0
    exposure_time_s: float = 0.0
    mass_attenuation_m2_per_kg: float = 0.0
    tomography_angle_deg: float = 0.0
    focus_object_distance_m: float = 0.0
    tilt_angle_deg: float = 0.0
    far_field: bool = True
    polarization: str | None = None

    def __post_init__(self) -> None:
        for one in dataclasses.fields(self):
            value = getattr(self, one.name)
            if one.type is float and not _is_real(value):
                raise ScanError(f"{one.name}: got {value!r}, want a finite number")
        if self.polarization is not None and self.polarization not in POLARIZATIONS:
            raise ScanError(
                f"polarization: got {self.polarization!r}, want {' or '.join(POLARIZATIONS)}, or None"
            )


@dataclass(frozen=True, eq=False, repr=False)
class Product:
    """A Ptychodus product, checked; arrays keep the precision they have in the file.

    Parameters
    ----------
    metadata : ProductMetadata
    scan_positions_m : (M, 2) float64, [x, y]
        Centres of the probe in the world, whose axes run as those of the object.
    object : (layers, H, W) complex array, [y, x]; or (H, W)
    object_centre_m : (2,) float64, [x, y]
        The world's coordinates of the point `[(H - 1) / 2, (W - 1) / 2]` of the object.
    object_pixel_size_m : (2,) float64, [x, y]
    probe : (coherent modes, incoherent modes, N, N) complex array, [y, x]; or without leading axes
    probe_pixel_size_m : (2,) float64, [x, y], optional
        Default: the object's.
    position_indexes : (M,) int64, optional
        Number of each position in the scan; default 0, 1, 2, ...
    layer_spacing_m : (layers - 1,) float64
    opr_weights : (M, coherent modes) real array, optional
        Weight of each coherent mode at each position.
    photon_counts : (M,) float64, optional
        Measured at each position.
    loss_epochs, loss_values : (k,) int64, (k,) float64

    Raises
    ------
    ScanError, ShapeError
        Unequal lengths, wrong ranks, positions or pixel sizes that are no lengths.
    """

    metadata: ProductMetadata
    scan_positions_m: NDArray[np.float64]
    object: NDArray[np.complexfloating]
    object_centre_m: NDArray[np.float64]
    object_pixel_size_m: NDArray[np.float64]
    probe: NDArray[np.complexfloating]
    probe_pixel_size_m: NDArray[np.float64] | None = None
    position_indexes: NDArray[np.int64] | None = None
    layer_spacing_m: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    opr_weights: NDArray[np.floating] | None = None
    photon_counts: NDArray[np.float64] | None = None
    loss_epochs: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    loss_values: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    def __post_init__(self) -> None:
        set_ = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731 - the class is frozen
        positions = checks.as_array("probe positions", self.scan_positions_m, "iuf", "real numbers")
        checks.require_shape("probe positions", positions, (None, 2), ("positions", "xy"))
        checks.require_finite("probe positions", positions)
        count = len(positions)
        if count == 0:
            raise ScanError("probe positions: the product has none, want at least one")
        set_("scan_positions_m", positions.astype(np.float64))
        index = np.arange(count) if self.position_indexes is None else self.position_indexes
        set_("position_indexes", checks.integer_vector("probe_position_indexes", index, count))
        set_("object", _stack("object", self.object, 3))
        set_("probe", _stack("probe", self.probe, 4))
        set_("layer_spacing_m", checks.real_vector("object_layer_spacing_m", self.layer_spacing_m))
        if len(self.layer_spacing_m) != len(self.object) - 1:
            raise ScanError(
                f"object_layer_spacing_m: got {len(self.layer_spacing_m)} spacings for {len(self.object)} "
                "layers, want one fewer than layers"
            )
        set_("object_centre_m", checks.real_vector("object centre", self.object_centre_m, 2))
        set_("object_pixel_size_m", _pixel_size("object", self.object_pixel_size_m))
        given = self.object_pixel_size_m if self.probe_pixel_size_m is None else self.probe_pixel_size_m
        set_("probe_pixel_size_m", _pixel_size("probe", given))
        if self.opr_weights is not None:
            weights = checks.as_array("opr_weights", self.opr_weights, "f", "real numbers")
            checks.require_shape("opr_weights", weights, (None, len(self.probe)), ("positions", "modes"))
        if self.photon_counts is not None:
            set_("photon_counts", checks.real_vector("probe_photon_counts", self.photon_counts, count))
        set_("loss_epochs", checks.integer_vector("loss_epochs", self.loss_epochs))
        values = checks.as_array("loss_values", self.loss_values, "iuf", "real numbers").astype(np.float64)
        checks.require_shape("loss_values", values, (len(self.loss_epochs),), ("losses",))
        set_("loss_values", values)

    def __len__(self) -> int:
        return len(self.scan_positions_m)

    @property
    def scan_positions_px(self) -> NDArray[np.float64]:
        """(M, 2) float64, `[x, y]` of each position in object pixels; the pixel `[i, j]` lies at y = i, x = j."""
        from_centre = (self.scan_positions_m - self.object_centre_m) / self.object_pixel_size_m
        return from_centre + middle_px(self.object)

    @property
    def pixel_size_m(self) -> float | None:
        """Side of an object pixel; None where pixels are not square."""
        width, height = self.object_pixel_size_m.tolist()
        return width if math.isclose(width, height, rel_tol=SQUARE) else None

    def with_reconstruction(
        self, reconstruction: Reconstruction, history: Sequence[EpochRecord] = ()
    ) -> "Product":
        """This product with another object, placed where its patches lie; all else is kept.

        Parameters
        ----------
        reconstruction : Reconstruction
            Of a scan whose positions are `scan_positions_px`. Pixels without a patch become 1, as in vacuum.
        history : sequence of EpochRecord
            Its training losses become the product's losses.
        """
        corner_m = self.object_centre_m - middle_px(self.object) * self.object_pixel_size_m
        return placed(self, corner_m, reconstruction, history)

    def __repr__(self) -> str:
        layers, height, width = self.object.shape
        coherent, incoherent, side = self.probe.shape[:3]
        return (
            f"Product({self.metadata.name!r}: {len(self)} positions, object {layers} x {height} x {width}, "
            f"probe {coherent} x {incoherent} modes of {side} pixels)"
        )


@dataclass(frozen=True, eq=False)
class Diffraction:
    """Patterns as Ptychodus assembles them (`diffraction.h5`): counts, zero frequency in the middle.

    Attributes
    ----------
    patterns : (M, N, N) real array
    indexes : (M,) int64
        Number of each pattern in the scan.
    bad_pixels : (N, N) bool
    detector_pixel_size_m : (2,) float64, [x, y], optional
        None where the file does not know it.
    """

    patterns: NDArray
    indexes: NDArray[np.int64]
    bad_pixels: NDArray[np.bool_]
    detector_pixel_size_m: NDArray[np.float64] | None = None


# --- files


def load_product(path: str | os.PathLike[str]) -> Product:
    """Read a Ptychodus product (`product.h5`).

    Raises
    ------
    ScanError, ShapeError
        If the file cannot be read, is damaged, lacks something, or holds values that `Product` refuses. The text
        names the file.
    """
    with DatasetFile(path) as file:
        attributes, of_object, of_probe = (file.attributes(name) for name in ("", "object", "probe"))
        positions = [file.array(f"probe_position_{axis}_m") for axis in "xy"]
        optional = {
            name: file.array(key) if key in file.names else None
            for name, key in (
                ("opr_weights", "opr_weights"),
                ("photon_counts", "probe_photon_counts"),
                ("layer_spacing_m", "object_layer_spacing_m"),
                ("loss_epochs", "loss_epochs"),
                ("loss_values", "loss_values" if "loss_values" in file.names else "costs"),
            )
        }
        indexes = file.array("probe_position_indexes")
        image, probe = file.array("object"), file.array("probe")
    # files of earlier versions have values alone
    if optional["loss_values"] is not None and optional["loss_epochs"] is None:
        optional["loss_epochs"] = np.arange(optional["loss_values"].size)
    try:
        if len(positions[0]) != len(positions[1]):
            raise ScanError(f"probe_position_y_m: got {len(positions[1])}, want {len(positions[0])} as of x")
        if {"pixel_width_m", "pixel_height_m"} <= set(of_probe):
            sides = _pair(of_probe, "probe", "pixel_width_m", "pixel_height_m")
            # early versions wrote 0 for unknown
            optional["probe_pixel_size_m"] = (
                sides if np.isfinite(sides).all() and (sides != 0).all() else None
            )
        return Product(
            metadata=_metadata(attributes),
            scan_positions_m=np.stack(positions, axis=-1),
            object=image,
            object_centre_m=_pair(of_object, "object", "center_x_m", "center_y_m"),
            object_pixel_size_m=_pair(of_object, "object", "pixel_width_m", "pixel_height_m"),
            probe=probe,
            position_indexes=indexes,
            **{name: value for name, value in optional.items() if value is not None},
        )
    except (ScanError, ShapeError) as error:
        raise type(error)(f"{path}: {error}") from error


def save_product(product: Product, path: str | os.PathLike[str]) -> Path:
    """Write `product` as Ptychodus does; atomically, so never half a file.

    Raises
    ------
    OutputError
        If the file cannot be written; an earlier file is untouched.
    """
    metadata = dataclasses.asdict(product.metadata)
    if metadata["polarization"] is None:
        del metadata["polarization"]
    assert product.probe_pixel_size_m is not None
    sides = ("pixel_width_m", "pixel_height_m")
    centre = zip(("center_x_m", "center_y_m"), product.object_centre_m.tolist(), strict=True)
    arrays = {
        "probe_position_indexes": product.position_indexes,
        "probe_position_x_m": product.scan_positions_m[:, 0],
        "probe_position_y_m": product.scan_positions_m[:, 1],
        "probe_photon_counts": product.photon_counts,
        "probe": product.probe,
        "opr_weights": product.opr_weights,
        "object": product.object,
        "object_layer_spacing_m": product.layer_spacing_m,
        "loss_epochs": product.loss_epochs,
        "loss_values": product.loss_values,
    }
    return write_datasets(
        path,
        {name: array for name, array in arrays.items() if array is not None},
        {
            "": metadata,
            "object": dict(centre) | dict(zip(sides, product.object_pixel_size_m.tolist(), strict=True)),
            "probe": dict(zip(sides, product.probe_pixel_size_m.tolist(), strict=True)),
        },
    )


def load_diffraction(path: str | os.PathLike[str]) -> Diffraction:
    """Read the patterns that Ptychodus assembled (`diffraction.h5`).

    Raises
    ------
    ScanError, ShapeError
        As `load_product`.
    """
    with DatasetFile(path) as file:
        attributes = file.attributes("patterns")
        patterns, indexes = file.array("patterns", sparse=True), file.array("indexes")
        # files of early versions have no mask
        bad = file.array("bad_pixels") if "bad_pixels" in file.names else np.zeros(patterns.shape[1:], bool)
    sides = np.array([attributes.get(f"detector_pixel_{side}_m", 0.0) for side in ("width", "height")])
    try:
        checks.require_shape("patterns", patterns, (None, None, None), ("patterns", "ky", "kx"))
        checks.require_shape("bad_pixels", bad, patterns.shape[1:], ("ky", "kx"))
        return Diffraction(
            patterns,
            checks.integer_vector("indexes", indexes, len(patterns)),
            bad.astype(bool),
            sides.astype(np.float64) if sides.dtype.kind in "iuf" and (sides > 0).all() else None,
        )
    except (ScanError, ShapeError) as error:
        raise type(error)(f"{path}: {error}") from error


# --- placing


def middle_px(image: NDArray) -> NDArray[np.float64]:
    """`[x, y]` of the middle of an image in its own pixels, which for an even side lies between two."""
    return (np.array(image.shape[-1:-3:-1]) - 1) / 2


def placed(
    product: Product,
    corner_m: NDArray[np.float64],
    reconstruction: Reconstruction,
    history: Sequence[EpochRecord],
) -> Product:
    """`product` with the reconstruction as its object; `corner_m` is where the scan's pixel [0, 0] lies."""
    image = np.where(reconstruction.coverage > 0, reconstruction.object, 1).astype(np.complex64)
    middle = np.asarray(reconstruction.origin_px) + middle_px(image) + PTYCHODUS_ANCHOR_PX
    return dataclasses.replace(
        product,
        object=image,
        object_centre_m=corner_m + middle * product.object_pixel_size_m,
        layer_spacing_m=np.empty(0),
        loss_epochs=np.array([record.epoch for record in history], np.int64),
        loss_values=np.array([record.train_loss for record in history], np.float64),
    )


# --- private


def _metadata(attributes: Mapping[str, Any]) -> ProductMetadata:
    # the names that earlier versions of Ptychodus wrote
    aliases = {"photon_energy_eV": "probe_energy_eV", "mass_attenuation_m2_per_kg": "mass_attenuation_m2_kg"}
    values: dict[str, Any] = {}
    for one in dataclasses.fields(ProductMetadata):
        key = one.name if one.name in attributes else aliases.get(one.name, one.name)
        if key not in attributes:
            if one.default is dataclasses.MISSING:
                raise ScanError(
                    f"{one.name} missing; the file has {', '.join(sorted(attributes)) or 'nothing'}"
                )
            continue
        value = attributes[key]
        if one.type is float and not isinstance(value, float | int):
            raise ScanError(f"{one.name}: got {value!r}, want a number")
        if one.type is float and math.isnan(value):
            # of what a program does not know; 0 means the same here
            value = 0.0
        values[one.name] = (
            bool(value) if one.type is bool else float(value) if one.type is float else str(value)
        )
    if values.get("polarization") not in (None, *POLARIZATIONS):
        log.warning("polarization: got %r, which is unknown; left out", values.pop("polarization"))
    return ProductMetadata(**values)


def _pair(attributes: Mapping[str, Any], owner: str, x: str, y: str) -> NDArray[np.float64]:
    missing = [name for name in (x, y) if not isinstance(attributes.get(name), float | int)]
    if missing:
        raise ScanError(f"{owner}: attribute {' and '.join(missing)} missing, want a number")
    return np.array([attributes[x], attributes[y]], np.float64)


def _stack(name: str, values: ArrayLike, rank: int) -> NDArray[np.complexfloating]:
    array = checks.as_array(name, values, "c", "complex numbers")
    if not 2 <= array.ndim <= rank:
        raise ShapeError(f"{name}: got {array.ndim} axes, want 2 to {rank}")
    array = array.reshape((1,) * (rank - array.ndim) + array.shape)
    if 0 in array.shape:
        raise ShapeError(f"{name}: got shape {array.shape}, want at least one pixel")
    return array


def _pixel_size(name: str, values: ArrayLike) -> NDArray[np.float64]:
    size = checks.real_vector(f"{name} pixel size", values, 2)
    if (size <= 0).any():
        raise ScanError(f"{name} pixel size: got {size.tolist()} m, want lengths > 0")
    return size


def _is_real(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
