"""Rank of this process among those that `torchrun`, `srun` or a `TF_CONFIG` started, from the environment."""

import itertools
import json
import os
import re
from dataclasses import dataclass
from typing import Any

from ptycho_backends.builtin_backends import BUILT_IN, BackendEntry
from ptycho_backends.config import ExecutionConfig
from ptycho_backends.errors import ConfigError

SINGLE_DEVICE = "single_device"
"""Strategy that keeps a process to itself although it was launched together with others."""

TORCHRUN, SRUN, TF_CONFIG = "torchrun", "srun", "TF_CONFIG"
EXAMPLE = '{"cluster": {"worker": ["host:port", "host:port"]}, "task": {"type": "worker", "index": 0}}'

# Jobs whose tasks are workers; a chief is the first of them.
JOBS = ("chief", "worker")

# Ports of the tasks of `srun`: below those that systems give away by themselves (from 32768), a block for each step.
FIRST_PORT, PORT_BLOCKS, PORTS_IN_BLOCK = 15000, 1000, 16
# Blocks between two steps of a job, so that steps side by side, and jobs with neighbouring numbers, do not meet.
BLOCKS_BETWEEN_STEPS = 101


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
    """Addresses of each job's tasks, and the task of this process, from the variables of `launcher`."""

    jobs: tuple[tuple[str, tuple[str, ...]], ...]
    job: str
    index: int
    launcher: str = TF_CONFIG

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
    several devices or a strategy, or the `task_strategy` of the backend's entry in the registry where it has one,
    because a cluster starts independent processes in the same way.

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
        if launch := LAUNCHERS[launcher](execution, entry):
            return launch
    return None


def is_first_process(execution: ExecutionConfig, backend: str) -> bool:
    """True for the process that writes the files of a run of `backend`."""
    launch = launched(execution, backend)
    return launch is None or launch.rank == 0


def _of_torchrun(execution: ExecutionConfig, entry: BackendEntry | None) -> Launch | None:
    known = os.environ
    if "TORCHELASTIC_RUN_ID" not in known:
        return None
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if not any(name in known for name in names):
        # left over from a program that torchrun started
        return None
    rank, size, local_rank, local_size = (_whole(name) for name in names)
    return Launch(rank, size, local_rank, local_size, TORCHRUN)


def _of_srun(execution: ExecutionConfig, entry: BackendEntry | None) -> Launch | None:
    if entry is not None and entry.task_strategy is not None:
        together = execution.strategy == entry.task_strategy and tf_cluster() is None
    else:
        together = execution.devices > 1 or execution.strategy != "auto"
    if not together or not _in_step() or _whole("SLURM_STEP_NUM_TASKS") == 1:
        return None
    counts, node, local_rank = _tasks_on_nodes(), _whole("SLURM_NODEID"), _whole("SLURM_LOCALID")
    if not (node < len(counts) and local_rank < counts[node]):
        raise ConfigError(
            f"SLURM_NODEID, SLURM_LOCALID: got {node}, {local_rank}, want a task of SLURM_STEP_TASKS_PER_NODE="
            f"{os.environ['SLURM_STEP_TASKS_PER_NODE']!r}; start the program with srun"
        )
    # node by node, whatever order --distribution numbers them in, so that the first one is on the first node
    return Launch(sum(counts[:node]) + local_rank, sum(counts), local_rank, counts[node], SRUN)


def _in_step() -> bool:
    """True for what `srun` starts; a batch script has ranks too, those of its own shell."""
    return {"SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"} <= os.environ.keys()


def _tasks_on_nodes() -> list[int]:
    """Tasks of this step on each of its nodes, which Slurm writes as '4(x2),3'."""
    text = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    counts: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if found is None:
            raise ConfigError(
                f"SLURM_STEP_TASKS_PER_NODE: got {text!r}, want the tasks of each node, like '4(x2),3'; start the "
                "program with srun"
            )
        counts += [int(found[1])] * int(found[2] or 1)
    return counts


