"""The pictures: right content, right axes, nothing global, nothing half-written."""

import subprocess
import sys

import numpy as np
import pytest

from ptycho_backends.errors import OutputError, ScanError
from ptycho_backends.images import figures
from ptycho_backends.images.metrics import compare
from ptycho_backends.images.stitching import stitch
from ptycho_backends.reference.physics import extract_patches
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.values import EpochRecord, Reconstruction


@pytest.fixture(scope="module")
def scan():
    return simulate_star(64, 60)


@pytest.fixture(scope="module")
def reconstruction(scan):
    patches = extract_patches(scan.object_guess, scan.scan_positions_px, 64)[..., None]
    return stitched(scan, patches)


def stitched(scan, patches, **changes):
    image, coverage, origin = stitch(patches, scan.scan_positions_px[:, None, :, None], 20)
    return Reconstruction(image, coverage, origin, scan.scan_positions_px, backend="numpy", **changes)


def saved_figure(monkeypatch, save, *arguments):
    """The matplotlib figure that `save` would write."""
    kept = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: kept.append(figure) or path)
    save(*arguments)
    return kept[0]


def panels(figure):
    return [axes for axes in figure.axes if axes.images]


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG")


def test_no_matplotlib_on_import_and_no_pyplot_at_all(tmp_path):
    # a fresh Python, because torchmetrics imports pyplot
    code = f"""
import sys
from ptycho_backends.images import figures
from ptycho_backends.protocol import EpochRecord
print("matplotlib" in sys.modules, "skimage" in sys.modules)
figures.save_history_figure([EpochRecord(1, 2.0, None, 1e-3, 1.0)], {str(tmp_path / "x.png")!r})
print("matplotlib.pyplot" in sys.modules)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["False", "False", "False"]
    assert is_png(tmp_path / "x.png")


def test_pictures_are_written_and_nothing_else(tmp_path, scan, reconstruction):
    metrics = compare(reconstruction, scan)
    assert is_png(figures.save_reconstruction_figure(reconstruction, tmp_path / "a.png", scan, metrics))
    assert is_png(figures.save_reconstruction_figure(reconstruction, tmp_path / "b.png"))
    assert is_png(figures.save_history_figure([EpochRecord(1, 2.0, None, 1e-3, 1.0)], tmp_path / "c.png"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "c.png"]


def test_truth_stands_beside_and_the_difference_below(monkeypatch, scan, reconstruction):
    metrics = compare(reconstruction, scan)
    figure = saved_figure(
        monkeypatch, figures.save_reconstruction_figure, reconstruction, "x.png", scan, metrics
    )
    titles = [axes.get_title() for axes in panels(figure)]
    assert titles == [
        "amplitude, reconstruction", "phase, reconstruction",
        "amplitude, known object", "phase, known object",
        "amplitude, difference", "phase, difference",
    ]  # fmt: skip
    ours, truth = (panels(figure)[i].images[0] for i in (1, 3))
    assert ours.get_clim() == truth.get_clim()
    low, high = panels(figure)[5].images[0].get_clim()
    assert low == -high
    assert f"phase correlation {metrics.phase_correlation:.3f}" in figure.get_suptitle()
    bars = [axes.child_axes[0].get_ylabel() for axes in panels(figure)]
    assert bars == ["amplitude", "phase (rad)"] * 3


def test_only_the_covered_rectangle_is_shown_in_scan_coordinates(monkeypatch, reconstruction):
    figure = saved_figure(monkeypatch, figures.save_reconstruction_figure, reconstruction, "x.png")
    rows, columns = np.nonzero(reconstruction.coverage)
    image = panels(figure)[0].images[0]
    assert image.get_array().shape == (np.ptp(rows) + 1, np.ptp(columns) + 1)
    x, y = reconstruction.origin_px
    want = (columns.min() + x - 0.5, columns.max() + x + 0.5, rows.max() + y + 0.5, rows.min() + y - 0.5)
    assert image.get_extent() == pytest.approx(want)
    assert panels(figure)[0].get_ylabel() == "y (px)"
    assert panels(figure)[0].get_aspect() == 1.0


def test_axes_in_micrometres_where_the_pixel_is_known(monkeypatch, scan):
    patches = extract_patches(scan.object_guess, scan.scan_positions_px, 64)[..., None]
    known = stitched(scan, patches, pixel_size_m=1e-8)
    in_px = saved_figure(monkeypatch, figures.save_reconstruction_figure, stitched(scan, patches), "x.png")
    in_um = saved_figure(monkeypatch, figures.save_reconstruction_figure, known, "x.png")
    assert panels(in_um)[1].get_xlabel() == "x (µm)"
    extents = [np.array(panels(figure)[0].images[0].get_extent()) for figure in (in_px, in_um)]
    np.testing.assert_allclose(extents[1], extents[0] * 0.01)


def test_a_few_wild_pixels_do_not_decide_the_contrast(monkeypatch, reconstruction):
    wild = reconstruction.object.copy()
    wild[tuple(np.argwhere(reconstruction.coverage > 0)[100])] = 1e4
    image = Reconstruction(wild, reconstruction.coverage, reconstruction.origin_px, np.zeros((1, 2)))
    figure = saved_figure(monkeypatch, figures.save_reconstruction_figure, image, "x.png")
    assert panels(figure)[0].images[0].get_clim()[1] < 1.5


def test_a_phase_around_the_circle_gets_a_cyclic_map(monkeypatch, reconstruction):
    turns = np.exp(1j * np.linspace(0, 40, reconstruction.object.size)).reshape(reconstruction.object.shape)
    image = Reconstruction(turns, reconstruction.coverage, reconstruction.origin_px, np.zeros((1, 2)))
    figure = saved_figure(monkeypatch, figures.save_reconstruction_figure, image, "x.png")
    assert panels(figure)[1].images[0].get_cmap().name == figures.CYCLIC_PHASE_MAP
    assert panels(figure)[1].images[0].get_clim() == (-np.pi, np.pi)


def test_flat_and_foreign_images_still_make_a_picture(tmp_path, scan, reconstruction):
    flat = np.ones_like(reconstruction.object)
    away = np.array([9e3, 9e3])
    image = Reconstruction(flat, reconstruction.coverage, away, np.zeros((1, 2)))
    # the object lies elsewhere, so the picture does without it
    assert is_png(figures.save_reconstruction_figure(image, tmp_path / "flat.png", scan))


@pytest.mark.parametrize(
    ("losses", "scale"),
    [
        ([10.0 / 2**i for i in range(12)], "log"),
        ([-3e4 - 10 * i for i in range(12)], "linear"),
        ([1e9] + [-3e4 - 10 * i for i in range(12)], "linear"),
        ([2.0], "linear"),
    ],
)
def test_history_shows_all_epochs_but_a_wild_first_one(monkeypatch, losses, scale):
    history = [EpochRecord(i + 1, loss, loss + 1e-3, 1e-3, 1.0) for i, loss in enumerate(losses)]
    figure = saved_figure(monkeypatch, figures.save_history_figure, history, "x.png")
    axes = figure.axes[0]
    assert axes.get_yscale() == scale
    low, high = axes.get_ylim()
    shown = [low <= loss <= high for loss in losses]
    assert all(shown[1:])
    assert shown[0] == (losses[0] < 1e8)
    assert [line.get_label() for line in axes.get_lines()] == ["training", "validation"]
    assert figure.axes[1].get_xlabel() == "epoch"


def test_what_cannot_be_written_is_told(tmp_path, reconstruction):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        figures.save_reconstruction_figure(reconstruction, tmp_path / "file" / "x.png")
    with pytest.raises(OutputError, match=r"suffix \.gifx, want one of .*png"):
        figures.save_reconstruction_figure(reconstruction, tmp_path / "x.gifx")
    nothing = Reconstruction(
        np.zeros((8, 8), np.complex64), np.zeros((8, 8), np.float32), np.zeros(2), np.zeros((1, 2))
    )
    with pytest.raises(ScanError, match="nothing is covered"):
        figures.save_reconstruction_figure(nothing, tmp_path / "x.png")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
