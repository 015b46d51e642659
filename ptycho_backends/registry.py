"""From a backend's name to the backend: the built-in ones, and those that third parties register."""

import os
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import EntryPoint

from ptycho_backends.builtin_backends import ALIASES, BUILT_IN, BackendEntry, canonical_name, is_importable
from ptycho_backends.config import InferenceConfig, TrainingConfig
from ptycho_backends.errors import BackendUnavailableError, UnknownBackendError
from ptycho_backends.plugins import registered
from ptycho_backends.protocol import Backend

ENTRY_POINT_GROUP = "ptycho_backends.backends"
ENVIRONMENT_VARIABLE = "PTYCHO_BACKEND"


def backend_names() -> tuple[str, ...]:
    """Names of all backends, without aliases, third-party backends last."""
    return (*BUILT_IN, *sorted(set(_third_party()) - set(BUILT_IN)))


def installed_backends() -> tuple[str, ...]:
    """Built-in backends whose framework is installed, in order of preference; imports nothing."""
    return tuple(name for name, entry in BUILT_IN.items() if all(map(is_importable, entry.frameworks)))


def get_backend(
    name: str | None = None, *, config: TrainingConfig | InferenceConfig | None = None
) -> Backend:
    """The backend called `name`.

    Parameters
    ----------
    name : str, optional
        One of `backend_names()` or an alias; any case. None asks the environment variable
        `PTYCHO_BACKEND`, then `config.backend`, then takes the first one installed.
    config : TrainingConfig or InferenceConfig, optional

    Raises
    ------
    UnknownBackendError
        If nothing is registered under that name, or two packages are.
    BackendUnavailableError
        If its framework is not installed. There is never a fall-back to another one.
    """
    chosen = name or os.environ.get(ENVIRONMENT_VARIABLE) or (config.backend if config is not None else None)
    if chosen is None:
        installed = installed_backends()
        if not installed:
            ways = "; or ".join(entry.install for entry in BUILT_IN.values())
            raise BackendUnavailableError(f"No backend is installed; run: {ways}")
        chosen = installed[0]
    key = canonical_name(chosen)
    third_party = _third_party()
    if key in BUILT_IN:
        if key in third_party:
            raise UnknownBackendError(
                f"backend {key!r} is built in, but {third_party[key][0].value} registers the same name; "
                "uninstall that package or rename its entry point"
            )
        return _built_in(BUILT_IN[key])
    if key not in third_party:
        known = ", ".join((*backend_names(), *ALIASES))
        raise UnknownBackendError(f"backend: got {chosen!r}, want one of {known}")
    return _loaded(key, third_party[key])


def get_backends(names: Sequence[str]) -> dict[str, Backend]:
    """Several backends by the names given, in that order; errors as `get_backend`.

    They are loaded in the order of preference: Keras reports a crash when TensorFlow was there before PyTorch.
    """
    preference = list(BUILT_IN)

    def turn(name: str) -> int:
        key = canonical_name(name)
        return preference.index(key) if key in BUILT_IN else len(preference)

    loaded = {name: get_backend(name) for name in sorted(names, key=turn)}
    return {name: loaded[name] for name in names}


def logger_names() -> tuple[str, ...]:
    """Roots of the loggers of this library and of every registered backend; imports none of them."""
    packages = [entry.package for entry in BUILT_IN.values()]
    packages += [point.value.partition(":")[0].partition(".")[0] for [point, *_] in _third_party().values()]
    return tuple(dict.fromkeys(["ptycho_backends", *packages]))


def _built_in(entry: BackendEntry) -> Backend:
    module, _, factory = entry.target.partition(":")
    try:
        return getattr(import_module(module), factory)()
    except ModuleNotFoundError as error:
        # A missing framework is the user's to install; any other missing module is our bug.
        if (error.name or "").partition(".")[0] not in entry.frameworks:
            raise
        raise BackendUnavailableError(
            f"{entry.label} backend selected, but {error.name!r} is not installed; run: {entry.install}"
        ) from error


def _third_party() -> dict[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for point in registered(ENTRY_POINT_GROUP):
        found.setdefault(point.name.lower(), []).append(point)
    return found


def _loaded(name: str, points: list[EntryPoint]) -> Backend:
    targets = sorted({point.value for point in points})
    if len(targets) > 1:
        raise UnknownBackendError(
            f"backend {name!r} is registered by several packages: {', '.join(targets)}; uninstall all but one"
        )
    try:
        return points[0].load()()
    except ImportError as error:
        raise BackendUnavailableError(
            f"{name} backend selected, but {targets[0]} cannot be imported: {error}"
        ) from error
