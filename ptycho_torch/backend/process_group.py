"""Processes that train or reconstruct together, a device each: joining those of a launcher, or starting them.

`docs/several-devices.md` describes their work. Processes that `torchrun` or `srun` started join; otherwise this
process is the first one, and starts helpers for as long as the work lasts (`docs/decisions/launcher.md`).
"""

import contextlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch import distributed as dist

from ptycho_backends.config import ExecutionConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.training.launch import (
    SINGLE_DEVICE,
    TF_CONFIG,
    ProcessRank,
    launched,
    srun_meeting_point,
)

# Strategies that are one and the same here: a process for each device.
SHARED = ("auto", "ddp", "ddp_spawn")

SECONDS_TO_START = 300.0
SECONDS_TO_END = 10.0
SECONDS_TO_FAIL = 20.0
# Characters of a helper's output that the error about its end quotes.
LAST_OUTPUT = 2000
BUFFER_ALIGNMENT = 64


@dataclass(frozen=True)
class ProcessGroup(ProcessRank):
    """Processes that work together, a device each; this one has the rank `rank`.

    Attributes
    ----------
    rank, size : int
    local_rank, local_size : int
        The same on this machine.
    launched : bool
        True if a launcher started the processes, so that each of them runs the caller's program.
    """

    local_rank: int = 0
    local_size: int = 1
    launched: bool = False

    def any(self, asked: bool) -> bool:
        """True if `asked` is true in any process; a collective operation of all of them."""
        if self.size == 1:
            return asked
        count = torch.tensor(int(asked), dtype=torch.int64, device="cpu")
        dist.all_reduce(count)
        return bool(count)

    def add_up(self, array: NDArray[np.floating]) -> None:
        """Replace `array`, of float64 and contiguous, by its sum over the processes."""
        if self.size > 1:
            dist.all_reduce(torch.from_numpy(array))


def process_group_of(execution: ExecutionConfig) -> ProcessGroup:
    """The processes that take part in the work that begins now.

    Raises
    ------
    ConfigError
        If the number of launched processes is not the one of `execution`, or the strategy is not for
        several processes.
    """
    if execution.strategy == SINGLE_DEVICE:
        if execution.devices > 1:
            raise ConfigError(
                f"strategy: got {SINGLE_DEVICE!r} with devices={execution.devices}; use 'auto' or 'ddp'"
            )
        return ProcessGroup()
    processes = ProcessGroup(size=execution.devices, local_size=execution.devices)
    if launch := launched(execution, "torch"):
        if launch.launcher == TF_CONFIG:
            raise ConfigError(
                f"{TF_CONFIG}: names {launch.size} workers, which only the TensorFlow backend connects; start "
                f"the processes with torchrun or srun, or keep each to itself with strategy={SINGLE_DEVICE!r}"
            )
        processes = ProcessGroup(
            launch.rank, launch.size, launch.local_rank, launch.local_size, launched=True
        )
    if launch and execution.devices not in (1, processes.local_size):
        raise ConfigError(
            f"devices: got {execution.devices}, but {processes.local_size} processes were launched on this machine; "
            "leave it at 1, and their number decides"
        )
    if processes.size > 1 and execution.device_number is not None:
        raise ConfigError(
            f"accelerator: got {execution.accelerator!r} for {processes.size} processes, want "
            f"{execution.device_kind!r}: each of them has a device of its own"
        )
    if processes.size > 1 and execution.strategy not in SHARED:
        raise ConfigError(
            f"strategy: got {execution.strategy!r} for {processes.size} processes, want one of "
            + ", ".join(map(repr, SHARED))
        )
    return processes


