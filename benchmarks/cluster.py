"""Seconds an epoch, and a pass of a refinement, of one process and of several on this machine, a thread each.

    python benchmarks/cluster.py [--backends torch tensorflow] [--processes 1 2] [--positions 200]

The processes find each other as tasks of `srun` do. Together they take steps of the same size, so that the numbers are
the same; the best of three epochs and passes counts, after a first one.
"""

# ruff: noqa: T201 - this is a program
import argparse
import json
import os
import subprocess
import sys

from ptycho_backends import ExecutionConfig, ModelConfig, RefinementConfig, TrainingConfig, get_backend
from ptycho_backends.builtin_backends import BUILT_IN
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training.launch import is_first_process

STRATEGIES = {name: entry.task_strategy or "ddp" for name, entry in BUILT_IN.items()}
ROUNDS = 4
GROUPS_IN_STEP = 16


def work(backend_name: str, processes: int, positions: int) -> None:
    """One of the processes; the first one prints the seconds of every epoch and pass."""
    backend, scan = get_backend(backend_name), simulate_star(64, positions, n_photons=1e5, seed=0)
    execution = ExecutionConfig(
        accelerator="cpu", strategy=STRATEGIES[backend_name], enable_progress_bar=False, logger_backend=None
    )
    config = TrainingConfig(
        model=ModelConfig(N=64), batch_size=GROUPS_IN_STEP // processes, nepochs=ROUNDS, nphotons=1e5,
        n_groups=positions,
    )  # fmt: skip
    epochs = backend.train(scan, config, execution=execution).history
    passes = backend.refine(None, scan, RefinementConfig(passes=ROUNDS), execution=execution).passes
    if is_first_process(execution, backend_name):
        print(json.dumps([[record.seconds for record in records] for records in (epochs, passes)]))


def measured(backend: str, processes: int, positions: int) -> list[float]:
    """Seconds of the best epoch and of the best pass."""
    step = {
        "JOB_ID": os.getpid(), "STEP_ID": 0, "STEP_NODELIST": "localhost", "STEP_NUM_TASKS": processes,
        "STEP_TASKS_PER_NODE": processes, "NODEID": 0,
    }  # fmt: skip
    threads = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")
    started = []
    for rank in range(processes):
        names = {
            f"SLURM_{name}": str(value) for name, value in (step | {"PROCID": rank, "LOCALID": rank}).items()
        }
        command = [sys.executable, __file__, "--backends", backend, "--processes", str(processes)]
        started.append(
            subprocess.Popen(
                [*command, "--positions", str(positions), "--work"],
                env=os.environ | threads | names,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    outputs = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit(f"{backend}: {processes} processes failed")
    rounds: list[list[float]] = json.loads(outputs[0].splitlines()[-1])
    return [min(seconds[1:]) for seconds in rounds]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backends", nargs="+", choices=list(STRATEGIES), default=list(STRATEGIES))
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--positions", type=int, default=200)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.backends[0], arguments.processes[0], arguments.positions)
        return
    print(
        "| backend | processes | s an epoch | times as fast | s a pass | times as fast |\n"
        + "| --- " * 6
        + "|"
    )
    for backend in arguments.backends:
        alone: list[float] = []
        for processes in arguments.processes:
            seconds = measured(backend, processes, arguments.positions)
            alone = alone or seconds
            cells = [
                text
                for one, first in zip(seconds, alone, strict=True)
                for text in (f"{one:.2f}", f"{first / one:.2f}")
            ]
            print(f"| {backend} | {processes} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
