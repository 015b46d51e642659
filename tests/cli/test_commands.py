"""The command line: its files, its messages, and its answers to bad input."""

import dataclasses
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from oracle_backend import FIGURES_OF_A_RUN, OracleBackend, installed_alone
from typer.testing import CliRunner

from ptycho_backends import __version__, registry, workflows
from ptycho_backends.archive.model_file import load_archive
from ptycho_backends.cli.commands import app
from ptycho_backends.config import ExecutionConfig, InferenceConfig, TrainingConfig
from ptycho_backends.config_file import load_config
from ptycho_backends.scans.product import load_product
from ptycho_backends.scans.scan_files import export_training_data, load_scan, save_scan
from ptycho_backends.scans.simulate import simulate_star

COMMANDS = ("demo", "simulate", "train", "run", "infer", "inspect", "parity")


@pytest.fixture(scope="module")
def scan():
    return simulate_star(64, 40)


@pytest.fixture(autouse=True)
def oracle(monkeypatch):
    """`--backend oracle`, and the only one installed; pictures without matplotlib's second each."""
    installed_alone(monkeypatch, *FIGURES_OF_A_RUN)


@pytest.fixture
def npz(tmp_path, scan):
    return save_scan(scan, tmp_path / "scan.npz")


def ptycho(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def error_line(*arguments):
    """The one line that a command prints before it ends with exit code 2."""
    result = ptycho(*arguments, code=2)
    lines = [line for line in result.stderr.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    assert "Traceback" not in result.output
    return lines[0]


# --- help


def test_help_starts_at_once_and_brings_no_numpy():
    code = (
        "import sys\nfrom ptycho_backends.cli import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "print('heavy:', sorted({'numpy', 'scipy', 'torch', 'matplotlib', 'skimage'} & set(sys.modules)))"
    )
    started = time.perf_counter()
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "heavy: []" in told
    for command in COMMANDS:
        assert command in told
    # alone it takes 0.3 s; the test machine may be busy
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_teaches_by_example(command):
    told = ptycho(command, "--help").output
    assert f"Example: ptycho-backends {command}" in told


def test_version_and_no_arguments():
    assert ptycho("--version").output.strip() == f"ptycho-backends {__version__}"
    assert "Usage" in CliRunner().invoke(app, []).output


# --- the commands


def test_demo_says_how_good_and_where(tmp_path):
    said = ptycho("demo", "-o", tmp_path / "demo", "--positions", 40, "--epochs", 2).output
    assert "epoch 2/2: train_loss 5 (-5), val_loss 5.5, " in said
    assert "phase correlation" in said
    assert f"written to {tmp_path / 'demo'}:" in said
    for name in ("scan.npz", "wts.h5.zip", "reconstruction.png", "metrics.json"):
        assert name in said
        assert (tmp_path / "demo" / name).exists()


def test_simulate_then_inspect(tmp_path):
    path = tmp_path / "star.npz"
    said = ptycho("simulate", path, "--positions", 25, "--nphotons", 5e4, "--pattern", "raster").output
    assert str(path) in said
    assert load_scan(path).pattern_energies.mean() == pytest.approx(5e4, rel=0.01)
    said = ptycho("inspect", path).output
    assert "25 of 64 x 64 pixels" in said
    assert "whole counts" in said


def test_simulate_another_object_with_the_probe_of_a_scan(tmp_path, npz, scan):
    path = tmp_path / "leaves.npz"
    ptycho("simulate", path, "--object", "leaves", "--probe-from", npz, "--positions", 25, "--seed", 3)
    made = load_scan(path)
    assert np.abs(np.vdot(made.probe_guess, scan.probe_guess)) == pytest.approx(
        np.linalg.norm(made.probe_guess) * np.linalg.norm(scan.probe_guess), rel=1e-5
    )
    ptycho("simulate", tmp_path / "again.npz", "--object", "leaves", "--positions", 25, "--seed", 4)
    assert not np.array_equal(load_scan(tmp_path / "again.npz").object_guess, made.object_guess)

    said = error_line("simulate", path, "--probe-from", npz, "--side", 128)
    assert "side: got 128, but the probe of" in said
    without = save_scan(dataclasses.replace(scan, probe_guess=None), tmp_path / "without.npz")
    assert "without.npz: has no probe" in error_line("simulate", path, "--probe-from", without)
    assert "got 'moon', want one of star, leaves" in error_line("simulate", path, "--object", "moon")


def test_train_infer_inspect(tmp_path, npz, scan):
    said = ptycho("train", npz, "-o", tmp_path / "run", "--epochs", 2, "--filters", 1, "--seed", 7).output
    assert f"nphotons: {scan.pattern_energies.mean():.4g}, the mean counts" in said
    config = load_config(tmp_path / "run" / "config.yaml")
    assert (config.nepochs, config.model.n_filters_scale, config.seed) == (2, 1, 7)
    assert (config.n_groups, config.model.N, config.backend) == (40, 64, "oracle")
    assert config.nphotons == pytest.approx(scan.pattern_energies.mean())
    assert config.train_data_file == npz

    said = ptycho("infer", tmp_path / "run", npz, "-o", tmp_path / "out", "--n-groups", 30).output
    assert "complex correlation" in said
    assert "trained" not in said
    assert (tmp_path / "out" / "reconstruction.npz").is_file()
    said = ptycho(
        "refine", npz, "-o", tmp_path / "refined", "--passes", 2, "--model", tmp_path / "run"
    ).output
    # the oracle's correction is zero, which predicts nothing worse
    assert "learned correction: in the image" in said
    assert "trained" not in said
    said = ptycho("inspect", tmp_path / "run" / "wts.h5.zip").output
    assert "whole    yes" in said
    assert "oracle" in said


def test_run_reconstructs_the_test_scan(tmp_path, npz):
    other = save_scan(simulate_star(64, 30, seed=2), tmp_path / "other.npz")
    ptycho("run", npz, "-o", tmp_path / "run", "-e", 1, "--filters", 1, "--test", other)
    with np.load(tmp_path / "run" / "reconstruction.npz") as entries:
        assert len(entries["group_centres_px"]) == 30


@pytest.fixture
def other_npz(tmp_path):
    """A smaller scan, with another probe and dose."""
    other = simulate_star(64, 30, n_photons=3e4, seed=2)
    return save_scan(other.with_probe(np.roll(other.probe_guess, 9, axis=1)), tmp_path / "other.npz")


def test_several_scans_have_a_probe_each(tmp_path, npz, other_npz, scan):
    said = ptycho("train", npz, other_npz, "-o", tmp_path / "run", "-e", 1, "--filters", 1).output
    photons = (40 * scan.pattern_energies.mean() + 30 * load_scan(other_npz).pattern_energies.mean()) / 70
    assert f"nphotons: {photons:.4g}, the mean counts of the 2 scans' patterns" in said
    config = load_config(tmp_path / "run" / "config.yaml")
    assert (config.n_groups, config.model.n_probes, config.train_data_file) == (70, 2, npz)
    probes = load_archive(tmp_path / "run" / "wts.h5.zip").weights["probe"]
    for probe, path in zip(probes[:, 0], (npz, other_npz), strict=True):
        guess = load_scan(path).probe_guess
        together = np.linalg.norm(probe) * np.linalg.norm(guess)
        assert abs(np.vdot(probe, guess)) == pytest.approx(together, rel=1e-5)
    # the configuration of a run gives the same run again
    ptycho("train", npz, other_npz, "-c", tmp_path / "run" / "config.yaml", "-o", tmp_path / "again")
    assert load_config(tmp_path / "again" / "config.yaml") == dataclasses.replace(
        config, output_dir=tmp_path / "again"
    )


def test_scans_of_one_probe_share_it(tmp_path, npz):
    other = save_scan(simulate_star(64, 30, n_photons=3e4, seed=2), tmp_path / "other.npz")
    ptycho("train", npz, other, "-o", tmp_path / "run", "-e", 1, "--filters", 1, "--gridsize", 2)
    config = load_config(tmp_path / "run" / "config.yaml")
    assert (config.n_groups, config.model.n_probes) == (70, 1)


@pytest.mark.parametrize(("options", "shown"), [((), 40), (("--test", "third.npz"), 20)])
def test_run_of_several_scans_reconstructs_one(tmp_path, npz, other_npz, options, shown):
    save_scan(simulate_star(64, 20, seed=5), tmp_path / "third.npz")
    options = [tmp_path / option if option.endswith(".npz") else option for option in options]
    ptycho("run", npz, other_npz, "-o", tmp_path / "run", "-e", 1, "--filters", 1, "--refine", 0, *options)
    with np.load(tmp_path / "run" / "reconstruction.npz") as entries:
        assert len(entries["group_centres_px"]) == shown


def test_synthetic_scans_take_the_probe_of_a_measured_one(tmp_path, npz, scan, monkeypatch):
    asked = {}

    def train_synthetic(probe_from, parts, config, output_dir, **given):
        asked.update(given, scan=probe_from, parts=parts, config=config)
        return workflows.train(scan, TrainingConfig(nepochs=1), output_dir, backend=given["backend"])

    monkeypatch.setattr(workflows, "train_synthetic", train_synthetic)
    options = ("--epochs", 3, "--nphotons", 500, "-b", "oracle", "-q")
    ptycho("train", "--synthetic", 10_000, "--probe-from", npz, "-o", tmp_path / "prior", *options)
    assert (asked["parts"], asked["photons"], asked["config"].nepochs) == (10_000, 500, 3)
    assert asked["config"].model.architecture == "unrolled"
    assert asked["config"].model.model_type == "supervised"
    np.testing.assert_array_equal(asked["scan"].probe_guess, scan.probe_guess)
    assert asked["execution"].scheduler == "OneCycle"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--synthetic", 100), "probe_from: got none"),
        (("--probe-from", "scan.npz"), "synthetic: got none"),
        (("scan.npz", "--synthetic", 100, "--probe-from", "scan.npz"), "beside --synthetic"),
        (
            ("--synthetic", 100, "--probe-from", "scan.npz", "--n-groups", 9),
            "n_groups: got 9 beside --synthetic",
        ),
        (
            ("--synthetic", 100, "--probe-from", "scan.npz", "--batch-size", "auto"),
            "batch_size: got auto beside",
        ),
        (
            ("--synthetic", 100, "--probe-from", "scan.npz", "--probe-fixed"),
            "probe_trainable: got False beside",
        ),
        ((), "SCAN: got none"),
    ],
)
def test_synthetic_scans_need_all_of_their_options(options, message):
    assert message in error_line("train", *options, "-b", "oracle")


