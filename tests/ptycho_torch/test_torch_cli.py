"""The command line with PyTorch behind it: a scan goes in, files come out; Ctrl-C and resuming."""

import os
import re
import signal

import numpy as np
import pytest
from typer.testing import CliRunner

from ptycho_backends.archive.model_file import load_archive
from ptycho_backends.cli import app
from ptycho_backends.images.results import load_reconstruction
from ptycho_backends.scans.scan_files import load_scan, save_scan
from ptycho_backends.training.following import Follower

SMALL = ["--filters", "1", "--accelerator", "cpu", "--backend", "torch"]


def ptycho(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    path = tmp_path_factory.mktemp("scan") / "scan.npz"
    ptycho("simulate", path, "--positions", 40)
    return path


def test_run_then_infer(tmp_path, npz):
    said = ptycho("run", npz, "-o", tmp_path / "run", "-e", 2, *SMALL).output
    assert "refined with" in said
    assert "phase correlation" in said
    assert "trained 2 epochs on torch" in said
    assert "complex correlation" in said
    for name in ("wts.h5.zip", "history.csv", "history.png", "reconstruction.png", "metrics.json"):
        assert (tmp_path / "run" / name).stat().st_size > 100
    assert "torch, 2 epochs" in ptycho("inspect", tmp_path / "run").output
    assert "whole    yes" in ptycho("inspect", tmp_path / "run" / "wts.h5.zip").output

    # group by group, as the image that the run refined; without a size, on the canvas of the scan
    by_groups = ("--stitching-size", 32, "--accelerator", "cpu", "-b", "torch")
    ptycho("infer", tmp_path / "run", npz, "-o", tmp_path / "out", *by_groups)
    ours = load_reconstruction(tmp_path / "run" / "network.npz")
    again = load_reconstruction(tmp_path / "out" / "reconstruction.npz")
    np.testing.assert_array_equal(ours.object, again.object)


def test_a_scan_that_stays_in_its_file_gives_the_same(tmp_path, npz):
    plain = save_scan(load_scan(npz), tmp_path / "plain.npz", compressed=False)
    for name, scan, how in (("memory", npz, []), ("file", plain, ["--mapped"])):
        ptycho("run", scan, "-o", tmp_path / name, "-e", 1, *how, *SMALL)
        ptycho("infer", tmp_path / name, scan, "-o", tmp_path / name / "again", *how, "-b", "torch")
    for image in ("reconstruction.npz", "again/reconstruction.npz"):
        ours, theirs = (load_reconstruction(tmp_path / name / image) for name in ("memory", "file"))
        np.testing.assert_array_equal(ours.object, theirs.object)
    result = ptycho("train", npz, "--mapped", "-o", tmp_path / "refused", code=2)
    assert "compressed" in result.output


def test_the_batch_size_is_found_on_request(tmp_path, npz):
    said = ptycho("train", npz, "-o", tmp_path, "-e", 1, "--batch-size", "auto", *SMALL).output
    (found,) = re.findall(r"batch size: (\d+), found by trying", said)
    assert load_archive(tmp_path / "wts.h5.zip").config.batch_size == int(found)
    said = ptycho(
        "infer", tmp_path, npz, "-o", tmp_path / "out", "--batch-size", "auto", "-b", "torch"
    ).output
    assert re.search(r"batch size: (4|8|16|32), found by trying", said)
    said = ptycho("train", npz, "-o", tmp_path / "none", "--batch-size", "many", *SMALL, code=2).output
    assert "batch_size: got 'many'" in said


def test_processes_that_train_together_are_given_their_batch_size(tmp_path, npz, monkeypatch):
    """Each would find its own, and wait for steps that the others do not make."""
    launch = {
        "TORCHELASTIC_RUN_ID": "x", "RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2,
    }  # fmt: skip
    for name, value in launch.items():
        monkeypatch.setenv(name, str(value))
    said = ptycho("train", npz, "-o", tmp_path, "--batch-size", "auto", *SMALL, code=2).output
    assert "batch_size: got 'auto' for 2 processes" in said


def test_ctrl_c_then_resume_is_as_if_nothing_had_happened(tmp_path, npz, monkeypatch):
    ptycho("train", npz, "-o", tmp_path / "whole", "-e", 3, *SMALL)

    def press_after_two_epochs(follower, record):
        if record.epoch == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(Follower, "__call__", press_after_two_epochs)
        result = ptycho("run", npz, "-o", tmp_path / "run", "-e", 3, *SMALL, code=130)
    hint = result.stderr.partition("go on with: ")[2]
    assert hint.startswith(f"ptycho-backends run {npz} ")
    assert f"--resume {tmp_path / 'run'} --backend torch" in hint
    assert load_archive(tmp_path / "run").interrupted
    assert (tmp_path / "run" / "reconstruction.npz").is_file()

    ptycho("train", npz, "--resume", tmp_path / "run", "--accelerator", "cpu", "-b", "torch")
    resumed, whole = load_archive(tmp_path / "run"), load_archive(tmp_path / "whole")
    assert len(resumed.history) == 3
    for name, weight in whole.weights.items():
        np.testing.assert_array_equal(resumed.weights[name], weight, err_msg=name)
