"""Rank of this process among those that `torchrun`, `srun` or a `TF_CONFIG` started, from the environment."""

import json
import os
from dataclasses import dataclass
from typing import Any

from ptycho_backends.builtin_backends import BUILT_IN
from ptycho_backends.config import ExecutionConfig
from ptycho_backends.errors import ConfigError

SINGLE_DEVICE = "single_device"
"""Strategy that keeps a process to itself although it was launched together with others."""

TORCHRUN, SRUN, TF_CONFIG = "torchrun", "srun", "TF_CONFIG"
EXAMPLE = '{"cluster": {"worker": ["host:port", "host:port"]}, "task": {"type": "worker", "index": 0}}'

# Jobs whose tasks are workers; a chief is the first of them.
JOBS = ("chief", "worker")


@dataclass(frozen=True)
class ProcessRank:
    """Rank of this process among `size` processes that work together.

    Attributes
    ----------
    rank, size : int
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """True for the process that writes files, shows progress and calls back."""
        return self.rank == 0

    def shard(self, count: int) -> range:
        """The part of `count` things that this process does; all parts have nearly equal size, in order."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)


@dataclass(frozen=True)
class Launch:
    """Rank `rank` of `size` processes; on this machine, `local_rank` of `local_size`.

    `launcher` is 'torchrun', 'srun' or 'TF_CONFIG'.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    launcher: str


@dataclass(frozen=True)
class Cluster:
    """Content of `TF_CONFIG`: the addresses of each job's tasks, and the task of this process."""

    jobs: tuple[tuple[str, tuple[str, ...]], ...]
    job: str
    index: int

    @property
    def addresses(self) -> list[str]:
        """Of all processes, the first one first."""
        return [address for _, addresses in self.jobs for address in addresses]

    @property
    def rank(self) -> int:
        before = [addresses for name, addresses in self.jobs if JOBS.index(name) < JOBS.index(self.job)]
        return sum(map(len, before)) + self.index


def launched(execution: ExecutionConfig, backend: str) -> Launch | None:
    """Launch of the processes that are to work together with this one; None for a process by itself.

    Processes of `torchrun` and of a `TF_CONFIG` always work together. Those of `srun` do if `execution` names
    several devices or a strategy, because a cluster starts independent processes in the same way.

    Parameters
    ----------
    execution : ExecutionConfig
    backend : str
        Where there is more than one launcher, the `cluster_variable` of its entry in the registry counts first.

    Raises
    ------
    ConfigError
        If `TF_CONFIG` counts and is not understood, or a launcher's variables are incomplete.
    """
    if execution.strategy == SINGLE_DEVICE:
        return None
    entry = BUILT_IN.get(backend)
    first = None if entry is None else entry.cluster_variable
    # stable: the others keep their order
    for launcher in sorted(LAUNCHERS, key=lambda name: name != first):
        if launch := LAUNCHERS[launcher](execution):
            return launch
    return None


def is_first_process(execution: ExecutionConfig, backend: str) -> bool:
    """True for the process that writes the files of a run of `backend`."""
    launch = launched(execution, backend)
    return launch is None or launch.rank == 0


def _of_torchrun(execution: ExecutionConfig) -> Launch | None:
    known = os.environ
    if "TORCHELASTIC_RUN_ID" not in known:
        return None
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if not any(name in known for name in names):
        # left over from a program that torchrun started
        return None
    rank, size, local_rank, local_size = (_whole(name) for name in names)
    return Launch(rank, size, local_rank, local_size, TORCHRUN)


def _of_srun(execution: ExecutionConfig) -> Launch | None:
    if execution.devices == 1 and execution.strategy == "auto":
        return None
    known = os.environ
    # an allocation has the number of tasks, but only what `srun` starts has a number of its own on its machine
    if not {"SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"} <= known.keys() or _whole("SLURM_NTASKS") == 1:
        return None
    rank, size, local_rank = (_whole(name) for name in ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"))
    return Launch(rank, size, local_rank, size // max(1, _whole("SLURM_NNODES", 1)), SRUN)


def _whole(name: str, default: int | None = None) -> int:
    """The whole number in an environment variable."""
    text = os.environ.get(name, "" if default is None else str(default))
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(
            f"{name}: got {text!r}, want a whole number as its launcher sets it; or unset it, to train in one process"
        ) from error


def _of_tf_config(execution: ExecutionConfig) -> Launch | None:
    cluster = tf_cluster()
    if cluster is None or len(cluster.addresses) == 1:
        return None
    hosts = [address.rpartition(":")[0] for address in cluster.addresses]
    rank = cluster.rank
    here = hosts[rank]
    return Launch(rank, len(hosts), hosts[:rank].count(here), hosts.count(here), TF_CONFIG)


LAUNCHERS = {TORCHRUN: _of_torchrun, SRUN: _of_srun, TF_CONFIG: _of_tf_config}


def tf_cluster() -> Cluster | None:
    """The cluster of `TF_CONFIG`; None where it is not set, or names none.

    Raises
    ------
    ConfigError
        If it is not understood.
    """
    text = os.environ.get(TF_CONFIG, "").strip()
    if not text:
        return None
    try:
        content = json.loads(text)
    except ValueError as error:
        raise _misunderstood(f"got {text!r}, which is no JSON") from error
    if not isinstance(content, dict):
        raise _misunderstood(f"got {text!r}")
    if not content.get("cluster"):
        return None
    jobs, task = content["cluster"], content.get("task")
    if not isinstance(jobs, dict) or not all(map(_is_job, jobs.items())):
        raise _misunderstood(f"cluster: got {jobs!r}")
    if not isinstance(task, dict) or task.get("type") not in jobs:
        raise _misunderstood(f"task: got {task!r}, want one of the cluster {sorted(jobs)}")
    count = len(jobs[task["type"]])
    try:
        index = int(task["index"])
    except (KeyError, TypeError, ValueError):
        index = -1
    if not 0 <= index < count:
        raise _misunderstood(f"task: got {task!r}, want an index in 0 .. {count - 1}")
    known = tuple((name, tuple(jobs[name])) for name in JOBS if name in jobs)
    return Cluster(known, task["type"], index)


def _is_job(item: tuple[str, Any]) -> bool:
    name, addresses = item
    if name not in JOBS or not isinstance(addresses, list) or not addresses:
        return False
    return all(isinstance(address, str) for address in addresses)


def _misunderstood(reason: str) -> ConfigError:
    return ConfigError(f"{TF_CONFIG}: {reason}; set it to something like {EXAMPLE}, the jobs being {JOBS}")
