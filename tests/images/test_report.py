"""The figures in words and as JSON: the ones that discriminate lead, each beside a blank image's."""

import dataclasses
import json

import numpy as np
import pytest

from ptycho_backends.images.agreement import pattern_agreement
from ptycho_backends.images.frc import RingCorrelation
from ptycho_backends.images.metrics import compare
from ptycho_backends.images.report import metrics_report, report_line
from ptycho_backends.images.stitching import stitch
from ptycho_backends.reference.physics import extract_patches
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.values import Reconstruction, RefinementRecord


@pytest.fixture(scope="module")
def scan():
    return simulate_star(64, 60)


@pytest.fixture(scope="module")
def image(scan):
    """The truth under the whole scan, with the true probe."""
    patches = extract_patches(scan.object_guess, scan.scan_positions_px, 64)[..., None]
    canvas, coverage, origin = stitch(patches, scan.scan_positions_px[:, None, :, None], 64)
    probe = scan.probe_modes * np.sqrt(scan.pattern_energies.mean() / np.sum(np.abs(scan.probe_modes) ** 2))
    frame = ((2, 2), (2, 2))
    return Reconstruction(
        np.pad(canvas, frame), np.pad(coverage, frame), origin - 2, scan.scan_positions_px, backend="numpy",
        probe_modes=probe.astype(np.complex64), passes=(RefinementRecord(4, 1, 0.01, 0.1, 0.02, 1.0),),
    )  # fmt: skip


RESOLUTION = RingCorrelation(np.array([0.25, 0.5]), np.ones(2), np.full(2, 0.2), 0.4, 1e-8)


def test_the_line_for_the_command_line(scan, image):
    metrics, agreement = compare(image, scan), pattern_agreement(image, scan)
    lines = report_line(metrics, agreement, RESOLUTION).splitlines()
    assert lines == [
        f"phase correlation {metrics.phase_correlation_ramp_removed:.3f} (blank 0.000), "
        f"phase error {metrics.phase_error_rad_ramp_removed:.3f} rad (blank {metrics.blank_phase_error_rad:.3f}), "
        f"amplitude SSIM {metrics.amplitude_ssim_ramp_removed:.3f} (blank {metrics.blank_amplitude_ssim:.3f})",
        f"R-factor {agreement.r_factor:.3f}, chi-square {agreement.chi_square:.3g}",
        "resolution (half-bit, full period) 2.50 px = 25 nm",
    ]
    assert report_line() == ""
    assert report_line(agreement=agreement) == lines[1]


def test_the_report_leads_with_what_discriminates(scan, image):
    values = metrics_report(image, scan, resolution=RESOLUTION)
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert list(values)[:4] == [
        "backend",
        "scan",
        "phase_correlation_ramp_removed",
        "blank_phase_correlation",
    ]
    assert list(values)[-1] == "complex_correlation"
    assert values["phase_correlation_ramp_removed"] > 0.99
    assert values["r_factor"] < 0.2
    assert (values["passes"], values["error"], values["held_out_error"]) == (4, 0.01, 0.02)
    assert values["frc_resolution_px"] == 2.5
    known = metrics_report(
        image, scan, metrics=compare(image, scan), agreement=pattern_agreement(image, scan)
    )
    assert known == {name: value for name, value in values.items() if not name.startswith("frc")}


def test_the_report_has_what_there_is(scan, image):
    unknown = dataclasses.replace(scan, object_guess=None, object_mask=None)
    values = metrics_report(image, unknown)
    assert "phase_correlation" not in values
    assert "complex_correlation" not in values
    assert values["chi_square"] > 0
    network = dataclasses.replace(image, probe_modes=None, passes=())
    assert metrics_report(network, unknown) == {"backend": "numpy", "scan": scan.name}
    assert "r_factor" not in metrics_report(network, scan)
    elsewhere = dataclasses.replace(network, origin_px=network.origin_px + 1e4)
    assert metrics_report(elsewhere, scan) == {"backend": "numpy", "scan": scan.name}
