"""`--set`, `--print-config`, files of sections, `schema`, and `find-rate`, on a backend that looks its answers up."""

import json

import numpy as np
import pytest
import yaml
from oracle_backend import OracleBackend, installed_alone
from typer.testing import CliRunner

from ptycho_backends.cli.commands import app
from ptycho_backends.config import ExecutionConfig, RefinementConfig
from ptycho_backends.config_file import load_config
from ptycho_backends.scans.scan_files import save_scan
from ptycho_backends.scans.simulate import simulate_star

SMALL = ("--set", "model.gridsize=1", "--set", "training.nepochs=1", "-q")


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    return save_scan(simulate_star(32, 30, seed=0), tmp_path_factory.mktemp("scan") / "scan.npz")


@pytest.fixture(autouse=True)
def oracle(monkeypatch):
    installed_alone(
        monkeypatch,
        "images.save_reconstruction_figure",
        "images.save_passes_figure",
        "training.save_history_figure",
        "result.save_report",
    )


def ptycho(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def printed(*arguments):
    return yaml.safe_load(ptycho(*arguments, "--print-config").stdout)


def test_any_setting_reaches_the_run(tmp_path, npz):
    ptycho(
        "train", npz, "-o", tmp_path, *SMALL, "--set", "training.nll_weight=0.5", "--set", "model.n_steps=3",
        "--epochs", 7, "--set", "execution.scheduler=Cosine",
    )  # fmt: skip
    config = load_config(tmp_path / "config.yaml")
    assert (config.nll_weight, config.model.n_steps, config.model.gridsize) == (0.5, 3, 1)
    # --set wins over the option
    assert config.nepochs == 1
    execution = load_config(tmp_path / "execution.yaml", ExecutionConfig)
    # and the recipe has the rest
    assert (execution.scheduler, execution.learning_rate) == ("Cosine", 2e-3)


def test_a_setting_of_another_architecture_follows_its_recipe(npz):
    config = printed("run", npz, "--set", "model.architecture=cnn")
    assert (config["model"]["architecture"], config["training"]["nepochs"]) == ("cnn", 50)
    assert config["execution"]["scheduler"] == "Default"


def test_what_is_printed_gives_the_same_run(tmp_path, npz):
    options = (
        "-a",
        "unrolled",
        *SMALL,
        "--refine",
        2,
        "--precision",
        "64-true",
        "--set",
        "refinement.smoothness=0.5",
    )
    text = ptycho("run", npz, "-o", tmp_path / "run", *options, "--print-config").stdout
    # nothing was computed or written
    assert not (tmp_path / "run").exists()
    path = tmp_path / "all.yaml"
    path.write_text(text)
    assert printed("run", npz, "--config", path) == yaml.safe_load(text)
    ptycho("run", npz, "--config", path, "-q")
    assert load_config(tmp_path / "run" / "config.yaml").model.gridsize == 1
    assert load_config(tmp_path / "run" / "execution.yaml", ExecutionConfig).precision == "64-true"
    refinement = load_config(tmp_path / "run" / "refinement.yaml", RefinementConfig)
    assert (refinement.passes, refinement.smoothness) == (2, 0.5)
    # one file for every command: the section `refinement` switches it on
    config = printed("infer", tmp_path / "run", npz, "--config", path, "--set", "inference.n_groups=20")
    assert (config["inference"]["n_groups"], config["refinement"]["passes"]) == (20, 2)
    assert config["model"]["n_steps"] == 8
    assert printed("refine", npz, "--config", path)["refinement"]["smoothness"] == 0.5
    assert (
        printed("watch", "folder", "--model", tmp_path / "run", "--config", path)["execution"]["precision"]
        == "64-true"
    )
    assert printed("train", npz, "--config", path, "--epochs", 3)["training"]["nepochs"] == 3


def test_no_refinement_is_printed_and_read(tmp_path, npz):
    text = ptycho("run", npz, "--refine", 0, "--print-config").stdout
    assert yaml.safe_load(text)["refinement"] is None
    path = tmp_path / "all.yaml"
    path.write_text(text)
    assert printed("run", npz, "-c", path)["refinement"] is None
    assert printed("run", npz, "-c", path, "--refine", "auto")["refinement"]["passes"] is None


def test_a_file_of_one_configuration_is_as_before(tmp_path, npz):
    path = tmp_path / "c.yaml"
    path.write_text("nepochs: 1\n")
    # what it leaves open has the defaults of the class, not of the recipe
    assert printed("train", npz, "-c", path)["model"]["architecture"] == "cnn"
    path.write_text("passes: 3\n")
    assert printed("refine", npz, "-c", path)["refinement"]["passes"] == 3
    assert "want a file of sections" in error("watch", "folder", "--model", "run", "-c", path)


def error(*arguments):
    return " ".join(ptycho(*arguments, code=2).stderr.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--set", "training.nl_weight=1"), "did you mean training.nll_weight"),
        (("train", "--set", "training.nepochs=soon"), "nepochs: got 'soon', want an integer"),
        (("train", "--set", "refinement.passes=3"), "refinement.passes: means nothing here"),
        (("run", "--refine", 0, "--set", "refinement.passes=3"), "passes: given, but nothing is refined"),
        (("run", "--set", "execution.accelerator=cuda:one"), "accelerator: got 'cuda:one'"),
        (("run", "--set", "execution.accelerator=cuda:1", "--set", "execution.devices=2"), "which names one"),
    ],
)
def test_bad_settings_are_one_clear_error(npz, arguments, message):
    assert message in error(arguments[0], npz, *arguments[1:])


