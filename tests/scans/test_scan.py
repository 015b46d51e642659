"""Scans: the NPZ contract, refusals, amplitude or counts, probe modes."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ptycho_backends.config import ModelConfig, TrainingConfig, with_side
from ptycho_backends.errors import ConfigError, OutputError, PtychoBackendsError, ScanError, ShapeError
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.scan_files import load_scan, save_scan

M, N = 5, 16


def entries(**changes: Any) -> dict[str, Any]:
    """A complete scan under its NPZ names; a change to None leaves the entry out."""
    generator = np.random.default_rng(0)
    complete = {
        "xcoords": generator.uniform(10, 30, M),
        "ycoords": generator.uniform(10, 30, M),
        "diff3d": generator.poisson(5.0, (M, N, N)).astype(np.uint16),
        "probeGuess": (generator.normal(size=(N, N)) + 1j * generator.normal(size=(N, N))),
        "objectGuess": np.exp(1j * generator.normal(size=(40, 50))),
        "scan_index": np.arange(100, 100 + M),
        **changes,
    }
    return {key: value for key, value in complete.items() if value is not None}


def scan(**changes: Any) -> Scan:
    names = {"diff3d": "patterns", "probeGuess": "probe_guess", "objectGuess": "object_guess"}
    return Scan(**{names.get(key, key): value for key, value in entries(**changes).items()})


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    path = tmp_path / "scan.npz"
    np.savez(path, **entries())
    return path


# --- content of a scan


def test_a_scan_keeps_what_it_is_given() -> None:
    given_entries = entries()
    it = scan()
    assert (len(it), it.N) == (M, N)
    assert it.patterns is not None
    assert it.patterns.dtype == np.uint16
    np.testing.assert_array_equal(it.patterns, given_entries["diff3d"])
    np.testing.assert_array_equal(
        it.scan_positions_px, np.stack([given_entries["xcoords"], given_entries["ycoords"]], 1)
    )
    assert (it.probe_guess.dtype, it.object_guess.dtype) == (np.complex64, np.complex64)
    np.testing.assert_array_equal(it.xcoords_start, it.xcoords)
    assert it.scan_index.tolist() == [100, 101, 102, 103, 104]


def test_repr_says_what_it_is() -> None:
    assert repr(scan(name="star")) == (
        "Scan('star': 5 positions, 16 x 16 pixels, intensity, probe, object 40 x 50)"
    )


def test_optional_entries_may_be_absent() -> None:
    it = scan(probeGuess=None, objectGuess=None, scan_index=None)
    assert (it.probe_guess, it.object_guess, it.pixel_size_m) == (None, None, None)
    assert it.scan_index.tolist() == [0, 1, 2, 3, 4]


def test_lists_are_arrays_too() -> None:
    it = Scan(xcoords=[1, 2], ycoords=[3, 4], patterns=np.ones((2, 4, 4)).tolist())  # type: ignore[arg-type]
    assert it.scan_positions_px.tolist() == [[1, 3], [2, 4]]


# --- amplitude or counts


@pytest.mark.parametrize(
    ("dtype", "measurement", "decided"),
    [
        (np.uint16, "auto", "intensity"),
        (np.int64, "auto", "intensity"),
        (np.float32, "auto", "intensity"),
        (np.float64, "auto", "intensity"),
        (np.uint8, "amplitude", "amplitude"),
        (np.float32, "intensity", "intensity"),
    ],
)
def test_measurement(dtype: type, measurement: str, decided: str, caplog: pytest.LogCaptureFixture) -> None:
    counts = np.full((M, N, N), 4, dtype)
    with caplog.at_level(logging.INFO):
        it = scan(diff3d=counts, measurement=measurement)
    assert it.measurement == decided
    expected = 2.0 if decided == "intensity" else 4.0
    np.testing.assert_array_equal(it.diffraction_amplitude(), np.full((M, N, N), expected, np.float32))
    # a guess is logged, a choice is not
    assert (f"taken for {decided}" in caplog.text) == (measurement == "auto")


@given(
    # the largest number of a counter is no count
    counts=hnp.arrays(np.uint16, (3, 4, 4), elements=st.integers(0, 65534)),
    kind=st.sampled_from([np.uint16, np.uint32, np.int32, np.float32, np.float64]),
)
def test_amplitude_squares_to_counts_whatever_the_dtype(counts: np.ndarray, kind: type) -> None:
    """uint16 must not overflow: 65534 squared, or summed, does not fit."""
    it = Scan(np.zeros(3), np.zeros(3), counts.astype(kind), measurement="intensity")
    amplitude = it.diffraction_amplitude()
    assert amplitude.dtype == np.float32
    np.testing.assert_allclose(amplitude.astype(np.float64) ** 2, counts, rtol=1e-6)
    np.testing.assert_array_equal(it.pattern_energies, counts.astype(np.float64).sum(axis=(1, 2)))
    as_amplitude = Scan(np.zeros(3), np.zeros(3), counts, measurement="amplitude")
    np.testing.assert_allclose(
        as_amplitude.pattern_energies, (counts.astype(np.float64) ** 2).sum(axis=(1, 2))
    )


def test_amplitude_of_chosen_patterns() -> None:
    it = scan()
    everything = it.diffraction_amplitude()
    chosen = np.array([[0, 3], [4, 4]])
    np.testing.assert_array_equal(it.diffraction_amplitude(chosen), everything[chosen])
    np.testing.assert_array_equal(it.diffraction_amplitude(slice(1, 3)), everything[1:3])
    np.testing.assert_array_equal(it.diffraction_amplitude(2), everything[2])


def test_energies_are_the_same_however_they_are_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = scan().pattern_energies
    monkeypatch.setattr("ptycho_backends.scans.scan.CHUNK", 2)
    np.testing.assert_array_equal(scan().pattern_energies, whole)


# --- probe modes


def test_all_modes_are_kept_by_falling_power() -> None:
    modes = np.stack([np.full((N, N), 1.0 + 0j), np.full((N, N), 3.0j), np.zeros((N, N))])
    it = scan(probeGuess=modes)
    np.testing.assert_array_equal(it.probe_guess, modes[1].astype(np.complex64))
    np.testing.assert_array_equal(it.probe_modes, modes[[1, 0, 2]].astype(np.complex64))


def test_a_single_mode_needs_no_report(caplog: pytest.LogCaptureFixture) -> None:
    assert scan(probeGuess=np.ones((1, N, N))).probe_guess.shape == (N, N)
    assert caplog.text == ""


# --- refusals

with_nan = np.ones((M, N, N), np.float32)
with_nan[3] = np.nan
negative = np.ones((M, N, N), np.int32)
negative[2] = -1

BAD = {
    "unequal y": ({"ycoords": np.zeros(M + 1)}, ShapeError, r"ycoords: got shape \(6,\), want \(5\)"),
    "unequal patterns": ({"diff3d": np.ones((M - 1, N, N))}, ScanError, "4 patterns for 5 positions"),
    "unequal start": ({"xcoords_start": np.zeros(2)}, ShapeError, "xcoords_start: got shape"),
    "unequal index": ({"scan_index": np.zeros(2, int)}, ShapeError, "scan_index: got shape"),
    "fractional index": ({"scan_index": np.full(M, 0.5)}, ShapeError, "scan_index: got fractions"),
    "empty": (
        {"xcoords": [], "ycoords": [], "diff3d": np.ones((0, N, N)), "scan_index": None},
        ScanError,
        "the scan is empty",
    ),
    "rank of patterns": ({"diff3d": np.ones((M, N))}, ShapeError, r"diff3d: got shape \(5, 16\)"),
    "channels": ({"diff3d": np.ones((M, N, N, 1))}, ShapeError, r"diff3d: got shape \(5, 16, 16, 1\)"),
    "rank of positions": ({"xcoords": np.zeros((M, 1))}, ShapeError, "xcoords: got shape"),
    "not square": ({"diff3d": np.ones((M, N, N + 1))}, ShapeError, "want square ones"),
    "no pixels": ({"diff3d": np.ones((M, 0, 0))}, ShapeError, "want square ones"),
    "NaN": ({"diff3d": with_nan}, ScanError, "pattern 3 holds NaN or infinite"),
    "infinite": ({"diff3d": np.full((M, N, N), np.inf)}, ScanError, "pattern 0 holds NaN or infinite"),
    "negative": ({"diff3d": negative}, ScanError, "pattern 2 holds negative values"),
    "complex": ({"diff3d": np.ones((M, N, N), complex)}, ShapeError, "diff3d: got dtype complex128"),
    "text": ({"diff3d": np.full((M, N, N), "a")}, ShapeError, "diff3d: got dtype"),
    "masked": (
        {"diff3d": np.ma.masked_equal(np.eye(N)[None].repeat(M, 0), 1)},
        ShapeError,
        "diff3d: got a masked array",
    ),
    "NaN positions": ({"xcoords": np.full(M, np.nan)}, ShapeError, "xcoords: 5 of 5 values are NaN"),
    "side of probe": ({"probeGuess": np.ones((N + 1, N))}, ShapeError, r"probeGuess: .*want \(16, 16\)"),
    "rank of probe": ({"probeGuess": np.ones((1, 1, N, N))}, ShapeError, "probeGuess: got shape"),
    "no modes": ({"probeGuess": np.ones((0, N, N))}, ShapeError, "probeGuess: got no modes"),
    "NaN mode": ({"probeGuess": np.full((2, N, N), np.nan)}, ShapeError, "probeGuess: 256 of 256 values"),
    "text probe": ({"probeGuess": np.full((2, N, N), "a")}, ShapeError, "probeGuess: got dtype"),
    "rank of object": ({"objectGuess": np.ones((2, 40, 50))}, ShapeError, "objectGuess: got shape"),
    "NaN object": ({"objectGuess": np.full((40, 50), np.nan)}, ShapeError, "objectGuess: 2000 of 2000"),
    "side of mask": ({"object_mask": np.ones((3, 3), bool)}, ShapeError, "objectMask: got shape"),
    "mask alone": (
        {"object_mask": np.ones((40, 50), bool), "objectGuess": None},
        ShapeError,
        "want that of objectGuess",
    ),
    "measurement": ({"measurement": "photons"}, ScanError, "measurement: got 'photons', want one of"),
    "pixel size": ({"pixel_size_m": -1.0}, ScanError, "pixel_size_m: got -1.0"),
}


@pytest.mark.parametrize(("changes", "error", "text"), BAD.values(), ids=BAD)
def test_refuses(changes: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        scan(**changes)
    assert isinstance(caught.value, PtychoBackendsError)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)


FILE_NAMES = {"object_mask": "objectMask"}


@pytest.mark.parametrize("case", [case for case in BAD if case not in ("masked", "pixel size")])
def test_a_bad_file_is_one_error_that_names_it(tmp_path: Path, case: str) -> None:
    changes, error, text = BAD[case]
    path = tmp_path / "bad.npz"
    np.savez(path, **entries(**{FILE_NAMES.get(key, key): value for key, value in changes.items()}))
    with pytest.raises(error, match=text) as caught:
        load_scan(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_side_without_an_architecture_is_refused_when_it_is_used() -> None:
    with pytest.raises(ConfigError, match="16 x 16 pixels, want one of 64, 128, 256"):
        with_side(TrainingConfig(model=ModelConfig(N=0)), scan().N)


# --- files


@pytest.mark.parametrize("key", ["xcoords", "ycoords", "diff3d"])
def test_a_missing_key_is_named_with_those_that_are_there(tmp_path: Path, key: str) -> None:
    path = tmp_path / "scan.npz"
    np.savez(path, **entries(**{key: None}))
    with pytest.raises(ScanError, match=rf"scan\.npz: {key} missing; the file holds .*probeGuess"):
        load_scan(path)


def test_all_missing_keys_are_named(tmp_path: Path) -> None:
    path = tmp_path / "scan.npz"
    np.savez(path, other=np.ones(3))
    with pytest.raises(ScanError, match="xcoords, ycoords, diff3d missing; the file holds other"):
        load_scan(path)


def test_unreadable_files(tmp_path: Path, npz: Path) -> None:
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "cut.npz").write_bytes(npz.read_bytes()[:-100])
    np.save(tmp_path / "single.npy", np.ones(3))
    np.savez(tmp_path / "pickled.npz", **{**entries(), "xcoords": np.array([{}] * M)})
    for name, reason in {
        "absent.npz": "No such file",
        "text.npz": "not an NPZ file",
        "cut.npz": "not an NPZ file, or cut short",
        "single.npy": "want patterns",
        "pickled.npz": "holds objects of Python",
        "": "a folder of 4 scans",
    }.items():
        with pytest.raises(ScanError, match=reason) as caught:
            load_scan(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")


@pytest.fixture(scope="session")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("damaged") / "scan.npz"
    np.savez_compressed(path, **entries())
    return path, path.read_bytes()


@given(place=st.floats(0, 1, exclude_max=True), bits=st.integers(1, 255), length=st.floats(0.5, 1))
def test_a_damaged_file_loads_or_is_a_scan_error(
    damaged: tuple[Path, bytes], place: float, bits: int, length: float
) -> None:
    path, content = damaged
    broken = bytearray(content)
    broken[int(place * len(broken))] ^= bits
    path.write_bytes(broken[: round(length * len(broken))])
    try:
        load_scan(path)
    except (ScanError, ShapeError) as error:
        text = str(error)
        assert text.startswith(f"{path}: ")


def test_other_entries_are_left_alone_and_the_older_name_is_known(tmp_path: Path) -> None:
    path = tmp_path / "scan.npz"
    changed = entries(bad_pixels=np.zeros((N, N), bool), pickled=np.array([{}]))
    changed["diffraction"] = changed.pop("diff3d")
    np.savez(path, **changed)
    np.testing.assert_array_equal(load_scan(path).patterns, changed["diffraction"])


def test_the_file_says_what_was_measured_unless_the_caller_does(tmp_path: Path) -> None:
    path = tmp_path / "scan.npz"
    np.savez(path, **entries(measurement="amplitude"))
    assert load_scan(path).measurement == "amplitude"
    assert load_scan(path, measurement="intensity").measurement == "intensity"
    np.savez(path, **entries(measurement="photons"))
    with pytest.raises(ScanError, match=r"scan\.npz: measurement: got 'photons'"):
        load_scan(path)


@pytest.mark.parametrize(("written", "read"), [(8e-9, 8e-9), (np.nan, None), (0.0, None), ([8e-9], 8e-9)])
def test_pixel_size(tmp_path: Path, written: Any, read: float | None) -> None:
    path = tmp_path / "scan.npz"
    np.savez(path, **entries(pixel_size_m=written))
    assert load_scan(path).pixel_size_m == read


@pytest.mark.parametrize("written", [-1.0, np.inf, "8 nm", [1e-9, 1e-9]])
def test_pixel_size_that_is_none(tmp_path: Path, written: Any) -> None:
    path = tmp_path / "scan.npz"
    np.savez(path, **entries(pixel_size_m=written))
    with pytest.raises(ScanError, match=r"scan\.npz: pixel_size_m: got"):
        load_scan(path)


@pytest.mark.parametrize("measurement", ["amplitude", "intensity"])
def test_save_and_load_give_the_same_scan(tmp_path: Path, measurement: str) -> None:
    it = scan(
        measurement=measurement,
        xcoords_start=np.arange(M),
        object_mask=np.eye(40, 50, dtype=bool),
        pixel_size_m=8e-9,
        name="saved",
    )
    again = load_scan(save_scan(it, tmp_path / "saved.npz"))
    assert vars(again).keys() == vars(it).keys()
    assert again.notes
    for name, value in vars(it).items():
        if name == "notes":
            continue
        np.testing.assert_array_equal(getattr(again, name), value, err_msg=name)
        assert getattr(value, "dtype", None) == getattr(getattr(again, name), "dtype", None)


def test_a_scan_without_options_survives_saving(tmp_path: Path) -> None:
    again = load_scan(save_scan(scan(probeGuess=None, objectGuess=None), tmp_path / "saved.npz"))
    assert (again.probe_guess, again.object_guess, again.object_mask) == (None, None, None)


def test_saving_is_whole_or_not_at_all(tmp_path: Path, npz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = npz.read_bytes()

    def full(stream: Any, **_: Any) -> None:
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OutputError, match="No space left"):
        save_scan(scan(), npz)
    assert npz.read_bytes() == before
    assert list(tmp_path.iterdir()) == [npz]


def test_saving_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        save_scan(scan(), tmp_path / "file" / "scan.npz")


@pytest.mark.shared
def test_a_real_scan(shared: Path) -> None:
    it = load_scan(shared / "data" / "siemens_star_64.npz")
    assert (len(it), it.N, it.measurement, it.patterns.dtype) == (516, 64, "intensity", np.uint16)
    assert it.probe_guess.shape == (64, 64)
    assert it.pattern_energies.mean() == pytest.approx(4.6e5, rel=0.1)
