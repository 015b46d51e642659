"""The verb `watch`: the image while frames come, and at the end that of `infer`."""

import dataclasses
import json
import os
import signal
import threading
import time
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest

from ptycho_backends import workflows
from ptycho_backends.config import ExecutionConfig, RefinementConfig
from ptycho_backends.errors import ConfigError, OutputError, ScanError
from ptycho_backends.images.results import load_reconstruction
from ptycho_backends.live import frames as frames_module
from ptycho_backends.live import watch as watch_module
from ptycho_backends.live.page import served_page
from ptycho_backends.live.refining import overlaid
from ptycho_backends.live.watch import watch
from ptycho_backends.registry import get_backend

FRAMES = 80


@pytest.fixture
def folder(tmp_path, counts, write_positions):
    """A folder with a finished scan."""
    found = tmp_path / "frames"
    found.mkdir()
    for number, frame in enumerate(counts):
        np.save(found / f"frame_{number:05}.npy", frame)
    write_positions(found / "positions.csv")
    return found


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(watch_module, "LINE_S", 0.05)
    monkeypatch.setattr(frames_module, "SETTLE_S", 0.0)


def get(address, headers=None):
    """Status and content of an answer."""
    try:
        with urlopen(Request(address, headers=headers or {}), timeout=10) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        with error:
            return error.code, error.read()


def files(folder):
    return {path.name for path in folder.iterdir()}


def test_the_live_image_is_that_of_the_groups(tmp_path, folder, scan, model, backend):
    lines = []
    result = watch(
        model, folder, tmp_path / "live", backend=backend, idle_s=0.05, final=False, say=lines.append,
        stitching_size=8, agree_on_phase=False,
    )  # fmt: skip
    assert result.frames == FRAMES
    assert sum(backend.batches) == FRAMES
    want = backend.infer(model, scan, stitching_size=8, agree_on_phase=False)
    live = load_reconstruction(tmp_path / "live" / "reconstruction.npz")
    # the same patches on another grid, whose pixels lie elsewhere by less than one
    assert live.coverage.sum() == pytest.approx(want.coverage.sum(), rel=1e-4)
    np.testing.assert_allclose(np.abs(live.object).sum(), np.abs(want.object).sum(), rtol=0.02)
    assert files(tmp_path / "live") == {"reconstruction.npz", "reconstruction.png", "live.json"}
    figures = json.loads((tmp_path / "live" / "live.json").read_text())
    assert figures == result.figures
    assert (figures["frames"], figures["behind"], figures["ended"]) == (FRAMES, 0, True)
    assert 0 <= figures["latency_p50_s"] <= figures["latency_p95_s"]
    assert result.run is None


def test_at_the_end_the_image_is_that_of_infer(tmp_path, scan, folder, model):
    pytest.importorskip("torch")
    backend = get_backend("torch")
    refine = RefinementConfig(passes=1)
    result = watch(model, folder, tmp_path / "live", backend=backend, idle_s=0.05, refine=refine)
    # without the probe of the simulation, as the folder
    plain = dataclasses.replace(scan, probe_guess=None, probe_modes=None)
    want = workflows.infer(model, plain, tmp_path / "want", backend=backend, refine=refine).reconstruction
    found = load_reconstruction(tmp_path / "live" / "reconstruction.npz")
    np.testing.assert_array_equal(found.coverage, want.coverage)
    np.testing.assert_allclose(found.object, want.object, rtol=0, atol=1e-5)
    network = load_reconstruction(tmp_path / "live" / "network.npz")
    np.testing.assert_allclose(network.object, want.start.object, rtol=0, atol=1e-5)
    assert files(tmp_path / "live") == files(tmp_path / "want") | {"live.json", "live.npz"}
    assert result.figures["refined_frames"] == FRAMES
    # and the live image resembles it
    live = result.image
    assert (live.coverage > 0).sum() > 0.9 * (network.coverage > 0).sum()


def test_ctrl_c_ends_the_scan_and_keeps_the_image(tmp_path, folder, model, backend):
    def say(line):
        if "frames in the image" in line:
            os.kill(os.getpid(), signal.SIGINT)

    result = watch(model, folder, tmp_path / "live", backend=backend, every_s=0.05, final=False, say=say)
    assert result.frames == FRAMES
    image = load_reconstruction(tmp_path / "live" / "reconstruction.npz")
    np.testing.assert_array_equal(image.object, result.image.object)
    assert (tmp_path / "live" / "reconstruction.png").stat().st_size > 100


def test_ctrl_c_during_the_last_image_keeps_the_live_one(tmp_path, folder, model, backend, monkeypatch):
    def interrupted(*_, **__):
        (tmp_path / "live" / "reconstruction.npz").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(workflows, "infer", interrupted)
    result = watch(model, folder, tmp_path / "live", backend=backend, idle_s=0.05)
    assert result.run is None
    image = load_reconstruction(tmp_path / "live" / "reconstruction.npz")
    np.testing.assert_array_equal(image.object, result.image.object)


def test_until_ends_with_so_many_frames(tmp_path, folder, model, backend):
    result = watch(model, folder, tmp_path / "live", backend=backend, until=48, final=False)
    assert result.frames == 48


def test_slower_than_the_detector_loses_nothing_and_says_so(tmp_path, folder, model, backend, monkeypatch):
    monkeypatch.setattr(watch_module, "MOST_FRAMES", 8)
    monkeypatch.setattr(watch_module, "LAG_S", 0.05)
    predict = backend.object_patches

    def slow(*arguments):
        time.sleep(0.06)
        yield from predict(*arguments)

    backend.object_patches = slow
    lines = []
    result = watch(
        model, folder, tmp_path / "live", backend=backend, idle_s=0.05, final=False, say=lines.append
    )
    assert result.frames == FRAMES
    said = [line for line in lines if line.startswith("slower than the detector: ")]
    assert said
    assert said[0].endswith("none is lost")
    assert result.figures["most_behind"] >= FRAMES - 16
    assert result.figures["behind"] == 0