class _Sum(torch.autograd.Function):
    """Each process's tensor enters every process's sum, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(_: Any, tensor: Tensor) -> Tensor:
        return _added(tensor)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return _added(gradient)


def _added(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(tensor)
    return tensor


def summed(values: Tensor) -> Tensor:
    """The sum of the `values` of each process, on every one of them; differentiable."""
    result: Tensor = _Sum.apply(values)
    return result


@contextlib.contextmanager
def working_together(
    processes: ProcessGroup, task: Callable[..., object], *arguments: object
) -> Iterator[None]:
    """Connect the processes, and start helpers where no launcher has started any.

    Parameters
    ----------
    processes : ProcessGroup
        From `process_group_of`.
    task : function of a module
        Helpers call `task(processes, *arguments)` while this process runs the body of the `with` statement:
        the same work, with the same collective operations.
    *arguments
        Pickled; large arrays go by a file that the processes share, mapped files by their name.

    Raises
    ------
    RuntimeError
        If a helper ends before it is ready.
    """
    if processes.size == 1:
        yield
    elif processes.launched:
        _connect_launched(processes)
        yield
    else:
        with _threads_shared(processes.size), _Helpers(processes, task, arguments):
            yield


def _connect(processes: ProcessGroup, store: dist.Store) -> None:
    dist.init_process_group(
        _transport(processes), store=store, rank=processes.rank, world_size=processes.size
    )


def _transport(processes: ProcessGroup) -> str:
    """Gloo for tensors of the host; with CUDA, NCCL for those of its devices, one for each process."""
    if not torch.cuda.is_available():
        return "gloo"
    if processes.local_size <= torch.cuda.device_count():
        torch.cuda.set_device(processes.local_rank)
    return "cpu:gloo,cuda:nccl"


def _connect_launched(processes: ProcessGroup) -> None:
    """Connect to the other processes of the launcher, once; they stay connected until they end."""
    if dist.is_initialized():
        return
    if dist.is_torchelastic_launched():
        dist.init_process_group(_transport(processes))
        return
    host, port = srun_meeting_point()
    _connect(processes, dist.TCPStore(host, port, processes.size, processes.is_first))


@contextlib.contextmanager
def _threads_shared(size: int) -> Iterator[None]:
    """Divide the threads of this machine among its `size` processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // size))
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- helpers: the processes that are started here


