"""Kills and signals at random moments: `python tests/training/kills.py torch --kills 100 --signals 30` (nox -s kill).

Children are forked from this process, which has imported a framework and computed nothing with it. After each SIGKILL
all files that the child was writing have to be whole, old or new; after each other signal, the resumed training has to
end with the weights of one without. `--together 4` sends signals to trainings of two processes (PyTorch), of which
nothing may stay behind; `--disk 100` lets writes of a training fail, so many of them.
"""

import argparse
import contextlib
import dataclasses
import errno
import importlib
import itertools
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from faulty_disk import FaultyDisk
from ptycho_backends.simulate import simulate_star

from ptycho_backends import workflows
from ptycho_backends.archive.model_file import load_archive, save_archive
from ptycho_backends.config import ExecutionConfig, ModelConfig, RefinementConfig, TrainingConfig
from ptycho_backends.config_file import load_config, save_config
from ptycho_backends.errors import OutputError
from ptycho_backends.files.output import output_directory
from ptycho_backends.images import results
from ptycho_backends.refinement import refine as refinement
from ptycho_backends.refinement.checkpoint import load_state
from ptycho_backends.registry import get_backend
from ptycho_backends.scans.product import load_product, save_product
from ptycho_backends.scans.product_scan import product_from_scan
from ptycho_backends.scans.scan_files import load_scan, save_scan
from ptycho_backends.training.plan import plan_training
from ptycho_backends.values import Reconstruction, TrainedModel

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
QUIET = ExecutionConfig(accelerator="cpu", enable_progress_bar=False, learning_rate=1e-3)
SCAN = dataclasses.replace(
    simulate_star(16, 24, n_photons=1e5, seed=0),
    pixel_size_m=1e-8, photon_energy_eV=8000.0, detector_distance_m=1.0,
)  # fmt: skip
SECONDS = 1200.0
# What work imports late: a child that had to import it would be killed before it began.
IMPORTED = {
    "torch": (
        "lightning",
        "torch._dynamo",
        "ptycho_torch.backend.training",
        "ptycho_torch.backend.refinement",
    ),
    "tensorflow": ("ptycho_backends.tensorflow.training", "ptycho_backends.tensorflow.refinement"),
}


def config(epochs: int) -> TrainingConfig:
    model = ModelConfig(N=16, architecture="unrolled", n_steps=1)
    return TrainingConfig(model=model, nepochs=epochs, batch_size=8, nphotons=1e5, n_groups=24)


def model(version: int) -> TrainedModel:
    return plan_training(SCAN, dataclasses.replace(config(1), seed=version), "torch").start


def image(version: int) -> Reconstruction:
    values = np.full((64, 64), version, np.complex64)
    return Reconstruction(
        values, np.ones((64, 64), np.float32), np.zeros(2), np.zeros((3, 2)), backend="torch"
    )


def same(weights: TrainedModel, others: TrainedModel) -> bool:
    return all(np.array_equal(others.weights[name], weight) for name, weight in weights.weights.items())


# --- work that is killed: (work, check) by kind


def train(backend: str, folder: Path, epochs: int = 10_000) -> None:
    resume = folder if (folder / "checkpoints" / "last.wts.h5.zip").is_file() else None
    workflows.train(SCAN, config(epochs), folder, backend=backend, execution=QUIET, resume_from=resume)


def refine(backend: str, folder: Path) -> None:
    refinement.SECONDS_BETWEEN_CHECKPOINTS = -1.0
    resume = folder / "refinement_checkpoint.npz"
    # without pixels held out, which would end it
    asked = RefinementConfig(passes=100_000, held_out_fraction=0.0)
    workflows.refine(
        SCAN,
        folder,
        backend=backend,
        config=asked,
        execution=QUIET,
        resume_from=resume if resume.is_file() else None,
    )


def saving(save: Callable[[int, Path], object]) -> Callable[[str, Path], None]:
    def work(backend: str, folder: Path) -> None:
        version = 0
        while True:
            save(version, folder)
            version = 1 - version

    return work


def whole_training(folder: Path) -> None:
    for path in [*folder.rglob("*.wts.h5.zip"), *folder.rglob("*.ckpt")]:
        load_archive(path)
    for path in (folder / "history.csv", folder / "logs" / "metrics.csv"):
        if path.is_file():
            lines = path.read_text().splitlines()
            assert [line.split(",")[0] for line in lines[1:]] == [str(n) for n in range(1, len(lines))], path
    for path in folder.glob("config.yaml"):
        load_config(path)