def test_frames_that_come_one_by_one_grow_the_image(tmp_path, counts, write_positions, model, backend):
    frames = tmp_path / "frames"
    covered = []

    def detector():
        time.sleep(0.05)
        frames.mkdir()
        write_positions(frames / "positions.csv")
        for number, frame in enumerate(counts):
            np.save(frames / f"frame_{number:05}.npy", frame)
            time.sleep(0.01)

    def say(line):
        if (tmp_path / "live" / "reconstruction.npz").exists():
            image = load_reconstruction(tmp_path / "live" / "reconstruction.npz")
            covered.append(int((image.coverage > 0).sum()))

    writing = threading.Thread(target=detector)
    writing.start()
    result = watch(
        model, frames, tmp_path / "live", backend=backend, until=FRAMES, every_s=0.05, final=False, say=say
    )
    writing.join()
    assert result.frames == FRAMES
    assert len(backend.batches) > 1
    assert covered == sorted(covered)
    assert covered[0] < (result.image.coverage > 0).sum()


def test_the_page_shows_the_picture(tmp_path, folder, model, backend):
    shown = {}

    def fetched(name):
        for _ in range(200):
            code, content = get(shown["address"] + name)
            if code == 200:
                return content
            time.sleep(0.05)
        return None

    def say(line):
        if line.startswith("the image is shown at "):
            shown["address"] = line.rpartition(" ")[2]
        elif "frames in the image" in line and "picture" not in shown:
            shown["page"], shown["picture"], shown["live"] = map(
                fetched, ("", "reconstruction.png", "live.json")
            )

    watch(
        model, folder, tmp_path / "live", backend=backend, idle_s=1.0, every_s=0.05, port=0, final=False, say=say
    )  # fmt: skip
    assert b"reconstruction.png" in shown["page"]
    assert shown["picture"].startswith(b"\x89PNG")
    assert json.loads(shown["live"])["frames"] > 0


def test_the_page_shows_nothing_else(tmp_path):
    (tmp_path / "secret.txt").write_text("no")
    with served_page(tmp_path, 0) as address:
        assert address.startswith("http://127.0.0.1:")
        for path, host, code in (
            ("secret.txt", None, 404),
            ("../live.json", None, 404),
            ("live.json", None, 404),
            ("", "evil.example:80", 403),
        ):
            assert get(address + path, {} if host is None else {"Host": host})[0] == code
        port = int(address.rpartition(":")[2].strip("/"))
        # in use: another one is taken
        with served_page(tmp_path, port) as other:
            assert other != address
            assert get(other)[0] == 200


def test_the_image_is_refined_while_no_frame_waits(tmp_path, folder, model, backend):
    result = watch(
        model, folder, tmp_path / "live", backend=backend, idle_s=0.05, final=False,
        refine=RefinementConfig(passes=2),
    )  # fmt: skip
    assert (result.figures["refinement_passes"], result.figures["refined_frames"]) == (2, FRAMES)


def test_a_refined_image_lies_over_the_live_one(scan, model, backend):
    image = backend.infer(model, scan, stitching_size=8, agree_on_phase=False)
    half = scan.part(np.flatnonzero(scan.xcoords < np.median(scan.xcoords)))
    refined = backend.infer(model, half, stitching_size=8, agree_on_phase=False)
    turned = overlaid(_times(image, 2j), refined)
    assert (turned.coverage > 0).sum() >= (image.coverage > 0).sum()
    corner = np.rint(refined.origin_px - turned.origin_px).astype(int)
    part = turned.object[corner[1] :, corner[0] :][: refined.object.shape[0], : refined.object.shape[1]]
    known = refined.coverage > 0
    np.testing.assert_array_equal(part[known], refined.object[known])
    # outside, the phase and the scale are those of the refined image
    assert np.median(np.abs(turned.object[turned.coverage > 0])) == pytest.approx(
        np.median(np.abs(image.object[image.coverage > 0])), rel=0.05
    )


def _times(image, factor):
    return type(image)(
        object=(factor * image.object).astype(np.complex64),
        coverage=image.coverage,
        origin_px=image.origin_px,
        group_centres_px=image.group_centres_px,
    )


def test_bad_input_is_refused(tmp_path, folder, model, backend):
    with pytest.raises(ConfigError, match="until: got 0"):
        watch(model, folder, tmp_path / "live", backend=backend, until=0)
    with pytest.raises(ConfigError, match="devices: got 2"):
        watch(model, folder, tmp_path / "live", backend=backend, execution=ExecutionConfig(devices=2))
    assert not (tmp_path / "live").exists()
    (tmp_path / "live").mkdir()
    (tmp_path / "live" / "reconstruction.npz").touch()
    with pytest.raises(OutputError, match="an earlier image"):
        watch(model, folder, tmp_path / "live", backend=backend, overwrite=False)
    for path in folder.glob("*.npy"):
        np.save(path, np.zeros((18, 18), np.uint16))
    with pytest.raises(ConfigError, match="got patterns of 18 pixels, want 16"):
        watch(model, folder, tmp_path / "live", backend=backend, idle_s=0.05)
    (folder / "positions.csv").unlink()
    with pytest.raises(ScanError, match="no file of positions"):
        watch(model, folder, tmp_path / "live", backend=backend, idle_s=0.05)