def test_settings_of_synthetic_scans(npz):
    config = printed("train", "--synthetic", 100, "--probe-from", npz, "--set", "training.batch_size=4")
    assert (config["training"]["batch_size"], config["model"]["model_type"]) == (4, "supervised")


def test_an_interrupted_run_is_repeated_with_its_settings(tmp_path, npz, monkeypatch):
    monkeypatch.setattr(OracleBackend, "interrupt_after", 1)
    path = tmp_path / "all.yaml"
    path.write_text("training: {nepochs: 3}\nrefinement: {passes: 1}\n")
    given = ("-c", path, "--set", "training.seed=3", "--set", "model.gridsize=1")
    again = ptycho("run", npz, "-o", tmp_path / "run", *given, code=130).stderr
    repeated = f"--set training.seed=3 --set model.gridsize=1 --config {path} --resume {tmp_path / 'run'}"
    assert repeated in again


def test_the_schema_is_printed():
    assert (
        json.loads(ptycho("schema").stdout)["properties"]["training"]["properties"]["nepochs"]["minimum"] == 1
    )
    assert json.loads(ptycho("schema", "execution").stdout)["title"].startswith("ExecutionConfig")
    assert "section: got 'trainer'" in error("schema", "trainer")


def test_find_rate(tmp_path, npz, monkeypatch):
    first = []

    def loss(self, config, weights, batch, *, execution=None):
        first.append(float(weights["log_scale"]))
        # falls with every step, and most with the largest
        return {"total": 10.0 - abs(first[-1] - first[0])}

    def gradients(self, config, weights, batch, *, execution=None):
        return {name: np.ones_like(value) for name, value in weights.items()}

    monkeypatch.setattr(OracleBackend, "loss", loss)
    monkeypatch.setattr(OracleBackend, "gradients", gradients)
    said = ptycho(
        "find-rate", npz, "-o", tmp_path / "rates", "--steps", 12, "--highest", 0.1, *SMALL[:4]
    ).output
    assert "learning rate: 0.1, as in --learning-rate 0.1" in said
    rows = np.loadtxt(tmp_path / "rates" / "rates.csv", delimiter=",", skiprows=1)
    assert rows.shape == (12, 2)
    np.testing.assert_allclose(rows[[0, -1], 0], [1e-6, 0.1])
    assert (tmp_path / "rates" / "rates.png").read_bytes().startswith(b"\x89PNG")