def srun_cluster() -> Cluster | None:
    """Addresses of the tasks that `srun` started, in the order of their ranks; None for a process of no step.

    Each host listens at a port that job, step and the task's number on its node decide.

    Raises
    ------
    ConfigError
        If the variables of Slurm are incomplete or not understood.
    """
    if not _in_step():
        return None
    hosts, counts = expand_nodes(os.environ.get("SLURM_STEP_NODELIST", "")), _tasks_on_nodes()
    if len(hosts) != len(counts):
        raise ConfigError(
            f"SLURM_STEP_NODELIST: got {len(hosts)} nodes {hosts}, want the {len(counts)} of "
            f"SLURM_STEP_TASKS_PER_NODE={os.environ['SLURM_STEP_TASKS_PER_NODE']!r}"
        )
    block = (_whole("SLURM_JOB_ID") + BLOCKS_BETWEEN_STEPS * _whole("SLURM_STEP_ID")) % PORT_BLOCKS
    port = FIRST_PORT + PORTS_IN_BLOCK * block
    addresses = [
        f"{host}:{port + task}" for host, count in zip(hosts, counts, strict=True) for task in range(count)
    ]
    index = sum(counts[: _whole("SLURM_NODEID")]) + _whole("SLURM_LOCALID")
    return Cluster((("worker", tuple(addresses)),), "worker", index, SRUN)


def srun_meeting_point() -> tuple[str, int]:
    """Host and port where the tasks of `srun` meet: `MASTER_ADDR` and `MASTER_PORT`, else the first one's address.

    Raises
    ------
    ConfigError
        As `srun_cluster`.
    """
    host, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if host and port:
        return host, _whole("MASTER_PORT")
    cluster = srun_cluster()
    assert cluster is not None
    first, _, own_port = cluster.addresses[0].rpartition(":")
    return host or first, _whole("MASTER_PORT", int(own_port))


def expand_nodes(text: str) -> list[str]:
    """Names of the nodes in a list as Slurm writes it: 'node[01-03,7],gpu5' are node01, node02, node03, node7, gpu5.

    Raises
    ------
    ConfigError
        If the list is not understood.
    """
    # commas inside of brackets do not part nodes
    parts = re.findall(r"(?:[^\[\],\s]|\[[^\[\]\s]*\])+", text)
    if not parts or ",".join(parts) != text:
        raise _no_node_list(text)
    return [name for part in parts for name in _expand_node(part, text)]


def _expand_node(part: str, whole: str) -> list[str]:
    """Every choice of one number in each pair of brackets."""
    choices = [
        _expand_ranges(piece[1:-1], whole) if piece.startswith("[") else [piece]
        for piece in re.split(r"(\[[^\]]*\])", part)
    ]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


def _expand_ranges(text: str, whole: str) -> list[str]:
    numbers: list[str] = []
    for item in text.split(","):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", item)
        if found is None:
            raise _no_node_list(whole)
        first, last = found[1], found[2] or found[1]
        # as many digits as the first one has: 08-10 are 08, 09, 10
        numbers += [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return numbers


def _no_node_list(text: str) -> ConfigError:
    return ConfigError(
        f"SLURM_STEP_NODELIST: got {text!r}, want names of nodes like 'node[01-03,7],gpu5'; start the program with srun"
    )


def _whole(name: str, default: int | None = None) -> int:
    """The whole number in an environment variable."""
    text = os.environ.get(name, "" if default is None else str(default))
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(
            f"{name}: got {text!r}, want a whole number as its launcher sets it; or unset it, to train in one process"
        ) from error


def _of_tf_config(execution: ExecutionConfig, entry: BackendEntry | None) -> Launch | None:
    cluster = tf_cluster()
    if cluster is None or len(cluster.addresses) == 1:
        return None
    hosts = [address.rpartition(":")[0] for address in cluster.addresses]
    rank = cluster.rank
    here = hosts[rank]
    return Launch(rank, len(hosts), hosts[:rank].count(here), hosts.count(here), TF_CONFIG)


LAUNCHERS = {TORCHRUN: _of_torchrun, SRUN: _of_srun, TF_CONFIG: _of_tf_config}


def known_cluster() -> Cluster | None:
    """The cluster of `TF_CONFIG`, else of the tasks of `srun`; None where neither is there.

    Raises
    ------
    ConfigError
        If its variables are not understood.
    """
    return tf_cluster() or srun_cluster()


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
