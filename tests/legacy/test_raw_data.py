"""`RawData`: the legacy names over a scan."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptycho_backends.errors import GroupingError, ScanError, ShapeError
from ptycho_backends.legacy.raw_data import RawData
from ptycho_backends.params import params
from ptycho_backends.scans.grouping import group_scan

M, N = 12, 64
KEYS = {
    "diffraction", "X_full", "Y", "coords_offsets", "coords_relative", "coords_start_offsets",
    "coords_start_relative", "coords_nn", "coords_start_nn", "nn_indices", "objectGuess",
}  # fmt: skip


def keywords(**changes: Any) -> dict[str, Any]:
    """The arguments of Ptychodus: counts, a stack of probe modes, an index of zeros."""
    generator = np.random.default_rng(0)
    return {
        "xcoords": generator.uniform(40, 60, M),
        "ycoords": generator.uniform(40, 60, M),
        "diff3d": generator.poisson(9.0, (M, N, N)).astype(np.uint16),
        "probeGuess": np.ones((2, N, N), np.complex128) * np.array([1, 2])[:, None, None],
        "scan_index": np.zeros(M, int),
        "objectGuess": np.ones((120, 110), np.complex128),
        **changes,
    }


def test_legacy_attributes() -> None:
    given = keywords()
    raw = RawData.from_coords_without_pc(**given)
    np.testing.assert_array_equal(raw.xcoords, given["xcoords"])
    np.testing.assert_array_equal(raw.ycoords_start, given["ycoords"])
    assert raw.diff3d.shape == (M, N, N)
    assert raw.diff3d.dtype == np.uint16
    assert (raw.probeGuess.shape, raw.objectGuess.shape) == ((N, N), (120, 110))
    np.testing.assert_array_equal(raw.probeGuess, np.full((N, N), 2))
    assert raw.scan_index.tolist() == [0] * M
    assert raw.measurement == "intensity"
    assert len(raw) == M
    assert repr(raw).startswith("RawData(Scan(")


def test_refined_positions_are_kept_apart() -> None:
    given = keywords()
    raw = RawData(xcoords_start=given["xcoords"] + 1, ycoords_start=None, **given)
    np.testing.assert_array_equal(raw.xcoords_start, given["xcoords"] + 1)
    np.testing.assert_array_equal(raw.ycoords_start, given["ycoords"])


def test_measurement_may_be_said() -> None:
    raw = RawData.from_coords_without_pc(**keywords(diff3d=np.ones((M, N, N)), measurement="intensity"))
    assert raw.measurement == "intensity"


def test_bad_input_is_refused_as_by_a_scan() -> None:
    with pytest.raises(ShapeError, match="ycoords: got shape"):
        RawData.from_coords_without_pc(**keywords(ycoords=np.zeros(3)))


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "raw.npz"
    raw = RawData.from_coords_without_pc(**keywords())
    raw.to_file(path)
    again = RawData.from_file(path)
    for name in ("xcoords", "ycoords", "xcoords_start", "ycoords_start", "diff3d", "probeGuess",
                 "scan_index", "objectGuess", "measurement"):  # fmt: skip
        np.testing.assert_array_equal(getattr(again, name), getattr(raw, name), err_msg=name)
    assert RawData.from_file(path, measurement="amplitude").measurement == "amplitude"
    with pytest.raises(ScanError, match="No such file"):
        RawData.from_file(tmp_path / "absent.npz")


@pytest.mark.parametrize("gridsize", [1, 2])
def test_grouped_dictionary(gridsize: int) -> None:
    raw = RawData.from_coords_without_pc(**keywords())
    grouped = raw.generate_grouped_data(N, K=6, nsamples=5, seed=3, gridsize=gridsize)
    assert set(grouped) == KEYS
    C = gridsize**2
    assert grouped["diffraction"].shape == grouped["X_full"].shape == grouped["Y"].shape == (5, N, N, C)
    assert grouped["coords_offsets"].shape == (5, 1, 2, 1)
    assert grouped["coords_relative"].shape == grouped["coords_nn"].shape == (5, 1, 2, C)
    # amplitude by the legacy contract, for counts too
    members = raw.diff3d[grouped["nn_indices"]].astype(np.float64)
    np.testing.assert_allclose(np.moveaxis(grouped["diffraction"], -1, 1) ** 2, members, rtol=1e-5)
    expected = group_scan(raw.scan, gridsize=gridsize, n_groups=5, neighbor_count=6, seed=3)
    np.testing.assert_array_equal(grouped["nn_indices"], expected.nn_indices)


def test_grouping_passes_on_how_to_sample() -> None:
    raw = RawData.from_coords_without_pc(**keywords())
    in_order = raw.generate_grouped_data(N, nsamples=3, sequential_sampling=True, gridsize=1)
    assert in_order["nn_indices"].ravel().tolist() == [0, 1, 2]
    more = raw.generate_grouped_data(
        N, K=4, nsamples=20, gridsize=2, enable_oversampling=True, neighbor_pool_size=8
    )
    assert len(more["nn_indices"]) == 20
    with pytest.raises(GroupingError, match="enable_oversampling=True"):
        raw.generate_grouped_data(N, nsamples=20, gridsize=2)


def test_what_the_legacy_package_would_ask_params_for_must_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = RawData.from_coords_without_pc(**keywords())
    monkeypatch.setitem(params.cfg, "gridsize", 2)
    with pytest.raises(GroupingError, match="gridsize: not given"):
        raw.generate_grouped_data(N)
    with pytest.raises(GroupingError, match="N: got 128, but the patterns are 64 x 64"):
        raw.generate_grouped_data(128, gridsize=1)