def test_the_command_line_trains_what_starts_from_the_physics(tmp_path, npz):
    ptycho("train", npz, "-o", tmp_path / "new", "-b", "oracle", "-q")
    ptycho("train", npz, "-o", tmp_path / "old", "-b", "oracle", "-q", "--architecture", "cnn")
    new, old = (load_archive(tmp_path / name).config for name in ("new", "old"))
    assert (new.model.architecture, new.model.gridsize, new.nepochs) == ("unrolled", 2, 12)
    assert (old.model.architecture, old.model.gridsize, old.nepochs) == ("cnn", 1, 50)
    files = [tmp_path / name / "execution.yaml" for name in ("new", "old")]
    assert [load_config(file, ExecutionConfig).scheduler for file in files] == ["OneCycle", "Default"]


def test_scans_that_do_not_fit_together(tmp_path, npz):
    large = save_scan(simulate_star(128, 20), tmp_path / "large.npz")
    said = error_line("train", npz, large, "-o", tmp_path / "run", "--filters", 1)
    assert "has patterns of 128, but scan patterns of 64" in said
    assert not (tmp_path / "run").exists()


def test_a_mask_of_its_own_file(tmp_path, npz, scan):
    valid = np.ones((64, 64), np.uint8)
    valid[10:12, 20:24] = 0
    np.save(tmp_path / "mask.npy", valid)
    done = ptycho(
        "train", npz, "-o", tmp_path / "run", "-b", "oracle", "-e", 1, "--mask", tmp_path / "mask.npy", "-v"
    )
    assert "8 of 4096 detector pixels take no part, by the mask" in " ".join(done.output.split())
    ptycho(
        "infer",
        tmp_path / "run",
        npz,
        "-o",
        tmp_path / "image",
        "-b",
        "oracle",
        "--mask",
        tmp_path / "mask.npy",
    )
    masked = save_scan(dataclasses.replace(scan, valid_pixels=valid), tmp_path / "masked.npz")
    assert "8 of 4096 pixels take no part" in ptycho("inspect", masked).output
    np.save(tmp_path / "mask.npy", valid[:5])
    text = error_line("run", npz, "-o", tmp_path / "run", "-b", "oracle", "--mask", tmp_path / "mask.npy")
    assert "mask.npy" in text


