"""Which of several processes this one is, as `torchrun`, `srun` or `TF_CONFIG` tells in the environment."""

import json
import os
from dataclasses import dataclass
from typing import Any

from ptycho_backends.builtin_backends import BUILT_IN
from ptycho_backends.config import ExecutionConfig
from ptycho_backends.errors import ConfigError

SINGLE_DEVICE = "single_device"
"""Strategy that keeps a process to itself which was launched together with others."""

TF_CONFIG = "TF_CONFIG"
EXAMPLE = '{"cluster": {"worker": ["host:port", "host:port"]}, "task": {"type": "worker", "index": 0}}'

# What counts as a worker; a chief is the first of them.
JOBS = ("chief", "worker")


@dataclass(frozen=True)
class Launch:
    """Number `rank` of `size` processes; on this machine, `local_rank` of `local_size`.

    `told_by` is 'torchrun', 'srun' or 'TF_CONFIG'.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    told_by: str


@dataclass(frozen=True)
class Cluster:
    """What `TF_CONFIG` tells: the addresses of each job's tasks, and that this process is one of them."""

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
    """The processes that are to work together with this one, if something else has started them.

    Those of `torchrun` and of a `TF_CONFIG` always are; those of `srun` if `execution` names several devices
    or a strategy, because a cluster starts processes that are to stay apart in the same way. Where there is
    more than one of them, a backend whose `cluster_variable` is `TF_CONFIG` follows that, any other the launcher.

    Raises
    ------
    ConfigError
        If `TF_CONFIG` is what counts, and does not tell what it should.
    """
    if execution.strategy == SINGLE_DEVICE:
        return None
    entry = BUILT_IN.get(backend)
    if entry is not None and entry.cluster_variable == TF_CONFIG:
        return _of_tf_config() or _of_launcher(execution)
    return _of_launcher(execution) or _of_tf_config()


def is_first_process(execution: ExecutionConfig, backend: str) -> bool:
    """Whether this process writes the files of a run of `backend` that it takes part in."""
    launch = launched(execution, backend)
    return launch is None or launch.rank == 0


def _of_launcher(execution: ExecutionConfig) -> Launch | None:
    known = os.environ
    if "TORCHELASTIC_RUN_ID" in known:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        rank, size, local_rank, local_size = (int(known[name]) for name in names)
        return Launch(rank, size, local_rank, local_size, "torchrun")
    asked = execution.devices > 1 or execution.strategy != "auto"
    size = int(known.get("SLURM_NTASKS", 1))
    if not asked or size == 1 or "SLURM_PROCID" not in known:
        return None
    rank, local_rank = int(known["SLURM_PROCID"]), int(known["SLURM_LOCALID"])
    return Launch(rank, size, local_rank, size // int(known.get("SLURM_NNODES", 1)), "srun")


def _of_tf_config() -> Launch | None:
    cluster = tf_cluster()
    if cluster is None or len(cluster.addresses) == 1:
        return None
    hosts = [address.rpartition(":")[0] for address in cluster.addresses]
    rank = cluster.rank
    here = hosts[rank]
    return Launch(rank, len(hosts), hosts[:rank].count(here), hosts.count(here), TF_CONFIG)


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
        told = json.loads(text)
    except ValueError as error:
        raise _misunderstood(f"got {text!r}, which is no JSON") from error
    if not isinstance(told, dict):
        raise _misunderstood(f"got {text!r}")
    if not told.get("cluster"):
        return None
    jobs, task = told["cluster"], told.get("task")
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


def _misunderstood(what: str) -> ConfigError:
    return ConfigError(f"{TF_CONFIG}: {what}; set it to something like {EXAMPLE}, the jobs being {JOBS}")
