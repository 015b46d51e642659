"""Archives and checkpoints of PtychoPINN's PyTorch port: what loads, what is refused and in which words."""

import pickle
import zipfile

import numpy as np
import pytest

from ptycho_backends.archive import port_model
from ptycho_backends.archive.model_file import inspect_archive, load_archive, save_archive
from ptycho_backends.errors import ArchiveError
from ptycho_backends.files import torch_file
from ptycho_backends.params import params
from ptycho_backends.reference import network

ARCHIVE, CHECKPOINT = "torch_port_gs2.wts.h5.zip", "torch_port_gs2.last.ckpt"
pytestmark = pytest.mark.shared


@pytest.fixture
def golden(shared):
    return shared / "golden"


def rewritten(source, target, change):
    """A copy of a zip whose members `change` maps: name and bytes to bytes, or None for none."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = change(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
    return target


def with_setting(monkeypatch, name, value):
    """Files of the port seem to say `name=value`."""
    real = torch_file.TorchFile.__init__

    def changed(self, members):
        real(self, members)
        content = self.content.get("hyper_parameters", self.content)
        if "model_config" in content:
            content["model_config"][name] = value

    monkeypatch.setattr(torch_file.TorchFile, "__init__", changed)


@pytest.mark.parametrize(
    ("file", "case"), [("torch_port_gs1.wts.h5.zip", "gs1"), (ARCHIVE, "gs2"), (CHECKPOINT, "gs2")]
)
def test_the_reference_reproduces_the_patches(golden, file, case):
    model = load_archive(golden / file)
    with np.load(golden / f"torch_port_{case}.npz") as recorded:
        fed = recorded["X"][:2].transpose(0, 2, 3, 1).astype(float) * model.intensity_scale
        want = recorded["pred_obj"][:2].transpose(0, 2, 3, 1)
    wide = {
        name: value.astype(np.float64) for name, value in model.weights.items() if value.dtype.kind == "f"
    }
    got = network.object_patches(fed, wide, model.config.model)
    assert np.linalg.norm(got - want) < 1e-6 * np.linalg.norm(want)
    # each patch by itself, since large ones would hide a small one
    for one, other in zip(got, want, strict=True):
        assert np.linalg.norm(one - other) < 1e-5 * np.linalg.norm(other)


def test_archive_and_checkpoint_hold_the_same_model(golden):
    archive, checkpoint = load_archive(golden / ARCHIVE), load_archive(golden / CHECKPOINT)
    for name, weight in archive.weights.items():
        np.testing.assert_array_equal(checkpoint.weights[name], weight, err_msg=name)
    assert archive.config == checkpoint.config
    assert archive.intensity_scale == pytest.approx(31.25)
    assert params.cfg["intensity_scale"] == pytest.approx(31.25)
    assert (archive.backend, archive.training_state) == ("torch", None)


def test_it_can_be_saved_as_one_of_ours(golden, tmp_path):
    model = load_archive(golden / CHECKPOINT)
    again = load_archive(save_archive(model, tmp_path))
    assert again.config == model.config
    assert all(np.array_equal(again.weights[name], weight) for name, weight in model.weights.items())


def test_the_missing_probe_is_said(golden, caplog):
    load_archive(golden / ARCHIVE)
    assert "holds no probe; the default one stands in" in caplog.text


@pytest.mark.parametrize("file", [ARCHIVE, CHECKPOINT])
def test_a_summary_names_the_port(golden, file):
    summary = inspect_archive(golden / file)
    assert summary.whole
    assert "port" in summary.format
    assert summary.config.model.architecture == "attention"


@pytest.mark.parametrize("file", [ARCHIVE, CHECKPOINT])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("architecture", "fno"),
        ("cbam_decoder", True),
        ("physics_forward_mode", "rectangular"),
        ("batch_norm", True),
    ],
)
def test_another_network_is_refused_by_name(golden, monkeypatch, file, name, value):
    with_setting(monkeypatch, name, value)
    with pytest.raises(ArchiveError, match=f"PyTorch port with {name}={value!r}.*use the port itself"):
        load_archive(golden / file)


def test_configurations_that_contradict_the_weights_are_refused(golden, monkeypatch):
    with_setting(monkeypatch, "n_filters_scale", 2)
    with pytest.raises(ArchiveError, match="encoder/block0/conv0/kernel: got"):
        load_archive(golden / ARCHIVE)


def test_an_archive_without_its_configurations_is_refused(golden, tmp_path):
    path = rewritten(
        golden / ARCHIVE,
        tmp_path / "old.wts.h5.zip",
        lambda name, data: None if name == port_model.CONFIGS else data,
    )
    with pytest.raises(
        ArchiveError, match="missing, and with it the settings of the network; save the model again"
    ):
        load_archive(path)


def test_another_version_is_refused(golden, tmp_path):
    manifest = pickle.dumps({"models": ["diffraction_to_obj", "autoencoder"], "version": "3.0-pytorch"})
    path = rewritten(
        golden / ARCHIVE,
        tmp_path / "new.wts.h5.zip",
        lambda name, data: manifest if name == "manifest.dill" else data,
    )
    with pytest.raises(ArchiveError, match=r"version: got '3.0-pytorch', want '1.0' or '2.0-pytorch'"):
        load_archive(path)


def test_damage_is_found(golden, tmp_path):
    def cut(name, data):
        return data[: len(data) // 2] if name == port_model.WEIGHTS else data

    with pytest.raises(ArchiveError, match=port_model.WEIGHTS):
        load_archive(rewritten(golden / ARCHIVE, tmp_path / "cut.wts.h5.zip", cut))


def test_code_in_a_pickle_is_refused(golden, tmp_path):
    evil = b"cos\nsystem\n(S'true'\ntR."
    path = rewritten(
        golden / ARCHIVE, tmp_path / "evil.wts.h5.zip",
        lambda name, data: evil if name == port_model.PARAMS else data,
    )  # fmt: skip
    with pytest.raises(ArchiveError, match=r"os\.system"):
        load_archive(path)
