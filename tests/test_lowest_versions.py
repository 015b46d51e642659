"""`constraints-lowest.txt` pins the lower bounds of `pyproject.toml`, so that `nox -s lowest` tests them."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

REPOSITORY = Path(__file__).resolve().parents[1]


def test_every_lower_bound_is_tested() -> None:
    lines = (REPOSITORY / "constraints-lowest.txt").read_text().splitlines()
    pins = [Requirement(line.partition("#")[0]) for line in lines if line.partition("#")[0].strip()]
    pinned = {pin.name: Version(next(iter(pin.specifier)).version) for pin in pins}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    bounds = {
        wanted.name: Version(part.version)
        for wanted in map(Requirement, project["dependencies"])
        for part in wanted.specifier
        if part.operator == ">="
    }
    assert bounds
    assert {name: pinned.get(name) for name in bounds} == bounds
