"""The one table that names backends, and the one spelling of their names."""

import ast
from pathlib import Path

import pytest

import ptycho_backends
from ptycho_backends import builtin_backends as table
from ptycho_backends.config import (
    InferenceConfig,
    TrainingConfig,
    config_from_plain,
    config_to_plain,
    validate,
)
from ptycho_backends.config_file import load_config, save_config
from ptycho_backends.params import params
from ptycho_backends.params.bridge import training_config_from_legacy_dict, update_legacy_dict
from ptycho_backends.registry import BUILT_IN, logger_names

CORE = Path(ptycho_backends.__file__).parent
# Single functions of the frameworks are called here; vocabularies of pickles are facts about files.
BY_FRAMEWORK = {"builtin_backends.py", "testing/sides.py", "files/data_pickle.py", "files/torch_file.py"}


def core_files():
    for path in sorted(CORE.rglob("*.py")):
        name = path.relative_to(CORE).as_posix()
        if name not in BY_FRAMEWORK and not name.startswith("tensorflow/"):
            yield name, path


def test_no_other_file_of_the_core_names_a_backend():
    names = {*table.BUILT_IN, *table.ALIASES}
    found = [
        f"{name}:{node.lineno}: {node.value!r}"
        for name, path in core_files()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in names
    ]
    assert not found


def test_names_and_aliases():
    assert table.BUILT_IN is BUILT_IN
    for spelling, name in {"torch": "torch", "PyTorch": "torch", "TF": "tensorflow", "Mine": "mine"}.items():
        assert table.canonical_name(spelling) == name
    assert [table.legacy_name(name) for name in ("torch", "pytorch", "tensorflow", "tf", "mine")] == [
        "pytorch", "pytorch", "tensorflow", "tensorflow", "mine",
    ]  # fmt: skip
    assert table.backend_of_framework("lightning") == "torch"
    assert table.backend_of_framework("keras") == "tensorflow"
    with pytest.raises(KeyError):
        table.backend_of_framework("jax")
    assert table.framework_modules() == ("torch", "lightning", "tensorflow", "keras")
    assert set(logger_names()) >= {"ptycho_backends", "ptycho_torch"}


@pytest.mark.parametrize("cls", [TrainingConfig, InferenceConfig])
def test_one_spelling_inside_and_the_legacy_one_in_params(cls, tmp_path):
    config = cls(backend="PyTorch")
    assert config.backend == "torch"
    config.backend = "pytorch"
    config.model.N = 64
    validate(config)
    assert config.backend == "torch"
    assert "backend: torch " in save_config(config, tmp_path / "new.yaml").read_text()
    # as files were written before
    (tmp_path / "old.yaml").write_text("backend: pytorch\n")
    assert load_config(tmp_path / "old.yaml", cls).backend == "torch"
    assert config_from_plain(cls, config_to_plain(config) | {"backend": "pytorch"}) == config
    update_legacy_dict(params.cfg, config)
    assert params.cfg["backend"] == "pytorch"


def test_a_dictionary_of_before_is_understood():
    update_legacy_dict(params.cfg, TrainingConfig(backend="torch"))
    assert training_config_from_legacy_dict(params.cfg).backend == "torch"


@pytest.mark.parametrize(
    ("installed", "default"),
    [
        (("torch", "lightning"), "torch"),
        (("tensorflow", "keras"), "tensorflow"),
        (("torch", "lightning", "tensorflow", "keras"), "tensorflow"),
        ((), "tensorflow"),
    ],
)
def test_the_default_is_a_backend_that_is_installed(monkeypatch, installed, default):
    monkeypatch.setattr(table, "is_importable", lambda module: module in installed)
    assert table.default_backend() == default


def test_the_default_of_configurations_is_that_one():
    assert TrainingConfig().backend == InferenceConfig().backend == table.DEFAULT_BACKEND
