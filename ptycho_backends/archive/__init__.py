"""One file for a trained model: this library's archive, Lightning's checkpoint, PtychoPINN's archive."""

from ptycho_backends.archive.members import ArchiveContents
from ptycho_backends.archive.model_file import (
    FORMAT,
    MODELS,
    VERSION,
    ArchiveSummary,
    Manifest,
    inspect_archive,
    is_genuine,
    load_archive,
    save_archive,
)

__all__ = [
    "FORMAT",
    "MODELS",
    "VERSION",
    "ArchiveContents",
    "ArchiveSummary",
    "Manifest",
    "inspect_archive",
    "is_genuine",
    "load_archive",
    "save_archive",
]
