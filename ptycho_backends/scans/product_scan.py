"""Scans from Ptychodus products, and products from scans and their reconstructions."""

import dataclasses
import logging
import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_backends.errors import ScanError
from ptycho_backends.scans.product import (
    Diffraction,
    Product,
    ProductMetadata,
    load_diffraction,
    middle_px,
    placed,
)
from ptycho_backends.scans.scan import Scan, known_object
from ptycho_backends.values import EpochRecord, Reconstruction

log = logging.getLogger(__name__)


def scan_from_product(
    product: Product,
    diffraction: Diffraction | ArrayLike | str | os.PathLike[str],
    *,
    measurement: str = "intensity",
) -> Scan:
    """Positions, probe and object of a product with patterns from elsewhere, as a scan.

    Parameters
    ----------
    product : Product
    diffraction : Diffraction, path, or (M, N, N) array
        A `diffraction.h5`, or the result of `load_diffraction`; patterns and positions are then paired by
        their indexes as Ptychodus does it: positions of one index are averaged, missing ones interpolated,
        patterns outside the range of the positions left out, and bad pixels filled from their neighbours.
        An array has one pattern for each position, in their order.
    measurement : {'intensity', 'amplitude', 'auto'}
        Content of the patterns; with Ptychodus always counts.

    Returns
    -------
    Scan
        `object_guess` is the first layer of the object, and None where that is 1 everywhere, Ptychodus's
        sign for an unknown object. `probe_modes` are all of the product's first probe.

    Raises
    ------
    ScanError, ShapeError
    """
    if isinstance(diffraction, str | os.PathLike):
        diffraction = load_diffraction(diffraction)
    positions, index = product.scan_positions_px, product.position_indexes
    if isinstance(diffraction, Diffraction):
        keep, positions = _paired(product, diffraction.indexes)
        patterns = filled(diffraction.patterns[keep], diffraction.bad_pixels)
        valid = ~diffraction.bad_pixels
        index = diffraction.indexes[keep]
    else:
        patterns, valid = np.asarray(diffraction), None
    if product.pixel_size_m is None:
        log.warning(
            "pixel_size_m: object pixels of %s m are not square; left out", product.object_pixel_size_m
        )
    return Scan(
        xcoords=positions[:, 0],
        ycoords=positions[:, 1],
        patterns=patterns,
        probe_guess=product.probe[0],
        object_guess=known_object(product.object[0]),
        measurement=measurement,
        scan_index=index,
        pixel_size_m=product.pixel_size_m,
        photon_energy_eV=product.metadata.photon_energy_eV or None,
        detector_distance_m=product.metadata.detector_object_distance_m or None,
        name=product.metadata.name or "product",
        valid_pixels=valid,
    )


def product_from_scan(scan: Scan, metadata: ProductMetadata | None = None) -> Product:
    """A product with the positions, the probe and the object of `scan`.

    Parameters
    ----------
    scan : Scan
        Its `pixel_size_m` must be known. Without an object the product's is 1 everywhere, the bounding box of
        the positions and one patch large; without a probe it is the library's default one.
    metadata : ProductMetadata, optional
        Default: made of the scan's `photon_energy_eV` and `detector_distance_m`, which must then be known.

    Raises
    ------
    ScanError
        Names everything that is not known.
    """
    wanted = (
        ["pixel_size_m"]
        if metadata is not None
        else ["pixel_size_m", "photon_energy_eV", "detector_distance_m"]
    )
    missing = [name for name in wanted if getattr(scan, name) is None]
    if missing:
        raise ScanError(
            f"{scan.name}: a Ptychodus product needs {', '.join(missing)}, which the scan does not hold; add "
            "entries of these names to its NPZ file, or use Ptychodus's training-data HDF5, which has them"
        )
    if metadata is None:
        metadata = ProductMetadata(
            detector_object_distance_m=float(scan.detector_distance_m or 0),
            photon_energy_eV=float(scan.photon_energy_eV or 0),
            name=scan.name,
            probe_photon_count=float(scan.pattern_energies.mean()) / scan.lit_fraction,
        )
    pixel = np.full(2, float(scan.pixel_size_m or 0))
    image, corner_px = object_canvas(scan)
    return Product(
        metadata=metadata,
        # the world's origin is where the scan's is
        scan_positions_m=scan.scan_positions_px * pixel,
        object=image,
        object_centre_m=(corner_px + middle_px(image)) * pixel,
        object_pixel_size_m=pixel,
        probe=_probe_of(scan),
        position_indexes=scan.scan_index,
    )


