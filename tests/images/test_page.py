"""The page of a run and the page that compares runs: one file, without network, with everything that is known."""

import base64
import dataclasses
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from ptycho_backends.config import ModelConfig, TrainingConfig
from ptycho_backends.errors import ScanError
from ptycho_backends.images import html
from ptycho_backends.images.agreement import pattern_agreement, predicted_patterns
from ptycho_backends.images.comparison import save_comparison
from ptycho_backends.images.frc import RingCorrelation
from ptycho_backends.images.metrics import align, measure
from ptycho_backends.images.page import Contents, report_page, save_report
from ptycho_backends.images.stitching import stitch
from ptycho_backends.reference.physics import extract_patches
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training.plan import plan_training
from ptycho_backends.values import EpochRecord, Reconstruction, RefinementRecord

PASSES = tuple(RefinementRecord(n, 1, 0.1 / n, 0.1, 0.2 / n, 1.0) for n in (1, 2))
VOID = {"meta", "link", "img", "input", "br"}


class Nesting(HTMLParser):
    """Notices elements that are not closed in their order, and addresses that need a network."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.titles: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        # of SVG, without content
        self.addresses += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.titles.append(data)


def read(page: str) -> Nesting:
    """The page, found well-formed and without an address outside of itself."""
    nesting = Nesting()
    nesting.feed(page)
    assert nesting.open == []
    assert all(address.startswith("data:") for address in nesting.addresses)
    assert "url(" not in page
    return nesting


@pytest.fixture(scope="module")
def scan():
    return dataclasses.replace(simulate_star(32, 40, seed=0), pixel_size_m=15e-9)


@pytest.fixture(scope="module")
def image(scan):
    """The truth under the whole scan, with the true probe, one position corrected."""
    patches = extract_patches(scan.object_guess, scan.scan_positions_px, 32)[..., None]
    canvas, coverage, origin = stitch(patches, scan.scan_positions_px[:, None, :, None], 32)
    probe = scan.probe_modes * np.sqrt(scan.pattern_energies.mean() / np.sum(np.abs(scan.probe_modes) ** 2))
    frame = ((3, 3), (3, 3))
    positions = scan.scan_positions_px.copy()
    positions[7] += (0.5, -0.25)
    return Reconstruction(
        np.pad(canvas, frame), np.pad(coverage, frame), origin - 3, scan.scan_positions_px, backend="numpy",
        pixel_size_m=15e-9, probe_modes=probe.astype(np.complex64), positions_px=positions,
        positions_used=np.arange(len(scan)), passes=PASSES,
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(scan):
    config = TrainingConfig(model=ModelConfig(N=32, architecture="unrolled", gridsize=1), nepochs=2)
    start = plan_training(scan, config, "torch").start
    return dataclasses.replace(
        start, history=(EpochRecord(1, 2.0, 3.0, 1e-3, 1.0), EpochRecord(2, 1.0, None, 1e-3, 1.0))
    )


@pytest.fixture(scope="module")
def contents(scan, image, model):
    alignment = align(image, scan, trim_px=4)
    ring = RingCorrelation(np.array([0.25, 0.5]), np.ones(2), np.full(2, 0.2), 0.4, 15e-9)
    return Contents(
        "star <1>", "numpy", model, image, scan, measure(alignment, 4), alignment, pattern_agreement(image, scan), ring,
        {"config.yaml": "nepochs: 2 # a & b\n"},
    )  # fmt: skip


def test_everything_that_is_known(contents):
    page = report_page(contents)
    assert read(page).titles == [
        "Image", "Known object", "Probe, refined", "Positions", "Measured and predicted patterns", "Curves",
        "Configuration, versions, timings",
    ]  # fmt: skip
    assert "star &lt;1&gt;" in page
    assert "nepochs: 2 # a &amp; b" in page
    assert f"<b>{contents.agreement.r_factor:.4f}</b>" in page
    assert "positions corrected by 0.50 px at most" in page
    errors = contents.agreement.r_factor_by_position
    assert f"best: pattern {np.argmin(errors)}, R {errors.min():.3f}" in page
    assert f"worst: pattern {np.argmax(errors)}, R {errors.max():.3f}" in page
    for name in ("ramp removed", "unwrapped", "as computed"):
        assert f'data-group="phase" data-name="{name}"' in page
    assert "half-bit" in page
    assert "loss of training" in page
    assert re.search(r'<div class="scale" style="width:[0-9.]+%"><span>\d+ (nm|µm)</span>', page)


def test_a_training_alone(model):
    titles = read(report_page(Contents("training", "torch", model))).titles
    assert titles == ["Probe, of the model", "Curves", "Configuration, versions, timings"]


def test_an_image_of_a_network_alone(scan, image):
    bare = dataclasses.replace(
        image, probe_modes=None, positions_px=None, positions_used=None, passes=(), pixel_size_m=None
    )
    page = report_page(Contents("image", "torch", None, bare, scan))
    assert read(page).titles == [
        "Image",
        "Probe, of the scan",
        "Positions",
        "Configuration, versions, timings",
    ]
    assert re.search(r"<span>\d+ px</span>", page)


def test_the_file(contents, tmp_path: Path):
    written = save_report(contents, tmp_path / "report.html")
    assert read(written.read_text()).titles
    assert list(tmp_path.iterdir()) == [written]


def test_predicted_patterns_are_those_of_the_agreement(scan, image):
    agreement = pattern_agreement(image, scan)
    predicted = predicted_patterns(image, scan, [3, 11])
    for number, counts in zip((3, 11), predicted, strict=True):
        amplitude = scan.diffraction_amplitude(np.array([number]))[0]
        error = np.abs(amplitude - np.sqrt(counts)).sum() / amplitude.sum()
        assert error == pytest.approx(agreement.r_factor_by_position[number], rel=1e-4)


def test_a_picture_shows_its_values_as_colours():
    values = np.array([[0.0, 1.0], [np.nan, 2.0]])
    text = html.picture(values, "three & nothing", colours="grey", limits=(0.0, 2.0))
    data = base64.b64decode(re.search(r"base64,([^\"]+)", text)[1])
    io_module = pytest.importorskip("PIL.Image")
    pixels = np.asarray(io_module.open(io.BytesIO(data)))
    np.testing.assert_array_equal(pixels[..., 0], [[0, 128], [html.BARE[0], 255]])
    assert "three &amp; nothing" in text


def test_a_chart_leaves_out_what_is_not_finite():
    text = html.chart({"a": ([1, 2, 3], [1.0, np.nan, 100.0])}, "curve", x="epoch", logarithmic=True)
    assert text.count(",") >= 2
    assert len(re.search(r'points="([^"]+)"', text)[1].split()) == 2
    assert html.chart({"a": ([1], [np.nan])}, "curve", x="epoch") == ""


def test_compared_images_differ_by_what_was_changed(image, tmp_path: Path):
    turned = dataclasses.replace(image, object=(image.object * np.exp(0.7j)).astype(np.complex64))
    spoilt = image.object.copy()
    spoilt[30:34, 30:34] *= np.exp(0.5j)
    images = {"run": image, "turned": turned, "spoilt": dataclasses.replace(image, object=spoilt)}
    path = save_comparison(images, tmp_path / "c.html", {"run": {"r_factor": 0.123456}})
    page = path.read_text()
    assert read(page).titles == ["Agreement", "Images", "Figures of each run"]
    coherences = dict(re.findall(r"<td>(turned|spoilt)</td><td>([0-9.]+)</td>", page))
    # a constant phase is no difference
    assert float(coherences["turned"]) == pytest.approx(1, abs=1e-5)
    assert float(coherences["spoilt"]) < 0.9999
    assert "0.12346" in page


def test_what_cannot_be_compared_is_refused(image, tmp_path: Path):
    with pytest.raises(ScanError, match="got 1 image, want two or more"):
        save_comparison({"run": image}, tmp_path / "c.html")
    far = dataclasses.replace(image, origin_px=image.origin_px + 1e4)
    with pytest.raises(ScanError, match="far does not overlap run"):
        save_comparison({"run": image, "far": far}, tmp_path / "c.html")
    assert list(tmp_path.iterdir()) == []