def whole_refinement(folder: Path) -> None:
    for path in folder.glob("refinement_checkpoint.*"):
        load_state(path)
    assert not list(folder.glob("reconstruction.*")), "refined to the end"


KINDS: dict[str, tuple[Callable[[str, Path], None], Callable[[Path], object]]] = {
    "train": (train, whole_training),
    "refine": (refine, whole_refinement),
    "archive": (
        saving(lambda version, folder: save_archive(MODELS[version], folder / "a.wts.h5.zip")),
        lambda folder: [load_archive(path) for path in folder.glob("a.*")],
    ),
    "reconstruction": (
        saving(lambda version, folder: results.save_reconstruction(image(version), folder / "r.npz")),
        lambda folder: [results.load_reconstruction(path) for path in folder.glob("r.npz")],
    ),
    "scan": (
        saving(lambda version, folder: save_scan(SCAN, folder / "s.npz")),
        lambda folder: [load_scan(path) for path in folder.glob("s.npz")],
    ),
    "product": (
        saving(lambda version, folder: save_product(product_from_scan(SCAN), folder / "p.h5")),
        lambda folder: [load_product(path) for path in folder.glob("p.h5")],
    ),
    "config": (
        saving(lambda version, folder: save_config(config(1 + version), folder / "c.yaml")),
        lambda folder: [load_config(path) for path in folder.glob("c.yaml")],
    ),
}
MODELS = (model(0), model(1))


# --- children


@contextlib.contextmanager
def child(work: Callable[[], object]):
    """A forked child that does `work`; it is killed at the end if it still lives."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            for number in SIGNALS:
                signal.signal(
                    number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler
                )
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 1)
            work()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            if os.waitpid(process, os.WNOHANG)[0] == 0:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)


def newest(folder: Path) -> int:
    """Time of the last change of a file below `folder`, in nanoseconds."""
    times = [0]
    for path in folder.rglob("*"):
        # files come and go
        with contextlib.suppress(FileNotFoundError):
            times.append(path.stat().st_mtime_ns)
    return max(times)


def begun(process: int, changed: Callable[[], bool]) -> int | None:
    """Wait until `changed()`; exit code of a child that ended before."""
    deadline = time.monotonic() + SECONDS
    while not changed():
        code = ended(process, 0.0)
        if code is not None:
            return code
        assert time.monotonic() < deadline, "hangs"
        time.sleep(0.005)
    return None


def ended(process: int, seconds: float) -> int | None:
    """Exit code of a child (minus the signal that killed it); None if it still lives after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            return None
        time.sleep(0.005)


WRITTEN = {"train": "checkpoints/last.wts.h5.zip", "refine": "refinement_checkpoint.npz"}
"""The file that shows that work is under way, where the first one does not."""


def kill(kind: str, backend: str, folder: Path, chance: random.Random) -> None:
    """Start the work of a kind, kill it at a random moment, check every file; the folder is used again."""
    work, check = KINDS[kind]
    # now and then while it begins
    sign = WRITTEN.get(kind, "") if chance.random() < 0.75 else ""

    def newest_sign() -> int:
        path = folder / sign
        return newest(folder) if not sign else path.stat().st_mtime_ns if path.is_file() else 0

    before = newest_sign()
    with child(lambda: work(backend, folder)) as process:
        code = begun(process, lambda: newest_sign() > before)
        code = ended(process, chance.uniform(0.0, 1.0)) if code is None else code
        assert code is None, f"{kind}: ended by itself with {code}"
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    check(folder)
    for part in (folder, folder / "checkpoints", folder / "logs"):
        if part.is_dir():
            output_directory(part)
    assert not list(folder.rglob("*.part")), kind


def counted(done: Counter, what: str, work: Callable[..., object], *arguments: object) -> None:
    """Count `work(*arguments)` under its name and result, or as a fault, whose traceback is written."""
    try:
        result = work(*arguments)
    except Exception:
        traceback.print_exc()
        done[f"{what}: FAULT"] += 1
    else:
        done[what if result is None else f"{what}, {result}"] += 1


