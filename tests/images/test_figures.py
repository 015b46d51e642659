"""The pictures: right content, right axes, nothing global, nothing half-written."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from ptycho_backends.errors import OutputError, ScanError
from ptycho_backends.images import curves, figures
from ptycho_backends.images.agreement import PatternAgreement
from ptycho_backends.images.frc import fourier_ring_correlation
from ptycho_backends.images.metrics import compare
from ptycho_backends.images.stitching import stitch
from ptycho_backends.reference.physics import extract_patches
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.values import EpochRecord, Reconstruction, RefinementRecord


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
    for module in (figures, curves):
        monkeypatch.setattr(module, "save_figure", lambda figure, path: kept.append(figure) or path)
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


def refined(reconstruction, start=None, **changes):
    """`reconstruction` as if it had been refined."""
    modes = np.stack([np.full((8, 8), 3.0), np.eye(8)]).astype(np.complex64)
    passes = (RefinementRecord(1, 6, 0.2, 0.3, 0.25, 1.0), RefinementRecord(2, 1, 0.1, 0.085, 0.12, 1.0))
    return dataclasses.replace(reconstruction, probe_modes=modes, passes=passes, start=start, **changes)


def test_the_reference_and_the_difference_stand_beside(monkeypatch, scan, reconstruction):
    metrics = compare(reconstruction, scan)
    figure = saved_figure(
        monkeypatch, figures.save_reconstruction_figure, reconstruction, "x.png", scan, metrics
    )
    titles = [axes.get_title() for axes in panels(figure)]
    assert titles == ["reconstruction", "reference", "reconstruction - reference", "", "", "", "probe"]
    ours, truth, difference = panels(figure)[3:6]
    assert ours.images[0].get_clim() == truth.images[0].get_clim()
    low, high = difference.images[0].get_clim()
    assert low == -high
    heading = figure.get_suptitle()
    assert f"phase correlation {metrics.phase_correlation_ramp_removed:.3f} (blank 0.000)" in heading
    assert f"amplitude SSIM {metrics.amplitude_ssim_ramp_removed:.3f} (blank" in heading
    assert "complex correlation" not in heading
    bars = [axes.child_axes[0].get_ylabel() for axes in panels(figure) if axes.child_axes]
    assert bars == ["amplitude", "amplitude difference", "phase (rad)", "phase difference (rad)"]


def test_a_refined_image_stands_between_the_network_and_the_reference(monkeypatch, scan, reconstruction):
    # another canvas, another factor, a ramp
    columns = np.arange(reconstruction.object.shape[1] - 3)
    network = dataclasses.replace(
        reconstruction,
        object=(0.3j * np.exp(0.05j * columns) * reconstruction.object[2:, 3:]).astype(np.complex64),
        coverage=reconstruction.coverage[2:, 3:],
        origin_px=reconstruction.origin_px + np.array([3, 2]),
    )
    figure = saved_figure(
        monkeypatch, figures.save_reconstruction_figure, refined(reconstruction, network), "x.png", scan
    )
    shown = panels(figure)
    titles = [axes.get_title() for axes in shown]
    assert titles[:4] == ["network", "refined", "reference", "refined - reference"]
    network_phase, our_phase = (np.ma.filled(shown[i].images[0].get_array(), np.nan) for i in (4, 5))
    both = np.isfinite(network_phase) & np.isfinite(our_phase)
    assert both.sum() > 0.9 * np.isfinite(our_phase).sum()
    # all that they differ by is removed for display
    assert np.abs(network_phase - our_phase)[both].max() < 0.02
    network_amplitude, our_amplitude = (np.ma.filled(shown[i].images[0].get_array(), np.nan) for i in (0, 1))
    assert np.abs(network_amplitude - our_amplitude)[both].max() < 0.02
    again = saved_figure(
        monkeypatch, figures.save_reconstruction_figure, refined(reconstruction, refined(network)), "x.png"
    )
    assert [axes.get_title() for axes in panels(again)][:2] == ["start", "refined"]


def test_a_ramp_is_removed_for_display(monkeypatch, reconstruction):
    columns = np.arange(reconstruction.object.shape[1])
    tilted = dataclasses.replace(reconstruction, object=reconstruction.object * np.exp(0.08j * columns))
    phases = []
    for image in (reconstruction, tilted):
        figure = saved_figure(monkeypatch, figures.save_reconstruction_figure, image, "x.png")
        phases.append(np.ma.filled(panels(figure)[1].images[0].get_array(), 0.0))
    np.testing.assert_allclose(phases[0], phases[1], atol=1e-3)


def test_probe_modes_stand_below_with_their_powers(monkeypatch, reconstruction):
    figure = saved_figure(monkeypatch, figures.save_reconstruction_figure, refined(reconstruction), "x.png")
    titles = [axes.get_title() for axes in panels(figure)]
    # 9 * 64 against 8
    assert titles == ["amplitude", "phase", "mode 1: 98.6 %", "mode 2: 1.4 %"]
    assert "R-factor 0.085" in figure.get_suptitle()
    many = dataclasses.replace(refined(reconstruction), probe_modes=np.ones((9, 8, 8), np.complex64))
    figure = saved_figure(monkeypatch, figures.save_reconstruction_figure, many, "x.png")
    assert len(panels(figure)) == 2 + figures.MODES_SHOWN


def test_without_a_reference_the_patterns_judge(monkeypatch, reconstruction):
    agreement = PatternAgreement(0.0849, 1.134, np.array([0.1]), np.array([0]))
    figure = saved_figure(
        monkeypatch, figures.save_reconstruction_figure,
        refined(reconstruction), "x.png", None, None, None, agreement,
    )  # fmt: skip
    assert "R-factor 0.085, chi-square 1.13" in figure.get_suptitle()


def test_a_scale_bar_has_a_round_length(monkeypatch, reconstruction):
    for pixel_size, label in ((2e-8, "200 nm"), (2e-7, "2 µm"), (None, "20 px")):
        image = dataclasses.replace(reconstruction, pixel_size_m=pixel_size)
        axes = panels(saved_figure(monkeypatch, figures.save_reconstruction_figure, image, "x.png"))[0]
        assert [text.get_text() for text in axes.texts] == [label]
        start, end = axes.lines[0].get_xdata()
        assert end - start == pytest.approx({"200 nm": 0.2, "2 µm": 2.0, "20 px": 20.0}[label])
        left, right = axes.get_xlim()
        assert left < start < end < left + 0.5 * (right - left)


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
    # a lens, because a ramp would be removed
    rows, columns = np.indices(reconstruction.object.shape) - 36
    turns = np.exp(0.02j * (rows**2 + columns**2))
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


def test_passes_show_both_errors_and_the_r_factor(monkeypatch):
    passes = [RefinementRecord(i, 6, 0.2 / i, 0.3 / i, 0.25 / i, 1.0) for i in range(1, 8)]
    errors, factors = saved_figure(monkeypatch, curves.save_passes_figure, passes, "x.png").axes
    assert [line.get_label() for line in errors.get_lines()] == ["fitted pixels", "held-out pixels"]
    assert errors.get_lines()[1].get_ydata()[-1] == pytest.approx(0.25 / 7)
    assert factors.get_lines()[0].get_ydata()[0] == pytest.approx(30)
    assert (errors.get_yscale(), factors.get_xlabel()) == ("log", "pass")
    nothing = [dataclasses.replace(record, held_out_error=None) for record in passes]
    errors, _ = saved_figure(monkeypatch, curves.save_passes_figure, nothing, "x.png").axes
    assert len(errors.get_lines()) == 1


def test_ring_correlation_shows_where_the_curves_cross(monkeypatch, tmp_path):
    generator = np.random.default_rng(0)
    halves = generator.normal(size=(2, 64, 64)) + 3 * np.cos(np.arange(64) / 3)
    found = fourier_ring_correlation(*halves)
    figure = saved_figure(monkeypatch, curves.save_ring_correlation_figure, found, "x.png")
    correlation, half_bit, *crossing = figure.axes[0].get_lines()
    np.testing.assert_array_equal(correlation.get_ydata(), found.correlation)
    np.testing.assert_array_equal(half_bit.get_ydata(), found.half_bit)
    assert [line.get_xdata()[0] for line in crossing] == [found.crossing]
    monkeypatch.undo()
    assert is_png(curves.save_ring_correlation_figure(found, tmp_path / "frc.png"))
    assert is_png(curves.save_passes_figure([], tmp_path / "passes.png"))


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


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_short_history_has_ticks_at_whole_epochs_only(monkeypatch, count):
    history = [EpochRecord(i + 1, -3.0 - i, None, 1e-3, 1.0) for i in range(count)]
    axis = saved_figure(monkeypatch, figures.save_history_figure, history, "x.png").axes[1].xaxis
    low, high = sorted(axis.get_view_interval())
    assert [tick for tick in axis.get_majorticklocs() if low <= tick <= high] == [*range(1, count + 1)]
