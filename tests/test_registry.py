import subprocess
import sys
import textwrap

import pytest

from ptycho_backends import builtin_backends, registry
from ptycho_backends.config import TrainingConfig
from ptycho_backends.errors import BackendUnavailableError, UnknownBackendError


class Toy:
    name = "toy"


class Point:
    """Stands in for an entry point of another distribution."""

    def __init__(self, name, value, target=Toy):
        self.name, self.value, self._target = name, value, target

    def load(self):
        if isinstance(self._target, Exception):
            raise self._target
        return self._target


@pytest.fixture
def points(monkeypatch):
    found = []
    monkeypatch.setattr(registry, "registered", lambda group: found)
    monkeypatch.delenv("PTYCHO_BACKEND", raising=False)
    return found


def test_an_unknown_name_lists_the_known_ones(points):
    with pytest.raises(UnknownBackendError, match=r"got 'jax', want one of torch, tensorflow, pytorch, tf"):
        registry.get_backend("jax")
    with pytest.raises(ValueError, match="jax"):
        registry.get_backend("jax")


def test_a_third_party_registers_by_entry_point(points):
    points.append(Point("Toy", "toy:Toy"))
    assert registry.get_backend("TOY").name == "toy"
    assert registry.backend_names() == ("torch", "tensorflow", "toy")
    assert registry.get_backend(config=TrainingConfig(backend="toy")).name == "toy"


def test_the_environment_comes_before_the_configuration(points, monkeypatch):
    points.append(Point("toy", "toy:Toy"))
    monkeypatch.setenv("PTYCHO_BACKEND", "toy")
    assert registry.get_backend(config=TrainingConfig(backend="tensorflow")).name == "toy"
    monkeypatch.setenv("PTYCHO_BACKEND", "other")
    assert registry.get_backend("toy").name == "toy"


def test_two_of_one_name_are_an_error(points):
    points += [Point("toy", "toy:Toy"), Point("toy", "rival:Toy")]
    with pytest.raises(UnknownBackendError, match="rival:Toy, toy:Toy; uninstall all but one"):
        registry.get_backend("toy")
    points[:] = [Point("torch", "rival:Torch")]
    with pytest.raises(UnknownBackendError, match="rival:Torch registers the same name"):
        registry.get_backend("torch")


def test_a_third_party_that_does_not_load_is_an_error(points):
    points.append(Point("toy", "toy:Toy", ImportError("no module named spam")))
    with pytest.raises(BackendUnavailableError, match=r"toy backend selected, but toy:Toy.*spam"):
        registry.get_backend("toy")


@pytest.mark.parametrize("name", ["torch", "PyTorch", "tensorflow", "TF"])
def test_a_missing_framework_names_the_install_command(name):
    program = textwrap.dedent(
        f"""
        import sys
        for module in ("torch", "lightning", "tensorflow", "keras"):
            sys.modules[module] = None
        from ptycho_backends import get_backend
        try:
            get_backend({name!r})
        except RuntimeError as error:
            print(type(error).__name__, error)
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    label, extra = ("PyTorch", "torch") if "orch" in name else ("TensorFlow", "tensorflow")
    assert f"BackendUnavailableError {label} backend selected, but" in done.stdout, done.stderr
    assert f"pip install 'ptycho-backends[{extra}]'" in done.stdout


def test_another_missing_module_is_not_blamed_on_the_user(monkeypatch):
    entry = registry.BackendEntry("Broken", "no_such_module:Backend", frozenset({"torch"}), "pip")
    monkeypatch.setattr(registry, "BUILT_IN", {"broken": entry})
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        registry.get_backend("broken")


def test_nothing_installed(monkeypatch, points):
    monkeypatch.setattr(builtin_backends, "find_spec", lambda name: None)
    with pytest.raises(BackendUnavailableError, match=r"ptycho-backends\[torch\].*tensorflow"):
        registry.get_backend()
