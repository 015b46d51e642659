"""Kills and signals at random moments: `python tests/training/kills.py torch --kills 100 --signals 30` (nox -s kill).

Children are forked from this process, which has imported a framework and computed nothing with it. After each SIGKILL
all files that the child was writing have to be whole, old or new; after each other signal, the resumed training has to
end with the weights of one without.
"""

import argparse
import contextlib
import dataclasses
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
from ptycho_backends.simulate import simulate_star

from ptycho_backends import workflows
from ptycho_backends.archive.model_file import load_archive, save_archive
from ptycho_backends.config import ExecutionConfig, ModelConfig, RefinementConfig, TrainingConfig
from ptycho_backends.config_file import load_config, save_config
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
SECONDS = 120.0


def config(epochs: int) -> TrainingConfig:
    model = ModelConfig(N=16, architecture="unrolled", n_steps=2)
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
    asked = RefinementConfig(passes=100_000)
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
    for path in [*(folder / "checkpoints").glob("*"), *folder.glob("*.wts.h5.zip")]:
        load_archive(path)
    for path in (folder / "history.csv", folder / "logs" / "metrics.csv"):
        if path.is_file():
            lines = path.read_text().splitlines()
            assert [line.split(",")[0] for line in lines[1:]] == [str(n) for n in range(1, len(lines))], path
    for path in folder.glob("config.yaml"):
        load_config(path)


def whole_refinement(folder: Path) -> None:
    for path in folder.glob("*.npz"):
        load_state(path)


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


def kill(kind: str, backend: str, folder: Path, chance: random.Random) -> None:
    """Start the work of a kind, kill it at a random moment, check every file; the folder is used again."""
    work, check = KINDS[kind]
    longest = 3.0 if kind in ("train", "refine") else 0.3
    with child(lambda: work(backend, folder)) as process:
        code = ended(process, chance.uniform(0.0, longest))
        assert code is None, f"{kind}: ended by itself with {code}"
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    check(folder)
    for part in (folder, folder / "checkpoints", folder / "logs"):
        if part.is_dir():
            output_directory(part)
    assert not list(folder.rglob("*.part")), kind


def kills(backend: str, count: int, chance: random.Random, seconds: float) -> Counter:
    """`count` kills of all kinds in turn, within `seconds`."""
    done: Counter = Counter()
    folders = {kind: Path(tempfile.mkdtemp(prefix=f"kill-{kind}-")) for kind in KINDS}
    deadline = time.monotonic() + seconds
    try:
        for number in range(count):
            kind = list(KINDS)[number % len(KINDS)]
            kill(kind, backend, folders[kind], chance)
            done[kind] += 1
            if time.monotonic() > deadline:
                break
    finally:
        for folder in folders.values():
            shutil.rmtree(folder, ignore_errors=True)
    return done


def interrupted_and_resumed(backend: str, epochs: int, number: int, moment: float, longest: float) -> int:
    """Send `number` at a fraction `moment` of a training, and resume it until it is over; times it was cut short."""
    folder = Path(tempfile.mkdtemp(prefix="kill-signal-"))
    try:
        cut = 0
        for attempt in range(3):
            with child(lambda: train(backend, folder, epochs)) as process:
                code = ended(process, moment * longest if attempt == 0 else SECONDS)
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
            cut += 1
        assert found.epochs_done == epochs
        assert same(found, REFERENCES[backend, epochs]), (signal.Signals(number).name, moment)
        return cut
    finally:
        shutil.rmtree(folder, ignore_errors=True)


REFERENCES: dict[tuple[str, int], TrainedModel] = {}


def signals(backend: str, count: int, chance: random.Random, seconds: float, epochs: int = 30) -> Counter:
    """Signals at `count` random moments of a training, within `seconds`; by name, how many trainings were cut short."""
    folder = Path(tempfile.mkdtemp(prefix="kill-reference-"))
    started = time.monotonic()
    with child(lambda: train(backend, folder, epochs)) as process:
        assert ended(process, SECONDS) == 0
    longest = time.monotonic() - started
    REFERENCES[backend, epochs] = load_archive(folder / "wts.h5.zip")
    shutil.rmtree(folder)
    done: Counter = Counter()
    deadline = time.monotonic() + seconds
    for number in range(count):
        chosen = SIGNALS[number % len(SIGNALS)]
        cut = interrupted_and_resumed(backend, epochs, chosen, chance.random(), longest)
        done[f"{chosen.name}, {'resumed' if cut else 'too late'}"] += 1
        if time.monotonic() > deadline:
            break
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backend", choices=("torch", "tensorflow"))
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--signals", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    chance = random.Random(asked.seed)
    # imported once, for all children
    get_backend(asked.backend)
    for name, work, count in (("kills", kills, asked.kills), ("signals", signals, asked.signals)):
        if count:
            done = work(asked.backend, count, chance, asked.seconds)
            sys.stdout.write(f"{asked.backend}, {name}: {sum(done.values())}, {dict(done)}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
