"""`ptycho` computing with TensorFlow, on a real scan."""

import numpy as np
import pytest

import ptycho.loader
import ptycho.model_manager
import ptycho.params
import ptycho.tf_helper
from ptycho.workflows.components import load_data, load_inference_bundle, run_cdi_example
from ptycho_backends.config import ModelConfig, TrainingConfig


@pytest.mark.shared
def test_train_save_load_reconstruct(shared, monkeypatch, tmp_path):
    monkeypatch.setenv("PTYCHO_BACKEND", "tensorflow")
    raw = load_data(shared / "data" / "siemens_star_64.npz", n_images=12)
    model = ModelConfig(N=0, n_filters_scale=1)
    config = TrainingConfig(model=model, nepochs=1, nphotons=1e6, batch_size=4)
    amplitude, phase, results = run_cdi_example(raw, raw, config)
    assert results["backend"] == "tensorflow"
    assert len(results["history"]["loss"]) == 1
    image = amplitude * np.exp(1j * phase)

    ptycho.model_manager.save(tmp_path)
    model, _ = load_inference_bundle(tmp_path)
    assert model.backend.name == "tensorflow"
    grouped = raw.generate_grouped_data(64, nsamples=12, gridsize=1, sequential_sampling=True)
    container = ptycho.loader.load(lambda: grouped, raw.probeGuess, which=None, create_split=False)
    patches = model.predict([container.X * ptycho.params.get("intensity_scale"), container.local_offsets])
    assert type(patches) is np.ndarray
    # centred on the mean of the groups, as run_cdi_example does
    again = ptycho.tf_helper.reassemble_position(patches, np.array(container.global_offsets), M=20)
    np.testing.assert_allclose(again[..., 0], image, atol=1e-5)
