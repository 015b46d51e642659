"""A folder: images as frames of one scan, or a single scan among other files."""

import re
from pathlib import Path

from ptycho_backends.errors import ScanError
from ptycho_backends.files.file_kind import kind_of
from ptycho_backends.files.tiff_file import tiff_patterns
from ptycho_backends.scans.raw_scan import RawScan
from ptycho_backends.scans.readers.positions import add_positions_beside
from ptycho_backends.scans.readers.source import Source

TIFF_SUFFIXES = (".tif", ".tiff")
# Suffixes of files that may be scans by themselves; their content is looked at afterwards.
SCAN_SUFFIXES = (
    ".npz",
    ".h5",
    ".hdf5",
    ".cxi",
    ".nxs",
    ".ptyd",
    ".mat",
    ".npy",
    ".bz2",
    ".gz",
    ".xz",
    *TIFF_SUFFIXES,
)


def recognises(source: Source) -> bool:
    return source.kind == "folder" and bool(_images(source.path))


def read(source: Source) -> RawScan:
    paths = _images(source.path)
    patterns = tiff_patterns(paths, source.stays)
    raw = RawScan(format="folder of TIFF", name=source.path.name, patterns=patterns)
    raw.took("patterns", f"{len(paths)} TIFF files, {paths[0].name} .. {paths[-1].name}")
    add_positions_beside(raw, source, source.path, source.path.name)
    return raw


def scans_of_folder(folder: Path) -> list[Path]:
    """Files of a folder that may be scans, by name; the folder itself where its files are images of one scan.

    Raises
    ------
    ScanError
        If there is none.
    """
    if _images(folder):
        return [folder]
    named = [path for path in _natural(folder) if path.suffix.lower() in SCAN_SUFFIXES]
    found = [path for path in named if not _belongs_to_another(path) and kind_of(path) is not None]
    if not found:
        raise ScanError(f"{folder}: a folder without images and without scans ({', '.join(SCAN_SUFFIXES)})")
    return found


def only_scan(folder: Path) -> Path:
    """The one scan in a folder, which is the folder itself if its files are images.

    Raises
    ------
    ScanError
        If there is none, or several.
    """
    found = scans_of_folder(folder)
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:5]) + (", ..." if len(found) > 5 else "")
        raise ScanError(f"{folder}: a folder of {len(found)} scans, {names}; name one of them")
    return found[0]


def _belongs_to_another(path: Path) -> bool:
    """Recognise the files that a scan beside them is made of: frames of Eiger, patterns of a product, and others."""
    beside = path.with_name
    partners = [
        beside(re.sub(r"_data_\d+$", "_master", path.stem) + path.suffix),
        beside(path.name.replace("_para.", "_dp.")),
        path.with_suffix(".ptyr"),
        *([beside("product.h5")] if path.name in ("diffraction.h5", "diffraction.hdf5") else []),
    ]
    return any(partner != path and partner.is_file() for partner in partners)


def _images(folder: Path) -> list[Path]:
    """TIFF files of a folder in the order of their numbers, if there are several."""
    found = [path for path in _natural(folder) if path.suffix.lower() in TIFF_SUFFIXES]
    return found if len(found) > 1 else []


def _natural(folder: Path) -> list[Path]:
    """Plain files by name, 2 before 10."""

    def key(path: Path) -> list[tuple[int, int, str]]:
        parts = re.split(r"(\d+)", path.name)
        return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]

    return sorted(
        (path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")), key=key
    )
