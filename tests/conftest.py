"""What several test modules share."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real scans and genuine archives: `PTYCHO_SHARED`, or `../shared`."""
    named = os.environ.get("PTYCHO_SHARED")
    folder = Path(named) if named else REPOSITORY.parent / "shared"
    if folder.is_dir():
        return folder
    if named:
        pytest.fail(f"PTYCHO_SHARED names {folder}, which is not there")
    pytest.skip(f"no {folder}; set PTYCHO_SHARED to the folder with scans and archives")