def test_options_win_over_the_file_and_the_file_over_the_scan(tmp_path, npz):
    (tmp_path / "c.yaml").write_text(
        "nepochs: 1\nnphotons: 123.0\nbatch_size: 4\nbackend: oracle\nmodel: {n_filters_scale: 1}\n"
    )
    ptycho("train", npz, "-c", tmp_path / "c.yaml", "-o", tmp_path / "run", "--batch-size", 8)
    config = load_config(tmp_path / "run" / "config.yaml")
    assert (config.nepochs, config.nphotons, config.batch_size) == (1, 123.0, 8)
    assert (config.n_groups, config.model.N, config.model.n_filters_scale) == (40, 64, 1)
    # the files of a run give the same run again
    again = tmp_path / "again"
    ptycho(
        "train", npz, "-c", tmp_path / "run" / "config.yaml",
        "--execution", tmp_path / "run" / "execution.yaml", "-o", again,
    )  # fmt: skip
    assert load_config(again / "config.yaml") == dataclasses.replace(config, output_dir=again)


def test_output_goes_where_the_file_says(tmp_path, npz):
    target = tmp_path / "from_file"
    (tmp_path / "c.yaml").write_text(f"nepochs: 1\noutput_dir: {target}\nmodel: {{n_filters_scale: 1}}\n")
    ptycho("train", npz, "-c", tmp_path / "c.yaml")
    assert (target / "wts.h5.zip").is_file()


