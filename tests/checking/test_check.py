"""Findings of `check_scan`: each fault by its name and with its cure, and nothing about a sound scan."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from ptycho_backends.checking import check_scan, cured, require_sound
from ptycho_backends.checking.facts import circular_centre
from ptycho_backends.checking.pairing import Likeness, likely_orders
from ptycho_backends.checking.picture import save_check_figure, save_scan_figure
from ptycho_backends.errors import ScanError
from ptycho_backends.scans.scan_files import load_scan
from ptycho_backends.scans.scan_options import ScanOptions
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.testing.scan_faults import FAULTS

DATA = Path(os.environ.get("PTYCHO_SHARED", Path(__file__).parents[3] / "shared"), "data")

# All of benchmarks/check_table.py take minutes.
SAMPLE = (
    ("swapped axes", "w235_n64"),
    ("flipped x", "siemens_star_64"),
    ("flipped y", "w235_n64"),
    ("transposed detector", "sim_n64_test"),
    ("unshifted", "w235_n64"),
    ("amplitude as counts", "siemens_star_64"),
    ("positions in um", "sim_n64_test"),
    ("shuffled frames", "sim_n64_test"),
    ("hot pixel", "w235_n64"),
    ("detector pixel 20 % too large", "w235_n64"),
    ("probe in the corner", "siemens_star_64"),
)


def measured(name):
    path = DATA / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"{path} is not here; PTYCHO_SHARED names the folder that holds data/")
    return load_scan(path)


@pytest.fixture(scope="module")
def star():
    return simulate_star(64, 60, n_photons=1e5, seed=0)


def names(findings):
    return [finding.name for finding in findings]


@pytest.mark.parametrize("name", ["siemens_star_64", "w235_n64", "sim_n64_test"])
def test_nothing_is_said_about_a_sound_scan(name):
    assert check_scan(measured(name)) == []


@pytest.mark.parametrize(("fault", "name"), SAMPLE)
def test_a_fault_is_found_and_its_cure_mends_it(fault, name):
    fault = FAULTS[fault]
    spoilt = fault.spoil(measured(name))
    (finding,) = check_scan(spoilt)
    assert finding.name == fault.finding
    assert finding.cure.options.startswith(fault.cure)
    if finding.cure.changes:
        assert check_scan(cured(spoilt, [finding])) == []


@pytest.mark.parametrize(
    "fault",
    [
        "counts as amplitude", "amplitude as counts", "one stray", "duplicates", "hot pixel", "unshifted",
        "probe in the corner", "positions in m", "positions in nm",
    ],
)  # fmt: skip
def test_numbers_alone_tell_these(star, fault):
    fault = FAULTS[fault]
    assert check_scan(star, trials=False) == []
    (finding,) = check_scan(fault.spoil(star), trials=False)
    assert finding.name == fault.finding
    assert finding.cure.options.startswith(fault.cure)
    assert check_scan(cured(fault.spoil(star), [finding]), trials=False) == []


@pytest.mark.parametrize("far", [1e4, 1e8])
def test_a_stray_is_a_stray_however_far_it_lies(star, far):
    x = star.xcoords.copy()
    x[7] = far
    spoilt = dataclasses.replace(star, xcoords=x, object_guess=None, object_mask=None)
    findings = check_scan(spoilt, trials=False)
    assert "strays" in names(findings)
    assert "positions_unit" not in names(findings)
    assert check_scan(cured(spoilt, findings), trials=False) == []


def test_two_faults_at_once(star):
    spoilt = FAULTS["hot pixel"].spoil(FAULTS["one stray"].spoil(star))
    findings = check_scan(spoilt, trials=False)
    assert sorted(names(findings)) == ["hot_pixels", "strays"]
    assert check_scan(cured(spoilt, findings), trials=False) == []


def test_positions_in_an_unknown_unit_are_named_without_the_pixel_size(star):
    spoilt = dataclasses.replace(
        star, xcoords=star.xcoords * 1e-8, ycoords=star.ycoords * 1e-8, pixel_size_m=None
    )
    (finding,) = check_scan(dataclasses.replace(spoilt, object_guess=None, object_mask=None))
    assert finding.name == "positions_unit"
    assert finding.is_error
    assert "--pixel-size" in finding.cure.options


def test_patterns_off_their_middle(star):
    moved = np.roll(np.asarray(star.patterns), (9, -7), (1, 2))
    (finding,) = check_scan(dataclasses.replace(star, patterns=moved), trials=False)
    assert finding.name == "off_centre"
    row, column = map(int, finding.cure.options.split()[1].split(","))
    assert (abs(row - 41), abs(column - 25)) <= (1, 1)


def test_empty_dead_and_saturated(star):
    patterns = np.asarray(star.patterns).copy()
    patterns[[4, 9]] = 0
    (finding,) = check_scan(dataclasses.replace(star, patterns=patterns), trials=False)
    assert (finding.name, finding.cure.options) == ("empty_frames", "--leave-out 4,9")

    mean = np.asarray(star.patterns).mean(axis=0)
    row, column = np.unravel_index(np.argmax(mean), mean.shape)
    patterns = np.asarray(star.patterns).copy()
    patterns[:, row, column] = 0
    (finding,) = check_scan(dataclasses.replace(star, patterns=patterns), trials=False)
    assert finding.name == "dead_pixels"
    assert f"[{row}, {column}]" in finding.evidence

    patterns = np.minimum(np.asarray(star.patterns), int(np.asarray(star.patterns).max() * 0.4))
    assert names(check_scan(dataclasses.replace(star, patterns=patterns), trials=False)) == ["saturated"]
    nothing = dataclasses.replace(star, patterns=np.zeros_like(patterns))
    assert names(check_scan(nothing)) == ["empty"]


def test_labels_outside_the_object(star):
    moved = dataclasses.replace(star, xcoords=star.xcoords + 1000)
    (finding,) = check_scan(moved, trials=False)
    assert finding.name == "labels"
    assert "60 of 60" in finding.text


def test_a_wrong_detector_pixel_is_named_by_the_option_that_gave_it():
    spoilt = FAULTS["detector pixel 20 % too large"].spoil(measured("w235_n64"))
    (finding,) = check_scan(spoilt, options=ScanOptions(detector_pixel_m=90e-6))
    assert finding.cure.options.startswith("--detector-pixel 7.")


def test_frames_in_a_known_order_are_put_right():
    scan = measured("sim_n64_test")
    patterns = np.asarray(scan.patterns)
    by_text = np.argsort(np.arange(len(scan)).astype(str))
    spoilt = dataclasses.replace(scan, patterns=patterns[by_text])
    (finding,) = check_scan(spoilt)
    assert finding.name == "shuffled_frames"
    assert "not of texts" in str(finding)
    assert check_scan(cured(spoilt, [finding])) == []


def test_neighbours_are_alike():
    scan = measured("sim_n64_test")
    likeness = Likeness(scan)
    assert likeness.is_significant(likeness.rank())
    assert not likeness.is_significant(likeness.rank(np.random.default_rng(0).permutation(len(scan))))
    for order in likely_orders(scan).values():
        assert sorted(order) == list(range(len(scan)))


def test_what_is_certainly_wrong_is_refused_before_training(star, caplog):
    require_sound(star)
    with pytest.raises(ScanError, match=r"--shift.*--no-check"):
        require_sound(FAULTS["unshifted"].spoil(star))
    assert not caplog.records
    require_sound(FAULTS["one stray"].spoil(star))
    assert "--leave-out" in caplog.text


def test_centre_of_mass_on_a_torus():
    image = np.zeros((8, 8))
    image[0, 3] = 1.0
    assert circular_centre(image) == pytest.approx([-1, -4]) or circular_centre(image) == pytest.approx(
        [-1, 4]
    )


def test_pictures(star, tmp_path):
    spoilt = FAULTS["hot pixel"].spoil(star)
    assert (
        save_check_figure(spoilt, check_scan(spoilt, trials=False), tmp_path / "check.png").stat().st_size
        > 10_000
    )
    assert save_scan_figure(star, tmp_path / "scan.png").stat().st_size > 10_000
