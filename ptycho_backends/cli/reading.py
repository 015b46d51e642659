"""The options of reading scans, which all commands that take one share."""

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from ptycho_backends.cli.groups import OptionGroup, Options
from ptycho_backends.cli.options import READING_PANEL, option
from ptycho_backends.errors import ConfigError

if TYPE_CHECKING:
    from ptycho_backends.scans.scan_options import ScanOptions


def _reading_option(*names: str, **settings: Any) -> Any:
    return option(*names, panel=READING_PANEL, **settings)


OPTIONS: Options = {
    "measurement": (
        Annotated[
            str,
            _reading_option(
                "--measurement",
                help="What the patterns hold: amplitude, intensity (counts), or auto: whole numbers are counts.",
            ),
        ],
        "auto",
    ),
    "mapped": (
        Annotated[
            bool,
            _reading_option(
                "--mapped",
                help="Leave the patterns in the file and read them as they are needed, for scans larger than the "
                "memory; NPZ must hold them uncompressed.",
            ),
        ],
        False,
    ),
    "verify": (
        Annotated[
            bool,
            _reading_option(
                "--verify",
                help="First compare the whole file with its digest, SCAN.sha256, or with the checksums in an NPZ file.",
            ),
        ],
        False,
    ),
    "mask": (
        Annotated[
            Path | None,
            _reading_option(
                "--mask",
                help="NPY file of the detector's mask: True or not zero where a pixel is valid. A mask in the scan's "
                "own file counts too.",
                metavar="FILE.npy",
            ),
        ],
        None,
    ),
    "positions_unit": (
        Annotated[
            str | None,
            _reading_option(
                "--positions-unit", help="Of the positions in the file.", metavar="m|mm|um|nm|px"
            ),
        ],
        None,
    ),
    "energy": (
        Annotated[
            str | None,
            _reading_option("--energy", help="Of the photons, as 8800 (eV) or 8.8keV.", metavar="ENERGY"),
        ],
        None,
    ),
    "distance": (
        Annotated[
            str | None,
            _reading_option(
                "--distance", help="From sample to detector, as 1.92 (m) or 192cm.", metavar="LENGTH"
            ),
        ],
        None,
    ),
    "detector_pixel": (
        Annotated[
            str | None,
            _reading_option(
                "--detector-pixel",
                help="Side of a detector pixel, as 75um; or two, x,y.",
                metavar="LENGTH",
            ),
        ],
        None,
    ),
    "pixel_size": (
        Annotated[
            str | None,
            _reading_option(
                "--pixel-size",
                help="Side of an object pixel of the patterns as they are in the file, as 10nm.",
                metavar="LENGTH",
            ),
        ],
        None,
    ),
    "swap_xy": (
        Annotated[bool, _reading_option("--swap-xy", help="Exchange x and y of the positions.")],
        False,
    ),
    "flip_x": (Annotated[bool, _reading_option("--flip-x", help="Reverse x of the positions.")], False),
    "flip_y": (Annotated[bool, _reading_option("--flip-y", help="Reverse y of the positions.")], False),
    "transpose": (
        Annotated[bool, _reading_option("--transpose", help="Exchange rows and columns of the patterns.")],
        False,
    ),
    "shift": (
        Annotated[
            bool | None,
            _reading_option(
                "--shift/--no-shift", help="The zero frequency of the patterns is in the corner, or is not."
            ),
        ],
        None,
    ),
    "size": (
        Annotated[
            int | None,
            _reading_option(
                "--size", help="Side of the patterns: a part around the centre, or zeros around all."
            ),
        ],
        None,
    ),
    "bin": (
        Annotated[int, _reading_option("--bin", help="Side of the squares of pixels that are summed.")],
        1,
    ),
    "centre": (
        Annotated[
            str | None,
            _reading_option(
                "--centre",
                help="Pixel of the zero frequency, row,column; or auto, the centre of mass.",
                metavar="auto|KY,KX",
            ),
        ],
        None,
    ),
    "anchor": (
        Annotated[
            str | None,
            _reading_option(
                "--anchor", help="Point of a patch that a position names.", metavar="centre|corner"
            ),
        ],
        None,
    ),
    "background": (
        Annotated[
            str | None,
            _reading_option(
                "--background",
                help="Counts to subtract: a number, or an NPY file of a dark frame.",
                metavar="COUNTS|FILE.npy",
            ),
        ],
        None,
    ),
    "threshold": (
        Annotated[float | None, _reading_option("--threshold", help="Values below it become 0.")],
        None,
    ),
    "positions_from": (
        Annotated[
            str | None,
            _reading_option(
                "--positions-from",
                help="Other file of the positions: CSV, text, NPY, or HDF5 as FILE:DATASET.",
                metavar="FILE",
            ),
        ],
        None,
    ),
    "patterns_from": (
        Annotated[
            str | None,
            _reading_option(
                "--patterns-from",
                help="Other file of the patterns: diffraction.h5 of a product, .ptyd of a .ptyr.",
                metavar="FILE",
            ),
        ],
        None,
    ),
    "dataset": (
        Annotated[
            list[str] | None,
            _reading_option(
                "--dataset",
                help="Place of a part in the file, as patterns=/entry/data or positions=/xy; may be repeated.",
                metavar="PART=PATH",
            ),
        ],
        None,
    ),
    "leave_out": (
        Annotated[
            str | None,
            _reading_option(
                "--leave-out",
                help="Numbers of positions to leave out with their patterns, counted from 0.",
                metavar="7,12",
            ),
        ],
        None,
    ),
    "scale_positions": (
        Annotated[
            float | None,
            _reading_option("--scale-positions", help="Multiply the positions, about their middle."),
        ],
        None,
    ),
    "centre_probe": (
        Annotated[
            bool, _reading_option("--centre-probe", help="Move the probe from the corner to the middle.")
        ],
        False,
    ),
}
"""Type with the option's texts, and default, by the name of the parameter."""


