"""Result files of refined images: everything comes back, older files load, nothing is half-written."""

import csv
import dataclasses

import numpy as np
import pytest

from ptycho_backends.errors import OutputError
from ptycho_backends.images.results import load_reconstruction, save_passes, save_reconstruction
from ptycho_backends.values import Reconstruction, RefinementRecord


def image(**changes):
    generator = np.random.default_rng(0)
    return Reconstruction(
        (generator.normal(size=(20, 24)) + 1j).astype(np.complex64),
        generator.random((20, 24)).astype(np.float32),
        np.array([1.5, -2.25]),
        generator.random((7, 2)),
        backend="numpy",
        **changes,
    )


PASSES = (
    RefinementRecord(1, 6, 0.1, 0.3, None, 0.5),
    RefinementRecord(2, 1, 1 / 3, 0.2, 0.7 / 3, 0.25),
)


def refined():
    generator = np.random.default_rng(1)
    return image(
        probe_modes=generator.normal(size=(2, 8, 8)).astype(np.complex64),
        positions_px=generator.random((7, 2)),
        positions_used=np.array([0, 1, 2, 4, 5, 6, 9]),
        passes=PASSES,
        start=image(pixel_size_m=3e-9),
        interrupted=True,
        pixel_size_m=2e-9,
    )


def test_a_refined_image_comes_back_whole(tmp_path):
    want = refined()
    got = load_reconstruction(save_reconstruction(want, tmp_path / "x.npz"))
    for name in (
        "object",
        "coverage",
        "origin_px",
        "group_centres_px",
        "probe_modes",
        "positions_px",
        "positions_used",
    ):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
        assert getattr(got, name).dtype == getattr(want, name).dtype
    assert got.passes == PASSES
    assert isinstance(got.passes[0].number, int)
    assert got.interrupted is True
    assert (got.backend, got.pixel_size_m) == ("numpy", 2e-9)
    np.testing.assert_array_equal(got.start.object, want.start.object)
    assert (got.start.pixel_size_m, got.start.passes, got.start.start) == (3e-9, (), None)


def test_files_of_unrefined_images_are_as_before(tmp_path):
    path = save_reconstruction(image(), tmp_path / "x.npz")
    with np.load(path) as entries:
        assert set(entries) == {
            "object", "coverage", "origin_px", "group_centres_px", "pixel_size_m", "backend",
        }  # fmt: skip
    got = load_reconstruction(path)
    assert (got.probe_modes, got.positions_px, got.passes, got.start, got.interrupted) == (
        None,
        None,
        (),
        None,
        False,
    )


def test_without_held_out_pixels_and_without_a_start(tmp_path):
    passes = tuple(dataclasses.replace(record, held_out_error=None) for record in PASSES)
    want = dataclasses.replace(refined(), passes=passes, start=None, interrupted=False)
    got = load_reconstruction(save_reconstruction(want, tmp_path / "x.npz"))
    assert got.passes == passes
    assert got.start is None
    assert got.interrupted is False


def test_a_failed_write_leaves_the_earlier_file(tmp_path, monkeypatch):
    path = save_reconstruction(refined(), tmp_path / "x.npz")
    before = path.read_bytes()

    def full(stream, **_):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OutputError, match=r"x\.npz: cannot be written \(No space"):
        save_reconstruction(image(), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.npz"]


def test_passes_as_a_table(tmp_path):
    with open(save_passes(PASSES, tmp_path / "passes.csv"), newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["number"] for row in rows] == ["1", "2"]
    assert [float(row["error"]) for row in rows] == [0.1, 1 / 3]
    assert [row["held_out_error"] for row in rows] == ["", repr(0.7 / 3)]