def test_how_to_run_reaches_the_backend(tmp_path, npz):
    ptycho(
        "train", npz, "-o", tmp_path / "run", "-e", 1, "--filters", 1,
        "--accelerator", "cpu", "--precision", "64-true", "--learning-rate", 0.01, "--picture-every", 4,
    )  # fmt: skip
    execution = load_config(tmp_path / "run" / "execution.yaml", ExecutionConfig)
    assert (execution.accelerator, execution.precision, execution.learning_rate) == ("cpu", "64-true", 0.01)
    assert execution.picture_every == 4
    assert execution.enable_progress_bar is True
    ptycho("train", npz, "-o", tmp_path / "quiet", "-e", 1, "--filters", 1, "--quiet")
    assert load_config(tmp_path / "quiet" / "execution.yaml", ExecutionConfig).enable_progress_bar is False


def test_larger_groups_find_enough_neighbours(tmp_path, npz):
    ptycho("train", npz, "-o", tmp_path, "--gridsize", 3, "-e", 1, "--filters", 1)
    assert load_config(tmp_path / "config.yaml").neighbor_count == 9
    ptycho("infer", tmp_path, npz, "-o", tmp_path / "out", "--n-groups", 20, "--agree-on-phase")
    inferred = load_config(tmp_path / "out" / "inference.yaml", InferenceConfig)
    assert (inferred.n_groups, inferred.neighbor_count, inferred.model.gridsize) == (20, 9, 3)
    assert (inferred.model_path, inferred.test_data_file) == (tmp_path, npz)
    assert inferred.agree_on_phase


def test_quiet_says_nothing(tmp_path, npz):
    result = ptycho("run", npz, "-o", tmp_path / "run", "-e", 1, "--filters", 1, "-q")
    assert result.output == ""