def kills(backend: str, count: int, chance: random.Random, seconds: float) -> Counter:
    """`count` kills of all kinds in turn, within `seconds`."""
    done: Counter = Counter()
    folders = {kind: Path(tempfile.mkdtemp(prefix=f"kill-{kind}-")) for kind in KINDS}
    deadline = time.monotonic() + seconds
    try:
        for number in range(count):
            kind = list(KINDS)[number % len(KINDS)]
            counted(done, kind, kill, kind, backend, folders[kind], chance)
            if time.monotonic() > deadline:
                break
    finally:
        for folder in folders.values():
            shutil.rmtree(folder, ignore_errors=True)
    return done


def interrupted_and_resumed(backend: str, epochs: int, number: int, moment: float, longest: float) -> str:
    """Send `number` after `moment` epochs of a training, and resume it until it is over; what became of it.

    The fraction of `moment` is one of `longest`, in seconds.
    """
    folder = Path(tempfile.mkdtemp(prefix="kill-signal-"))
    try:
        cut = "too late"
        for attempt in range(3):
            with child(lambda: train(backend, folder, epochs)) as process:
                if attempt == 0:
                    code = begun(process, lambda: epochs_in(folder) >= int(moment))
                    code = ended(process, moment % 1 * longest) if code is None else code
                else:
                    code = ended(process, SECONDS)
                if code is None:
                    assert attempt == 0, "hangs"
                    os.kill(process, number)
                    code = ended(process, SECONDS)
            # before training began a signal has its plain effect; Ctrl-C is an error of the child then
            expected = {0, 1 if number == signal.SIGINT else 128 + number, -number}
            assert code in expected, (signal.Signals(number).name, code)
            archive = folder / "wts.h5.zip"
            if code == 0 and archive.is_file():
                found = load_archive(archive)
                if found.epochs_done == epochs:
                    break
            cut = f"resumed, exit code {code}" if attempt == 0 else cut
        assert found.epochs_done == epochs
        assert same(found, REFERENCES[backend, epochs]), (signal.Signals(number).name, moment)
        return cut
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def epochs_in(folder: Path) -> int:
    """Epochs that a training has written; -1 before its first file."""
    history = folder / "history.csv"
    if history.is_file():
        return len(history.read_text().splitlines()) - 1
    return 0 if newest(folder) else -1


REFERENCES: dict[tuple[str, int], TrainedModel] = {}


def signals(backend: str, count: int, chance: random.Random, seconds: float, epochs: int = 10) -> Counter:
    """Signals at `count` random moments of a training, within `seconds`; by name, how many trainings were cut short."""
    folder = Path(tempfile.mkdtemp(prefix="kill-reference-"))
    with child(lambda: train(backend, folder, epochs)) as process:
        assert begun(process, lambda: epochs_in(folder) > 0) is None
        started = time.monotonic()
        assert ended(process, SECONDS) == 0
    longest = (time.monotonic() - started) / epochs
    REFERENCES[backend, epochs] = load_archive(folder / "wts.h5.zip")
    shutil.rmtree(folder)
    done: Counter = Counter()
    deadline = time.monotonic() + seconds
    for number in range(count):
        chosen = SIGNALS[number % len(SIGNALS)]
        moment = chance.uniform(0, epochs)
        counted(done, chosen.name, interrupted_and_resumed, backend, epochs, chosen, moment, longest)
        if time.monotonic() > deadline:
            break
    return done


def together(backend: str, count: int, chance: random.Random, seconds: float) -> Counter:
    """Signals to the first of two processes that train together: both end, and the copy of the scan goes."""
    done: Counter = Counter()
    for turn in range(count):
        number = (signal.SIGTERM, signal.SIGUSR1)[turn % 2]
        counted(done, number.name, end_together, backend, number, chance)
    return done


