"""Options of reading on the command line, `convert`, and formats that `simulate` writes."""

import numpy as np
import pytest
from typer.testing import CliRunner

from ptycho_backends import load_scan, save_scan
from ptycho_backends.cli.commands import app
from ptycho_backends.cli.reading import OPTIONS, Reading, as_quantity
from ptycho_backends.errors import ConfigError
from ptycho_backends.scans.simulate import simulate_star


@pytest.fixture(scope="module")
def scan():
    return simulate_star(64, 10, seed=2)


def ptycho(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.parametrize("command", ["train", "run", "infer", "refine", "inspect", "convert"])
def test_all_commands_have_them(command):
    output = ptycho(command, "--help")
    for name in ("--positions-unit", "--swap-xy", "--centre", "--dataset", "--mapped"):
        assert name in output


@pytest.mark.parametrize(
    ("text", "value"),
    [("75um", 75e-6), ("75 µm", 75e-6), ("1e-9", 1e-9), ("192 cm", 1.92), ("10NM", 1e-8), ("2 metres", 2)],
)
def test_quantities(text, value):
    assert as_quantity("distance", text) == pytest.approx(value)
    assert as_quantity("energy", "8.8keV") == pytest.approx(8800)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"energy": "8 parsecs"}, "energy: got '8 parsecs'"),
        ({"energy": "8 um"}, "energy: got '8 um', want a number, with a unit (eV, keV)"),
        ({"distance": "8 keV"}, "distance: got '8 keV', want a number, with a unit (m, cm"),
        ({"distance": "far"}, "distance: got 'far'"),
        ({"centre": "3"}, "centre: got '3', want 'auto' or row,column"),
        ({"dataset": ["patterns"]}, "dataset: got 'patterns', want PART=PATH"),
        ({"detector_pixel": "1um,2um,3um"}, "detector_pixel_m"),
        ({"size": 63}, "size: got 63, want an even number"),
    ],
)
def test_impossible_options(given, words):
    with pytest.raises(ConfigError) as error:
        _ = Reading(given).options
    assert words in str(error.value)


def test_words_repeat_the_command():
    given = {name: default for name, (_, default) in OPTIONS.items()}
    assert Reading(given).words == ""
    given |= {"swap_xy": True, "shift": False, "size": 32, "dataset": ["x=/a b", "y=/c"], "energy": "8keV"}
    assert Reading(given).words == (
        " --energy 8keV --swap-xy --no-shift --size 32 --dataset 'x=/a b' --dataset y=/c"
    )


def test_convert_with_the_lengths_that_a_scan_lacks(scan, tmp_path):
    path = save_scan(scan, tmp_path / "scan.npz")
    lengths = ("--energy", "8.8keV", "--distance", "2m", "--pixel-size", "10nm")
    for suffix in ("cxi", "nxs", "ptyd", "h5"):
        out = tmp_path / f"out.{suffix}"
        assert f"wrote {out}: 10 patterns" in ptycho("convert", path, out, *lengths)
        got = load_scan(out)
        assert got.pixel_size_m == pytest.approx(1e-8, rel=1e-6)
        np.testing.assert_array_equal(np.asarray(got.patterns), np.asarray(scan.patterns))
    assert "--pixel-size and --energy and --distance" in ptycho("convert", path, tmp_path / "x.cxi", code=2)
    assert "which is the scan itself" in ptycho("convert", path, path, code=2)
    assert "want scans to read and a file or folder" in ptycho("convert", path, code=2)


def test_convert_a_folder(scan, tmp_path):
    for name in ("one", "two"):
        save_scan(scan, tmp_path / "in" / f"{name}.npz")
    ptycho("convert", tmp_path / "in", tmp_path / "out", "--size", 32, "--uncompressed", "-q")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.npz")) == ["one.npz", "two.npz"]
    assert load_scan(tmp_path / "out" / "two.npz", mapped=True).N == 32


def test_inspect_tells_the_sources(scan, tmp_path):
    path = save_scan(scan, tmp_path / "scan.npz")
    output = ptycho("inspect", path, "--bin", 2, "--flip-x")
    assert "10 of 32 x 32 pixels" in output
    for words in ("positions: xcoords, ycoords", "2 x 2 pixels summed", "x reversed"):
        assert words in output


def test_simulate_other_formats(tmp_path):
    options = ("--positions", 8, "--energy", "8keV", "--distance", "1m", "--pixel-size", "10nm", "-q")
    for suffix in ("cxi", "ptyd"):
        ptycho("simulate", tmp_path / f"scan.{suffix}", *options)
        assert len(load_scan(tmp_path / f"scan.{suffix}")) == 8
    ptycho("simulate", tmp_path / "scan.npz", *options, "--mapped")
    assert load_scan(tmp_path / "scan.npz", mapped=True).photon_energy_eV == 8000