def product_from_reconstruction(
    reconstruction: Reconstruction,
    scan: Scan,
    metadata: ProductMetadata | None = None,
    history: Sequence[EpochRecord] = (),
) -> Product:
    """`product_from_scan`, with `reconstruction` as its object.

    A refined image brings its probe modes and its positions, those of the frames that were used. Where the scan
    came from a product, `Product.with_reconstruction` keeps more of that one.
    """
    product = product_from_scan(scan, metadata)
    if reconstruction.probe_modes is not None:
        product = dataclasses.replace(product, probe=reconstruction.probe_modes)
    if reconstruction.positions_px is not None and reconstruction.positions_used is not None:
        product = dataclasses.replace(
            product,
            scan_positions_m=reconstruction.positions_px * product.object_pixel_size_m,
            position_indexes=np.asarray(scan.scan_index)[reconstruction.positions_used],
        )
    return placed(product, np.zeros(2), reconstruction, history)


def object_canvas(scan: Scan) -> tuple[NDArray[np.complex64], NDArray[np.float64]]:
    """The scan's object, and the coordinates `[x, y]` of its pixel `[0, 0]`.

    Without an object, a canvas of ones, as large as the bounding box of the positions and one patch, with its
    middle in the middle of the positions: so Ptychodus makes it.
    """
    if scan.object_guess is not None:
        return scan.object_guess, np.zeros(2)
    low, high = scan.scan_positions_px.min(axis=0), scan.scan_positions_px.max(axis=0)
    width, height = (np.ceil(high - low).astype(int) + scan.N).tolist()
    image = np.ones((height, width), np.complex64)
    return image, (low + high) / 2 - middle_px(image)


def filled(patterns: NDArray, bad_pixels: NDArray[np.bool_]) -> NDArray:
    """(M, N, N) patterns, bad pixels filled smoothly from their neighbours, in the patterns' dtype.

    References
    ----------
    Damelin and Hoang 2018, biharmonic inpainting; as Ptychodus exports its patterns.
    """
    if not bad_pixels.any():
        return patterns
    from skimage.restoration import inpaint_biharmonic

    channels_last = np.moveaxis(patterns, 0, -1).astype(np.float64)
    whole = np.moveaxis(inpaint_biharmonic(channels_last, bad_pixels, channel_axis=-1), -1, 0)
    if patterns.dtype.kind in "iu":
        limits = np.iinfo(patterns.dtype)
        whole = np.clip(np.rint(whole), limits.min, limits.max)
    return whole.astype(patterns.dtype)


def _probe_of(scan: Scan) -> NDArray[np.complex64]:
    if scan.probe_modes is not None:
        return scan.probe_modes
    from ptycho_backends.reference.probe import default_probe  # late: SciPy is slow to import

    return default_probe(scan.N)


def _paired(product: Product, indexes: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Numbers of the patterns that have a position, and those positions in object pixels."""
    anchors, inverse = np.unique(np.asarray(product.position_indexes), return_inverse=True)
    keep = np.flatnonzero((indexes >= anchors[0]) & (indexes <= anchors[-1]))
    if len(keep) == 0:
        raise ScanError(
            f"indexes: got patterns {indexes.min()} .. {indexes.max()} for positions {anchors[0]} .. "
            f"{anchors[-1]}; want some in common"
            if len(indexes)
            else "indexes: got no patterns"
        )
    counts = np.bincount(inverse)
    means = [np.bincount(inverse, weights=column) / counts for column in product.scan_positions_px.T]
    lost = len(indexes) - len(keep)
    between = int(np.count_nonzero(~np.isin(indexes[keep], anchors)))
    if lost or between or len(anchors) < len(product):
        log.warning(
            "positions: %d patterns without one are left out, %d lie between two and are interpolated, "
            "%d positions share an index and are averaged", lost, between, len(product) - len(anchors),
        )  # fmt: skip
    return keep, np.stack([np.interp(indexes[keep], anchors, mean) for mean in means], axis=-1)