def end_together(backend: str, number: signal.Signals, chance: random.Random) -> None:
    folder = Path(tempfile.mkdtemp(prefix="kill-together-"))
    execution = dataclasses.replace(QUIET, devices=2, strategy="ddp")
    last = folder / "checkpoints" / "last.wts.h5.zip"
    copies = set(Path(tempfile.gettempdir()).glob("ptycho-*"))
    try:
        with child(
            lambda: workflows.train(SCAN, config(10_000), folder, backend=backend, execution=execution)
        ) as process:
            assert begun(process, last.is_file) is None
            numbers = map(int, filter(str.isdigit, os.listdir("/proc")))
            helpers = [one for one in numbers if parent_of(one) == process]
            assert len(helpers) == 1, helpers
            assert ended(process, chance.uniform(0.0, 1.0)) is None
            os.kill(process, number)
            code = ended(process, SECONDS)
        assert code == 128 + number, (number.name, code)
        assert parent_of(helpers[0]) is None, "a helper lives on"
        assert set(Path(tempfile.gettempdir()).glob("ptycho-*")) <= copies
        assert load_archive(folder / "wts.h5.zip").epochs_done == load_archive(last).epochs_done > 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def disk(backend: str, count: int, chance: random.Random, seconds: float) -> Counter:
    """Trainings of which one write fails, or all from it on; `count` of the writes, first and last among them."""
    folder = Path(tempfile.mkdtemp(prefix="kill-disk-"))
    os.chdir(folder)
    with FaultyDisk(folder / "whole") as whole:
        train(backend, folder / "whole", 1)
    model = load_archive(folder / "whole" / "wts.h5.zip")
    done: Counter = Counter()
    deadline = time.monotonic() + seconds
    places = sorted(set(np.linspace(1, len(whole.operations), count).astype(int).tolist()))
    for number, for_good in itertools.product(places, (False, True)):
        code = (errno.ENOSPC, errno.EIO)[number % 2]
        run = folder / f"{number}-{for_good}" / "run"
        run.mkdir(parents=True)
        os.chdir(run.parent)
        counted(done, errno.errorcode[code], disk_fails, backend, run, number, code, for_good, model)
        os.chdir(folder)
        if time.monotonic() > deadline:
            break
    os.chdir("/")
    shutil.rmtree(folder)
    return done


def disk_fails(backend: str, run: Path, number: int, code: int, for_good: bool, model: TrainedModel) -> str:
    """A training in `run`, beside the working folder: what its failing write does; nothing may be lost."""
    error = None
    with FaultyDisk(run, number, code, for_good) as disk:
        try:
            train(backend, run, 1)
        except OutputError as raised:
            error = raised
    whole_training(run)
    assert not list(run.rglob("*.part")), disk.operations
    written = [path for path in (run / "wts.h5.zip", *run.parent.glob("rescued_*")) if path.is_file()]
    began = any("checkpoints" in operation for operation in disk.operations)
    assert bool(written) == began, (written, disk.operations)
    if error is None:
        return "a warning"
    assert os.fspath(run) in str(error), error
    assert os.strerror(code) in str(error), error
    if not began:
        return "refused before training"
    assert same(error.trained_model, model)
    assert all(same(load_archive(path), model) for path in written)
    assert "replace history.csv" not in disk.operations[: number - 1] or (run / "history.csv").is_file()
    return f"an error, the model {'elsewhere' if written[0].parent != run else 'in its place'}"


def parent_of(process: int) -> int | None:
    """Number of the parent of a process (Linux); None for one that is no more."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backend", choices=("torch", "tensorflow"))
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--signals", type=int, default=30)
    parser.add_argument("--together", type=int, default=0)
    parser.add_argument("--disk", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    chance = random.Random(asked.seed)
    # imported once, for all children
    get_backend(asked.backend)
    for module in IMPORTED[asked.backend]:
        importlib.import_module(module)
    faults = 0
    for work, count in (
        (kills, asked.kills),
        (signals, asked.signals),
        (together, asked.together),
        (disk, asked.disk),
    ):
        if not count:
            continue
        with tempfile.TemporaryDirectory(prefix="kills-") as folder:
            # of this process and its children, so that nothing stays behind unseen
            tempfile.tempdir = os.environ["TMPDIR"] = folder
            done = work(asked.backend, count, chance, asked.seconds)
            left = os.listdir(folder)
        sys.stdout.write(
            f"{asked.backend}, {work.__name__}: {sum(done.values())}, {dict(done)}; left: {left}\n"
        )
        sys.stdout.flush()
        tempfile.tempdir = None
        os.environ.pop("TMPDIR")
        faults += len(left) + sum(number for what, number in done.items() if "FAULT" in what)
    sys.exit(min(faults, 100))


if __name__ == "__main__":
    main()
