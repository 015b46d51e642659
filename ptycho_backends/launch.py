"""Which of several processes this one is, as `torchrun` or `srun` tells in the environment."""

import os
from dataclasses import dataclass

from ptycho_backends.config import ExecutionConfig

ALONE = "single_device"
"""Strategy that keeps a process to itself which was launched together with others."""


@dataclass(frozen=True)
class Launch:
    """Number `rank` of `size` processes; on this machine, `local_rank` of `local_size`."""

    rank: int
    size: int
    local_rank: int
    local_size: int


def launched(execution: ExecutionConfig) -> Launch | None:
    """The processes that are to work together with this one, if something else has started them.

    Those of `torchrun` always are; those of `srun` if `execution` names several devices or a strategy,
    because a cluster starts processes that are to stay apart in the same way.
    """
    known = os.environ
    if execution.strategy == ALONE:
        return None
    if "TORCHELASTIC_RUN_ID" in known:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        return Launch(*(int(known[name]) for name in names))
    asked = execution.devices > 1 or execution.strategy != "auto"
    size = int(known.get("SLURM_NTASKS", 1))
    if not asked or size == 1 or "SLURM_PROCID" not in known:
        return None
    rank, local_rank = int(known["SLURM_PROCID"]), int(known["SLURM_LOCALID"])
    return Launch(rank, size, local_rank, size // int(known.get("SLURM_NNODES", 1)))


def is_first_process(execution: ExecutionConfig) -> bool:
    """Whether this process writes the files of a run that it takes part in."""
    launch = launched(execution)
    return launch is None or launch.rank == 0