class _Helpers:
    """Processes of ranks 1 .. size - 1, as long as the `with` statement lasts.

    They import the task's module and nothing of the caller's program, so that a program needs no
    `if __name__ == "__main__"`, and an interactive session can start them too.
    """

    def __init__(
        self, processes: ProcessGroup, task: Callable[..., object], arguments: tuple[object, ...]
    ) -> None:
        self._processes = processes
        self._task = task
        self._arguments = arguments
        self._stack = contextlib.ExitStack()
        self._started: list[subprocess.Popen] = []

    def __enter__(self) -> None:
        with contextlib.ExitStack() as stack:
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ptycho-")))
            stack.callback(self._end)
            store = dist.TCPStore(
                "127.0.0.1", 0, self._processes.size, is_master=True, wait_for_workers=False
            )
            _pickle_with_buffers((self._task, self._processes, self._arguments), self._folder)
            self._started = [self._start(rank, store.port) for rank in range(1, self._processes.size)]
            self._wait_until_ready(store)
            _connect(self._processes, store)
            stack.callback(dist.destroy_process_group)
            self._stack = stack.pop_all()

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: object) -> None:
        with self._stack:
            if error is None:
                self._wait(SECONDS_TO_END)
            elif isinstance(error, RuntimeError):
                # as collective operations raise where a helper has gone
                self._wait(SECONDS_TO_FAIL)
                for note in self._failures():
                    error.add_note(note)

    def _start(self, rank: int, port: int) -> subprocess.Popen:
        search = os.pathsep.join(path for path in sys.path if path)
        code = "from ptycho_torch.backend.process_group import help_first_process; help_first_process()"
        with self._output(rank).open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "-c", code, os.fspath(self._folder), str(rank), str(port)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=os.environ | {"PYTHONPATH": search},
                # Ctrl-C is for the first process, which ends the others after the same step
                start_new_session=True,
            )

    def _output(self, rank: int) -> Path:
        return self._folder / f"output-{rank}.txt"

    def _wait_until_ready(self, store: dist.Store) -> None:
        waiting = [f"ready-{rank}" for rank in range(1, self._processes.size)]
        deadline = time.monotonic() + SECONDS_TO_START
        while not store.check(waiting):
            notes = self._failures()
            if notes or time.monotonic() > deadline:
                raise RuntimeError("\n".join(["the other processes did not start", *notes]))
            time.sleep(0.02)

    def _failures(self) -> list[str]:
        """Exit code and last output of each helper that failed."""
        notes = []
        for rank, process in enumerate(self._started, start=1):
            if process.poll():
                output = self._output(rank).read_text(errors="replace")[-LAST_OUTPUT:].strip()
                notes.append(f"process {rank} ended with exit code {process.returncode}: {output}")
        return notes

    def _wait(self, seconds: float) -> None:
        """Wait until the helpers end by themselves, `seconds` at most."""
        deadline = time.monotonic() + seconds
        for process in self._started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))

    def _end(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()


def help_first_process() -> None:
    """Main function of a helper; ends when its work is done, or with the process that started it."""
    folder, rank, port = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    threading.Thread(target=_end_with, args=(sys.stdin.fileno(), folder), daemon=True).start()
    task, first, arguments = _unpickle_with_buffers(folder)
    processes = ProcessGroup(rank, first.size, rank, first.local_size)
    store = dist.TCPStore("127.0.0.1", port, processes.size, is_master=False)
    store.set(f"ready-{rank}", "")
    _connect(processes, store)
    with _threads_shared(processes.size):
        task(processes, *arguments)
    dist.destroy_process_group()


def _end_with(pipe: int, folder: Path) -> None:
    """Wait until the first process is no more; remove its copy of the scan, left behind where it was killed."""
    # not through Python's own buffer, whose lock could not be taken when the interpreter ends
    while os.read(pipe, 1):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


# --- arguments of helpers, with large arrays in a backing file that all processes map


class _Pickler(pickle.Pickler):
    """Pickles a view of a mapped file as the name and place of that view."""

    def reducer_override(self, value: Any) -> Any:
        mapped = value
        while isinstance(mapped, np.ndarray) and not isinstance(mapped, np.memmap):
            mapped = mapped.base
        # the first map, because a view of a map has the offset of the whole
        while isinstance(mapped, np.memmap) and isinstance(mapped.base, np.memmap):
            mapped = mapped.base
        if not isinstance(mapped, np.memmap) or mapped.mode != "r" or mapped.filename is None:
            return NotImplemented
        start = value.__array_interface__["data"][0] - mapped.__array_interface__["data"][0]
        place = (start + mapped.offset, value.dtype, value.shape, value.strides)
        return _mapped, (os.fspath(mapped.filename), *place)


def _mapped(
    path: str, offset: int, dtype: np.dtype, shape: tuple[int, ...], strides: tuple[int, ...]
) -> NDArray:
    content = np.memmap(path, np.uint8, "r")
    return np.ndarray(shape, dtype, content, offset, strides)


def _pickle_with_buffers(value: object, folder: Path) -> None:
    places: list[tuple[int, int]] = []
    with (folder / "arrays").open("wb") as arrays, (folder / "value").open("wb") as stream:

        def keep(buffer: pickle.PickleBuffer) -> None:
            arrays.seek(-arrays.tell() % BUFFER_ALIGNMENT, os.SEEK_CUR)
            places.append((arrays.tell(), arrays.write(buffer.raw())))

        _Pickler(stream, protocol=5, buffer_callback=keep).dump(value)
    (folder / "places").write_text(json.dumps(places))


def _unpickle_with_buffers(folder: Path) -> Any:
    places = json.loads((folder / "places").read_text())
    arrays = folder / "arrays"
    # copy on write: changes of one process stay its own
    content = np.memmap(arrays, np.uint8, "c") if arrays.stat().st_size else np.empty(0, np.uint8)
    with (folder / "value").open("rb") as stream:
        return pickle.load(stream, buffers=[content[start : start + size] for start, size in places])
