"""The figures of a reconstruction in words, and as the content of `metrics.json`."""

from typing import Any

from ptycho_backends.errors import ScanError
from ptycho_backends.images.agreement import PatternAgreement, pattern_agreement
from ptycho_backends.images.frc import RingCorrelation
from ptycho_backends.images.metrics import Metrics, compare
from ptycho_backends.scans.scan import Scan
from ptycho_backends.values import Reconstruction


def report_line(
    metrics: Metrics | None = None,
    agreement: PatternAgreement | None = None,
    resolution: RingCorrelation | None = None,
) -> str:
    """The figures that are known, a line for each kind; empty where none is.

    Parameters
    ----------
    metrics : Metrics, optional
        Leads, with those of a blank image beside its own.
    agreement : PatternAgreement, optional
    resolution : RingCorrelation, optional
    """
    lines = []
    if metrics is not None:
        lines.append(
            f"phase correlation {metrics.phase_correlation_ramp_removed:.3f} "
            f"(blank {metrics.blank_phase_correlation:.3f}), "
            f"phase error {metrics.phase_error_rad_ramp_removed:.3f} rad "
            f"(blank {metrics.blank_phase_error_rad:.3f}), "
            f"amplitude SSIM {metrics.amplitude_ssim_ramp_removed:.3f} (blank {metrics.blank_amplitude_ssim:.3f})"
        )
    if agreement is not None:
        lines.append(f"R-factor {agreement.r_factor:.3f}, chi-square {agreement.chi_square:.3g}")
    if resolution is not None:
        lines.append(str(resolution))
    return "\n".join(lines)


def metrics_report(
    reconstruction: Reconstruction,
    scan: Scan,
    *,
    metrics: Metrics | None = None,
    agreement: PatternAgreement | None = None,
    resolution: RingCorrelation | None = None,
) -> dict[str, Any]:
    """Plain values for `metrics.json`, the figures that discriminate first.

    Parameters
    ----------
    reconstruction : Reconstruction
    scan : Scan
    metrics : Metrics, optional
        Default: `compare`, where the scan has an object that covers enough of the reconstruction.
    agreement : PatternAgreement, optional
        Default: `pattern_agreement`, where the reconstruction has probe modes.
    resolution : RingCorrelation, optional
        Of two half scans, if it has been measured.
    """
    if metrics is None:
        metrics = _compared(reconstruction, scan)
    if agreement is None and reconstruction.probe_modes is not None:
        agreement = pattern_agreement(reconstruction, scan)
    values: dict[str, Any] = {"backend": reconstruction.backend, "scan": scan.name}
    compared = {} if metrics is None else metrics.as_dict()
    last = {name: compared.pop(name) for name in ("complex_correlation",) if name in compared}
    values |= compared
    if agreement is not None:
        values |= agreement.as_dict()
    if reconstruction.passes:
        final = reconstruction.passes[-1]
        values |= {"passes": final.number, "error": final.error, "held_out_error": final.held_out_error}
    if resolution is not None:
        values |= resolution.as_dict()
    return values | last


def _compared(reconstruction: Reconstruction, scan: Scan) -> Metrics | None:
    if scan.object_guess is None:
        return None
    try:
        return compare(reconstruction, scan)
    except ScanError:
        # too little overlap, which `compare` explains to those who call it
        return None