@dataclass(frozen=True)
class Reading(OptionGroup):
    """How to read the scans of a command: the options as they were given."""

    given: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def option_types(cls) -> Options:
        return OPTIONS

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        return cls(values)

    @property
    def measurement(self) -> str:
        return str(self.given.get("measurement", "auto"))

    @property
    def mapped(self) -> bool:
        return bool(self.given.get("mapped", False))

    @property
    def verify(self) -> bool:
        return bool(self.given.get("verify", False))

    @property
    def mask(self) -> Path | None:
        return self.given.get("mask")

    @property
    def options(self) -> "ScanOptions":
        """The options as `load_scan` takes them.

        Raises
        ------
        ConfigError
            If a text is no number with a unit, or no pair.
        """
        from ptycho_backends.scans.scan_options import ScanOptions  # late, for --help

        given = {name: value for name, value in self.given.items() if value not in (None, [])}
        values: dict[str, Any] = {
            name: given[name]
            for name in (
                "positions_unit", "swap_xy", "flip_x", "flip_y", "transpose", "shift", "size", "bin", "anchor",
                "background", "threshold", "positions_from", "patterns_from",
            )
            if name in given
        }  # fmt: skip
        for name, target in (
            ("energy", "energy_eV"),
            ("distance", "distance_m"),
            ("pixel_size", "pixel_size_m"),
        ):
            if name in given:
                values[target] = as_quantity(name, given[name])
        if "detector_pixel" in given:
            sides = [as_quantity("detector_pixel", part) for part in given["detector_pixel"].split(",")]
            values["detector_pixel_m"] = sides[0] if len(sides) == 1 else tuple(sides)
        if "centre" in given:
            values["centre"] = given["centre"] if given["centre"] == "auto" else _as_pixel(given["centre"])
        if "dataset" in given:
            wrong = [one for one in given["dataset"] if "=" not in one]
            if wrong:
                raise ConfigError(f"dataset: got {wrong[0]!r}, want PART=PATH")
            values["datasets"] = dict(one.split("=", 1) for one in given["dataset"])
        return ScanOptions(**values)

    @property
    def changes(self) -> dict[str, Any]:
        """Changes of the scan once it is read, as `checking.cures.CHANGES` names them.

        Raises
        ------
        ConfigError
            If `--leave-out` is no list of numbers, or the scale no number above 0.
        """
        found: dict[str, Any] = {}
        numbers, scale = self.given.get("leave_out"), self.given.get("scale_positions")
        if numbers is not None:
            if not re.fullmatch(r"\s*\d+(\s*,\s*\d+)*\s*", numbers):
                raise ConfigError(f"leave_out: got {numbers!r}, want numbers of positions, as in 7,12")
            found["leave_out"] = tuple(int(number) for number in numbers.split(","))
        if scale is not None:
            if not 0 < scale < float("inf"):
                raise ConfigError(f"scale_positions: got {scale}, want a number > 0")
            found["scale_positions"] = scale
        if self.given.get("centre_probe"):
            found["centre_probe"] = True
        return found

    @property
    def words(self) -> str:
        """The options as they are typed, to repeat a command with them; '' without any."""
        words: list[str] = []
        for name, value in self.given.items():
            if value == OPTIONS[name][1]:
                continue
            flag = f"--{name.replace('_', '-')}"
            for one in value if isinstance(value, list) else [value]:
                negated = f"--no-{name}" if one is False else flag
                words += [negated] if isinstance(one, bool) else [flag, str(one)]
        return "".join(f" {shlex.quote(word)}" for word in words)


READ_AS_IT_IS = Reading()


def as_quantity(name: str, text: str) -> float:
    """Number in eV or metres of a text like `8.8keV`, `75um` or `0.5`.

    Raises
    ------
    ConfigError
    """
    from ptycho_backends.scans.scan_options import unit_factor  # late, for --help

    match = re.fullmatch(r"\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*([A-Za-zµμÅå]*)\s*", text)
    factor = 1.0 if match and not match[2] else unit_factor(match[2], name == "energy") if match else None
    if match is None or factor is None:
        units = "eV, keV" if name == "energy" else "m, cm, mm, um, nm"
        raise ConfigError(f"{name}: got {text!r}, want a number, with a unit ({units}) or without")
    try:
        return float(match[1]) * factor
    except ValueError as error:
        raise ConfigError(f"{name}: got {text!r}, want a number") from error


def _as_pixel(text: str) -> tuple[float, float]:
    try:
        ky, kx = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"centre: got {text!r}, want 'auto' or row,column") from error
    return ky, kx


def experiment_of(energy: str | None, distance: str | None, pixel_size: str | None) -> dict[str, float]:
    """Fields of a scan that were given, as texts with units."""
    given = {"photon_energy_eV": energy, "detector_distance_m": distance, "pixel_size_m": pixel_size}
    names = {"photon_energy_eV": "energy", "detector_distance_m": "distance", "pixel_size_m": "pixel_size"}
    return {name: as_quantity(names[name], text) for name, text in given.items() if text is not None}