def test_patterns_that_are_no_counts_are_told(tmp_path):
    path = tmp_path / "float.npz"
    ptycho("simulate", path, "--positions", 25, "--no-noise")
    result = ptycho("train", path, "-o", tmp_path / "run", "-e", 1, "--filters", 1)
    assert "warning: nphotons: the patterns are no whole counts" in result.stderr
    assert "give nphotons" in result.stderr
    result = ptycho(
        "train", path, "-o", tmp_path / "run", "-e", 1, "--filters", 1, "--nphotons", 1e5, "--overwrite"
    )
    assert "warning" not in result.stderr


# --- folders of earlier runs


def test_a_folder_that_holds_a_run_is_refused(tmp_path, npz):
    run = tmp_path / "run"
    options = ("--filters", 1, "-e", 1, "--refine", 0)
    ptycho("run", npz, "-o", run, *options)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for verb in (("run", npz), ("train", npz), ("infer", run, npz), ("refine", npz)):
        told = error_line(*verb, "-o", run, *(options if verb[0] == "run" else ()))
        assert f"-o {run}_2" in told
        assert "--overwrite" in told
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    (run / "metrics.json").write_text("of the earlier run")
    ptycho("train", npz, "-o", run, *options[:4], "--overwrite")
    assert not (run / "reconstruction.npz").exists()
    assert not (run / "metrics.json").exists()


# --- Ctrl-C


def test_ctrl_c_keeps_what_was_learned_and_says_how_to_go_on(tmp_path, npz, monkeypatch):
    monkeypatch.setattr(OracleBackend, "interrupt_after", 0)
    result = ptycho("train", npz, "-o", tmp_path / "early", "--filters", 1, code=130)
    assert "interrupted after 0 epochs; go on with" in result.stderr

    monkeypatch.setattr(OracleBackend, "interrupt_after", 2)
    run = tmp_path / "run"
    result = ptycho("run", npz, "-o", run, "-e", 4, "--filters", 1, "--nphotons", 777, code=130)
    again = (
        f"ptycho-backends run {npz} --filters 1 --epochs 4 --nphotons 777.0 --resume {run} --backend oracle"
    )
    assert f"interrupted after 2 epochs; go on with: {again}" in result.stderr
    assert (run / "reconstruction.npz").is_file()
    assert load_archive(run).interrupted

    monkeypatch.setattr(OracleBackend, "interrupt_after", None)
    said = ptycho(*again.split()[1:]).output
    assert "epoch 3/4" in said
    assert "epoch 1/4" not in said
    assert len(load_archive(run).history) == 4
    # the settings of the run that is resumed, not defaults
    config = load_config(run / "config.yaml")
    assert (config.nphotons, config.nepochs, config.model.n_filters_scale) == (777.0, 4, 1)
    ptycho("train", npz, "--resume", run, "-o", tmp_path / "longer", "--epochs", 6)
    assert len(load_archive(tmp_path / "longer").history) == 6


def test_ctrl_c_names_every_scan(tmp_path, npz, other_npz, monkeypatch):
    def interrupted(self, *arguments, **options):
        return dataclasses.replace(train(self, *arguments, **options), interrupted=True)

    train = OracleBackend.train
    monkeypatch.setattr(OracleBackend, "train", interrupted)
    said = ptycho("train", npz, other_npz, "-o", tmp_path / "run", "-e", 1, "--filters", 1, code=130)
    assert (
        f"go on with: ptycho-backends train {npz} {other_npz} --filters 1 --epochs 1 --resume" in said.stderr
    )


