"""The configurations that Ptychodus sends, and the table with the use of each field."""

import dataclasses
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ptycho_backends.errors import ConfigError
from ptycho_torch import config_params
from ptycho_torch.config_params import DataConfig, DatagenConfig, InferenceConfig, ModelConfig, TrainingConfig
from ptycho_torch.settings_table import SECTIONS, SETTINGS, USES, check, field_names, problems_of

REPOSITORY = Path(__file__).resolve().parents[2]
CLASSES = (DataConfig, ModelConfig, TrainingConfig, InferenceConfig)


@pytest.mark.parametrize("cls", CLASSES)
def test_the_table_has_every_field_and_no_other(cls):
    assert [setting.field for setting in SETTINGS[cls]] == field_names(cls)
    assert {setting.use for setting in SETTINGS[cls]} <= set(USES)
    assert problems_of(cls()) == []
    assert cls in SECTIONS
    assert field_names(DatagenConfig) == []


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            DataConfig(normalize="Patch"),
            r"normalize \(data_normalization_mode\): got 'Patch', want one of 'Batch'",
        ),
        (DataConfig(x_bounds=(0.5, 0.5)), r"x_bounds \(x_lower_bound, x_upper_bound\): got \(0.5, 0.5\)"),
        (DataConfig(grid_size=(2, 3)), r"grid_size .*: got \(2, 3\), want two equal integers"),
        (DataConfig(C=9), r"C \(num_channels\): got 9, want 4, the product of grid_size=\(2, 2\)"),
        (ModelConfig(loss_function="MSE"), "loss_function: got 'MSE', want one of 'Poisson', 'MAE'"),
        (ModelConfig(amp_loss="Variance"), r"amp_loss \(auxiliary_amplitude_loss\): got 'Variance'"),
        (ModelConfig(decoder_spatial_kernel=4), "decoder_spatial_kernel: got 4, want an odd integer"),
        (ModelConfig(probe_reference_coeff=0.1), r"probe_reference_coeff .*: got 0.1, want one of 0.0"),
        (TrainingConfig(batch_size=24), "batch_size: got 24, want a power of two"),
        (TrainingConfig(n_devices=0), "n_devices: got 0, want an integer >= 1"),
        (TrainingConfig(device="tpu"), "device: got 'tpu', want one of 'auto', 'cpu', 'cuda'"),
        (TrainingConfig(scheduler="Cyclic"), r"scheduler \(learning_rate_scheduler\): got 'Cyclic'"),
        (TrainingConfig(framework="Keras"), "framework: got 'Keras'"),
        (TrainingConfig(orchestrator="Mlflow"), "orchestrator: got 'Mlflow'"),
        (InferenceConfig(middle_trim=33), "middle_trim: got 33, want an even integer"),
        (
            InferenceConfig(patch_weighting="gauss"),
            r"patch_weighting \(patch_weighting_method\): got 'gauss'",
        ),
        (InferenceConfig(experiment_number=1), "experiment_number: got 1, want one of 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_refused_is_named_as_ptychodus_names_it(config, message):
    with pytest.raises(ConfigError, match=message):
        check([config])


def test_the_channels_must_agree_and_all_problems_are_told_at_once():
    with pytest.raises(ConfigError, match="C_model: got 9, want C=4; C_forward: got 1, want C=4"):
        check([DataConfig(), ModelConfig(C_model=9, C_forward=1)])
    with pytest.raises(ConfigError, match=r"normalize .*; nll .*: got 'yes'.*; window: got -1"):
        check(
            [DataConfig(normalize=""), ModelConfig(), TrainingConfig(nll="yes"), InferenceConfig(window=-1)]
        )
    # NumPy integers are numbers too
    check([DataConfig(N=np.int64(64), probe_scale=np.float32(2))])


def test_the_configurations_travel_to_a_bare_interpreter(tmp_path):
    """As Ptychodus sends them: pickled to a new process, changed there; no framework, nothing written."""
    configs = [getattr(config_params, name)() for name in dir(config_params) if name.endswith("Config")]
    assert len(configs) == 5
    (tmp_path / "payload").write_bytes(pickle.dumps(configs))
    code = """
import pickle, sys
configs = pickle.load(open("payload", "rb"))
training = next(config for config in configs if hasattr(config, "n_devices"))
training.n_devices = 3
print(training.n_devices, sorted(set(sys.modules) & {"torch", "lightning", "tensorflow", "numpy"}))
"""
    environment = {"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout == "3 []\n"
    assert [path.name for path in tmp_path.iterdir()] == ["payload"]


def test_every_field_has_a_default_and_is_mutable():
    for cls in CLASSES:
        config = cls()
        for field in dataclasses.fields(cls):
            setattr(config, field.name, getattr(config, field.name))
        assert config == cls()
