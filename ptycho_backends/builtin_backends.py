"""The built-in backends as data: names and aliases, where each lives, its frameworks, its habits.

The one table that knows a backend by name. Everything else asks it, or the registry above it, which adds the
backends of third parties. No framework is imported from here.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from types import MappingProxyType


@dataclass(frozen=True)
class BackendEntry:
    """One backend: how to import it, and the facts about it that code without its framework needs.

    Attributes
    ----------
    label : str
        Name for people.
    target : str
        'module:class'; the class is called without arguments.
    frameworks : collection of str
        Modules that have to be installed.
    install : str
        Command that installs them.
    aliases : tuple of str
        Other names that are accepted for it, in lower case.
    legacy_name : str, optional
        Its name in `params.cfg`, where the legacy package spells it otherwise.
    cluster_variable : str, optional
        Environment variable that connects its processes, and that counts before any launcher's.
    task_strategy : str, optional
        The strategy with which tasks of `srun` work together; None: every one but 'auto', and several devices.
    export_formats : tuple of str
        Formats of models that it alone writes (`export.formats`).
    """

    label: str
    target: str
    frameworks: Collection[str]
    install: str
    aliases: tuple[str, ...] = ()
    legacy_name: str | None = None
    cluster_variable: str | None = None
    task_strategy: str | None = None
    export_formats: tuple[str, ...] = ()

    @property
    def package(self) -> str:
        """Top-level package of its code, and so the root of its loggers."""
        return self.target.partition(":")[0].partition(".")[0]


# In the order of preference when nothing was chosen.
BUILT_IN: Mapping[str, BackendEntry] = MappingProxyType(
    {
        "torch": BackendEntry(
            label="PyTorch",
            target="ptycho_torch.backend.backend:TorchBackend",
            frameworks=("torch", "lightning"),
            install="pip install 'ptycho-backends[torch]'",
            aliases=("pytorch",),
            legacy_name="pytorch",
            export_formats=("onnx", "onnx-physics", "torch-export"),
        ),
        "tensorflow": BackendEntry(
            label="TensorFlow",
            target="ptycho_backends.tensorflow.backend:TensorFlowBackend",
            frameworks=("tensorflow", "keras"),
            install="pip install 'ptycho-backends[tensorflow]'",
            aliases=("tf",),
            cluster_variable="TF_CONFIG",
            task_strategy="multi_worker_mirrored",
            export_formats=("saved-model", "litert"),
        ),
    }
)

LEGACY_BACKEND = "tensorflow"
"""Framework of the legacy package."""


def is_importable(module: str) -> bool:
    """True if `module` is installed; imports nothing."""
    try:
        spec = find_spec(module)
        # without an origin it is some folder of that name on the path, not the framework
        return spec is not None and spec.origin is not None
    except (ImportError, ValueError):
        return False


def default_backend() -> str:
    """`LEGACY_BACKEND`; or the first installed backend, where that one is missing."""
    order = [LEGACY_BACKEND, *BUILT_IN]
    found = (name for name in order if all(map(is_importable, BUILT_IN[name].frameworks)))
    return next(found, LEGACY_BACKEND)


DEFAULT_BACKEND = default_backend()
"""Default of the field `backend` in a configuration."""

ALIASES: Mapping[str, str] = MappingProxyType(
    {alias: name for name, entry in BUILT_IN.items() for alias in entry.aliases}
)


def canonical_name(name: str) -> str:
    """Registered name of the backend that `name` means: lower case, aliases resolved.

    A name that is not in the table stays as it is, because third-party backends register their own.
    """
    return ALIASES.get(name.lower(), name.lower())


def legacy_name(name: str) -> str:
    """Spelling of a backend's name in `params.cfg`."""
    name = canonical_name(name)
    entry = BUILT_IN.get(name)
    return name if entry is None else entry.legacy_name or name


def backend_of_framework(framework: str) -> str:
    """Name of the built-in backend that computes with `framework`, a module's name.

    Raises
    ------
    KeyError
        If none does.
    """
    for name, entry in BUILT_IN.items():
        if framework in entry.frameworks:
            return name
    raise KeyError(framework)


def framework_modules() -> tuple[str, ...]:
    """Modules of all built-in backends' frameworks."""
    return tuple(module for entry in BUILT_IN.values() for module in entry.frameworks)
