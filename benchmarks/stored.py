"""Runs of the benchmarks as pytest-benchmark stored them (`--benchmark-autosave`), and on which machine."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

STORAGE = Path(".benchmarks")


class StoredRunError(Exception):
    """A stored run is missing, or is not one."""


@dataclass(frozen=True)
class Measurement:
    """One benchmark of a run; `seconds` is the median of its rounds, `extra` its `extra_info`."""

    name: str
    param: str | None
    params: dict[str, Any]
    seconds: float
    iqr_seconds: float
    rounds: int
    extra: dict[str, Any]

    @property
    def family(self) -> str:
        """Its function: `test_stitching[1000]` is of the family `stitching`."""
        return self.name.split("[")[0].removeprefix("test_")

    @property
    def throughput(self) -> tuple[float, str]:
        """Throughput, and its unit."""
        for key, unit in (("groups_per_second", "groups/s"), ("per_second", "items/s")):
            if key in self.extra:
                return self.extra[key], unit
        return 1 / self.seconds, "runs/s"


@dataclass(frozen=True)
class Run:
    """All that was measured at once.

    Attributes
    ----------
    commit : str
        Its first seven digits, with `+` where files were changed besides.
    machine : dict
        Properties that two compared runs must share.
    settings : dict
        Versions and numbers of threads: properties that may differ and are reported.
    measurements : dict
        By the benchmark's full name.
    """

    path: Path
    when: datetime
    commit: str
    machine: dict[str, Any]
    settings: dict[str, Any]
    measurements: dict[str, Measurement]

    @property
    def label(self) -> str:
        return f"{self.commit} of {self.when:%Y-%m-%d %H:%M}"


def read_run(path: Path) -> Run:
    """The run in a file of pytest-benchmark's.

    Raises
    ------
    StoredRunError
        If it is not there, or is not such a file.
    """
    try:
        stored = json.loads(path.read_bytes())
    except OSError as error:
        raise StoredRunError(
            f"{path}: cannot be read ({error.strerror}); want a file that pytest --benchmark-autosave wrote"
        ) from error
    except ValueError as error:
        raise StoredRunError(f"{path}: is not JSON ({error}); delete it, or name another") from error
    try:
        commit, info = stored["commit_info"], stored["machine_info"]
        when = datetime.fromisoformat(stored["datetime"])
        return Run(
            path,
            when if when.tzinfo else when.replace(tzinfo=UTC),
            commit["id"][:7] + ("+" if commit.get("dirty") else ""),
            machine_of(info),
            settings_of(info),
            {one["fullname"]: _measurement(one) for one in stored["benchmarks"]},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoredRunError(
            f"{path}: is not a run of pytest-benchmark ({error!r}); delete it, or name another"
        ) from error


def stored_runs(storage: Path) -> list[Run]:
    """All runs in a folder and its folders, the oldest first.

    Raises
    ------
    StoredRunError
        If there are none, or one cannot be read.
    """
    runs = sorted(map(read_run, storage.rglob("*.json")), key=lambda run: run.when)
    if not runs:
        raise StoredRunError(
            f"{storage}: no stored runs; make one: pytest benchmarks --benchmark-enable --benchmark-autosave"
        )
    return runs


def machine_of(info: dict[str, Any]) -> dict[str, Any]:
    """Host, processor and GPUs. Not the clock rate, which changes by itself, nor the kernel, which is software."""
    cpu = info.get("cpu") or {}
    return {
        "host": info["node"],
        "system": f"{info.get('system')} {info.get('machine')}",
        "processor": cpu.get("brand_raw") or info.get("processor"),
        "cores": cpu.get("count"),
        "GPUs": ", ".join(info.get("accelerators") or ()) or "none",
    }


def settings_of(info: dict[str, Any]) -> dict[str, Any]:
    threads = {f"threads: {name}": value for name, value in (info.get("threads") or {}).items()}
    return {**(info.get("versions") or {"python": info.get("python_version")}), **threads}


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """`name: old, now new` for each difference."""
    return [
        f"{name}: {old.get(name)}, now {new.get(name)}"
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]


def _measurement(stored: dict[str, Any]) -> Measurement:
    stats = stored["stats"]
    return Measurement(
        stored["name"],
        stored.get("param"),
        stored.get("params") or {},
        float(stats["median"]),
        float(stats["iqr"]),
        int(stats["rounds"]),
        stored.get("extra_info") or {},
    )