def test_ctrl_c_elsewhere(tmp_path, npz, monkeypatch):
    def press(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(OracleBackend, "infer", press)
    result = ptycho("run", npz, "-o", tmp_path / "run", "-e", 1, "--filters", 1, code=130)
    assert result.stderr.splitlines()[-1] == "interrupted"
    assert (tmp_path / "run" / "wts.h5.zip").is_file()


# --- bad input


def rewritten(path, **changes):
    """`path` with some entries replaced, or removed where None."""
    with np.load(path) as entries:
        values = {**entries} | changes
    np.savez(path, **{key: value for key, value in values.items() if value is not None})
    return path


NAN = np.full((40, 64, 64), np.nan, np.float32)
BAD_SCANS = {
    "missing key": ({"ycoords": None}, "ycoords missing"),
    "missing patterns": ({"diff3d": None}, "diff3d missing"),
    "wrong rank": ({"diff3d": np.ones((40, 64), np.float32)}, "diff3d: got shape (40, 64)"),
    "NaN": ({"diff3d": NAN}, "NaN"),
    "unequal lengths": ({"xcoords": np.ones(39)}, "got 40 patterns for 39 positions"),
    "fewer patterns": ({"diff3d": np.ones((39, 64, 64), np.float32)}, "39 patterns for 40 positions"),
    "N not supported": ({"diff3d": np.ones((40, 47, 47), np.float32), "probeGuess": None}, "47 x 47"),
    "empty scan": (
        {
            key: np.empty((0, 64, 64) if key == "diff3d" else 0)
            for key in ("diff3d", "xcoords", "ycoords", "xcoords_start", "ycoords_start", "scan_index")
        },
        "empty",
    ),
    "negative counts": ({"diff3d": np.full((40, 64, 64), -1, np.int32)}, "negative"),
    "dark": ({"diff3d": np.zeros((40, 64, 64), np.uint16)}, "empty (all zeros)"),
    "not square": ({"diff3d": np.ones((40, 64, 32), np.float32)}, "square"),
}


@pytest.mark.parametrize("verb", ["train", "run"])
@pytest.mark.parametrize("what", BAD_SCANS)
def test_a_bad_scan_is_one_clear_error_and_nothing_is_written(tmp_path, npz, what, verb):
    changes, text = BAD_SCANS[what]
    said = error_line(verb, rewritten(npz, **changes), "-o", tmp_path / "run", "--filters", 1)
    assert text in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scan.npz"]


def test_ptychodus_files_in_and_out(tmp_path, npz, scan):
    known = dataclasses.replace(scan, pixel_size_m=2e-8, photon_energy_eV=8000.0, detector_distance_m=1.5)
    training_data = export_training_data(known, tmp_path / "train.h5")
    product = tmp_path / "made" / "product.h5"
    run = ("run", training_data, "-o", tmp_path / "run", "-e", 1, "-q", "--product", product)
    ptycho(*run)
    assert load_product(product).metadata.photon_energy_eV == 8000.0
    assert "20 nm" in ptycho("inspect", training_data).output
    product.unlink()
    ptycho("infer", tmp_path / "run", training_data, "-o", tmp_path / "out", "--product", product)
    assert len(load_product(product)) == len(scan)
    vague = ("infer", tmp_path / "run", npz, "-o", tmp_path / "none", "--product", product)
    assert "needs pixel_size_m, photon_energy_eV, detector_distance_m" in error_line(*vague)
    assert not (tmp_path / "none").exists()


def test_a_bad_scan_for_infer(tmp_path, npz):
    ptycho("train", npz, "-o", tmp_path / "run", "-e", 1, "--filters", 1)
    bad = save_scan(simulate_star(128, 10), tmp_path / "large.npz")
    assert "128" in error_line("infer", tmp_path / "run", bad, "-o", tmp_path / "out")
    assert "NaN" in error_line("infer", tmp_path / "run", rewritten(npz, diff3d=NAN), "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_that_cannot_be_read(tmp_path, npz):
    text, out = tmp_path / "text.npz", tmp_path / "out"
    text.write_text("these are not the patterns you are looking for")
    half = tmp_path / "half.npz"
    half.write_bytes(npz.read_bytes()[:5000])
    for path in (tmp_path / "none.npz", text, half, tmp_path):
        assert str(path) in error_line("train", path, "-o", out)
        assert str(path) in error_line("infer", path, npz, "-o", out)
    assert "none.npz" in error_line("inspect", tmp_path / "none.npz")
    assert "text.npz" in error_line("inspect", text)
    assert "c.yaml" in error_line("train", npz, "-c", tmp_path / "c.yaml", "-o", out)
    assert "none" in error_line("train", npz, "--resume", tmp_path / "none", "-o", out)
    assert not out.exists()


def test_a_damaged_archive_is_told_by_inspect(tmp_path, npz):
    ptycho("train", npz, "-o", tmp_path / "run", "-e", 1, "--filters", 1)
    archive = tmp_path / "run" / "wts.h5.zip"
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 0xFF
    archive.write_bytes(data)
    assert "whole    no" in ptycho("inspect", archive, code=2).output
    assert "wts.h5.zip" in error_line("infer", archive, npz, "-o", tmp_path / "out")


def test_output_that_cannot_be_written(tmp_path, npz):
    blocked = tmp_path / "file" / "run"
    (tmp_path / "file").write_text("mine")
    for command in (
        ("train", npz, "-o", blocked, "-e", 1, "--filters", 1),
        ("run", npz, "-o", blocked, "-e", 1, "--filters", 1),
        ("demo", "-o", blocked, "--positions", 20, "--epochs", 1),
        ("simulate", blocked / "scan.npz", "--positions", 9),
    ):
        assert f"error: {blocked}" in error_line(*command)
    ptycho("train", npz, "-o", tmp_path / "run", "-e", 1, "--filters", 1)
    assert f"error: {blocked}" in error_line("infer", tmp_path / "run", npz, "-o", blocked)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--epochs", 0], "nepochs: got 0"),
        (["--epochs", 0, "--gridsize", 0, "--batch-size", 3], "gridsize: got 0"),
        (["--epochs", 0, "--gridsize", 0, "--batch-size", 3], "batch_size: got 3"),
        (["--nphotons", -1], "nphotons: got -1"),
        (["--precision", "16"], "precision: got '16'"),
        (["--accelerator", "tpu"], "accelerator: got 'tpu'"),
        (["--measurement", "phase"], "measurement: got 'phase'"),
        (["--backend", "jax"], "backend: got 'jax'"),
        (["--gridsize", 2, "--n-groups", 41], "41 groups for 40 positions"),
    ],
)
def test_bad_options_are_one_clear_error(tmp_path, npz, options, text):
    assert text in error_line("train", npz, "-o", tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


def test_unknown_keys_of_a_file_are_told(tmp_path, npz):
    (tmp_path / "c.yaml").write_text("nepoch: 3\n")
    assert "did you mean 'nepochs'" in error_line("train", npz, "-c", tmp_path / "c.yaml")


def test_debug_shows_where_an_error_arose(tmp_path):
    result = CliRunner().invoke(app, ["inspect", str(tmp_path / "none.npz"), "--debug"])
    assert type(result.exception).__name__ == "ScanError"


def test_a_missing_framework_is_told_with_the_command_that_installs_it(tmp_path, npz, monkeypatch):
    entry = registry.BackendEntry(
        "Absent", "absent_framework.backend:X", frozenset({"absent_framework"}), "pip install absent"
    )
    monkeypatch.setattr(registry, "BUILT_IN", {"absent": entry})
    said = error_line("train", npz, "-b", "absent", "-o", tmp_path / "run")
    assert "pip install absent" in said
    assert "No backend is installed" in error_line("train", npz, "-o", tmp_path / "run")
    monkeypatch.setenv(registry.ENVIRONMENT_VARIABLE, "absent")
    assert "Absent backend selected" in error_line("demo", "-o", tmp_path / "run")


def test_settings_that_the_file_leaves_open_are_no_choice_of_backend(tmp_path, npz):
    (tmp_path / "c.yaml").write_text("nepochs: 1\nmodel: {n_filters_scale: 1}\n")
    assert TrainingConfig().backend == "tensorflow"
    ptycho("train", npz, "-c", tmp_path / "c.yaml", "-o", tmp_path / "run")
    assert load_config(tmp_path / "run" / "config.yaml").backend == "oracle"


def test_commands_leave_logging_and_the_environment_as_they_were(tmp_path, npz):
    import logging

    logger = logging.getLogger("ptycho_backends")
    before = (list(logger.handlers), logger.level, logger.propagate, dict(os.environ))
    ptycho("train", npz, "-o", tmp_path / "run", "-e", 1, "--filters", 1, "-vv")
    error_line("inspect", tmp_path / "none.npz")
    assert (list(logger.handlers), logger.level, logger.propagate, dict(os.environ)) == before
