"""Break a backend on purpose, one mistake at a time, and see that the suite notices every one.

    python parity/mutants.py torch tensorflow planted [--only TEXT] [--verbs]

Each mutant of `mutations.py` is made in a copy of the packages and judged in a process of its own by a
quick selection of the suite: the promises of single stages, generated cases, a short training; mutants of whole verbs
by the cases of verbs, of profile fast first, then of ci. `planted` are those of `testing.faults` around a good
backend (`--around NAME`). A crash counts as noticed, a mistake that does not compile does not count. The unbroken copy
is judged first: it must pass. Exit code 1 if a mutant survives.
"""

# ruff: noqa: T201 - this is a program
import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

from mutant import Mutant
from mutations import MUTANTS, PACKAGES

REPOSITORY = Path(__file__).resolve().parent.parent

PLANTED = "planted"

# Each judge is forked from a process that has imported the frameworks, which takes longer than most judgements.
PROCESSES = multiprocessing.get_context("forkserver")
IMPORTED = ["numpy", "scipy.ndimage", "h5py", "skimage.registration", "matplotlib.figure", "hypothesis"]
FRAMEWORKS = {"torch": ["torch", "lightning.pytorch"], "tensorflow": ["tensorflow", "keras"]}
SETTINGS = {"TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1"}


# Mistakes in these show where whole scans are trained, and hardly elsewhere.
OF_TRAINING = ("module.py", "data.py", "training.py", "inference.py")


def judge(name: str, *, of_verbs: bool, of_training: bool) -> str:
    """Measure until something is beyond its allowance: the profile and the quantity; an empty text if nothing is."""
    from ptycho_backends.registry import get_backend

    if of_verbs:
        return noticed_by(get_backend(name))
    from ptycho_backends.testing.agreement import Disagreement
    from ptycho_backends.testing.measurements import require_agreement

    try:
        for measurement in measurements(name, scans_first=of_training):
            require_agreement([measurement])
    except Disagreement as error:
        return "fast: " + str(error).partition(" (")[0]
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return ""


def noticed_by(backend) -> str:
    """The profile and the quantity that notice the backend's fault in a verb; an empty text if none does."""
    from ptycho_backends.testing.measurements import PROFILE_VERBS
    from ptycho_backends.testing.verb_cases import draw_verb_cases
    from ptycho_backends.testing.verbs import measure_verbs

    for number, case in enumerate(draw_verb_cases(PROFILE_VERBS["ci"])):
        profile = "fast" if number < PROFILE_VERBS["fast"] else "ci"
        try:
            for one in measure_verbs(case, {backend.name: backend}):
                if one.exceeded:
                    return f"{profile}: {one.quantity}, {one.where}, case {number}"
        except Exception as error:
            text = str(error).splitlines()[0] if str(error) else ""
            return f"{profile}: {type(error).__name__}: {text}, case {number}"
    return ""


def check_planted(around: str, only: str) -> tuple[int, int]:
    """Judge every fault of `testing.faults` around a good backend; (killed, survived)."""
    import logging

    from ptycho_backends.registry import get_backend
    from ptycho_backends.testing.faults import FAULTS
    from ptycho_backends.testing.planted import Planted

    logging.disable(logging.WARNING)
    good, killed, survived = get_backend(around), 0, 0
    for name, fault in FAULTS.items():
        if only not in name:
            continue
        started = time.perf_counter()
        by = noticed_by(Planted(good, fault))
        killed, survived = killed + bool(by), survived + (not by)
        outcome = f"killed by {by}" if by else "SURVIVED"
        print(f"{PLANTED:11} {name:50} {time.perf_counter() - started:4.0f} s  {outcome}", flush=True)
    return killed, survived


def measurements(name: str, *, scans_first: bool) -> Iterator:
    """The quick selection, cheapest first, or whole scans before all else."""
    if name == "torch":
        import torch

        torch.set_num_threads(1)
    from stage_adapters import ADAPTERS

    from ptycho_backends.registry import get_backend
    from ptycho_backends.testing.contract import CASES
    from ptycho_backends.testing.measurements import Effort, measure
    from ptycho_backends.testing.refinement_measurements import REFINEMENTS, measure_refinement
    from ptycho_backends.testing.scan_measurements import ScanCase, measure_scan

    adapter = ADAPTERS[name]()
    backends = {name: get_backend(name)}
    parts = [
        stages(adapter),
        unrolled_stages(adapter),
        refinement_stages(adapter),
        *(measure_refinement(refinement, backends) for refinement in REFINEMENTS),
        # the network `unrolled`, modes, masks and several probes are in the last ones
        *(measure(case, backends, Effort(directions=2, reorderings=0, steps=2)) for case in reversed(CASES)),
    ]
    scans = [
        measure_scan(scan, backends)
        for scan in (
            ScanCase(gridsize=2, positions=10, seed=1),
            ScanCase(positions=11, seed=1, staged=True),
            ScanCase(positions=10, attention=True, seed=2),
            ScanCase(positions=10, seed=1, probes=2),
        )
    ]
    for part in scans + parts if scans_first else parts + scans:
        yield from part


def stages(adapter) -> Iterator:
    """Single stages on random arrays, against the reference."""
    import numpy as np

    from ptycho_backends.config import ModelConfig
    from ptycho_backends.reference import losses, network, physics
    from ptycho_backends.testing.agreement import deviation
    from ptycho_backends.testing.cases import MASKED_FRACTION
    from ptycho_backends.testing.measurements import Measurement

    draw = np.random.default_rng(0)
    modules = {"physics": physics, "network": network, "losses": losses}
    image = draw.normal(size=(2, 4, 8, 8)) + 1j * draw.normal(size=(2, 4, 8, 8))
    offsets = draw.uniform(-3, 3, (2, 4, 2))
    dimmer = np.array([1, 1e-3, 1e-9, 0])[:, None, None]
    real = draw.normal(size=(2, 8, 8, 3))
    layer = {"a/kernel": draw.normal(size=(3, 3, 3, 2)), "a/bias": draw.normal(size=2)}
    looks = {
        "a/kernel": draw.normal(size=(7, 7, 2, 1)),
        "a/bias": draw.normal(size=1),
        "a/mlp0/kernel": draw.normal(size=(3, 4)),
        "a/mlp0/bias": draw.normal(size=4),
        "a/mlp1/kernel": draw.normal(size=(4, 3)),
        "a/mlp1/bias": draw.normal(size=3),
        "b/kernel": draw.normal(size=3),
    }
    norm = {f"a/{kind}": 1 + draw.random(3) for kind in ("gamma", "beta", "mean", "variance")}
    valid, config = draw.random((2, 8, 8)) > MASKED_FRACTION, ModelConfig()
    for stage, *arguments in (
        ("physics.translate", image, offsets),
        ("physics.pad_centre", image, 11),
        ("physics.crop_centre", image, 5),
        ("physics.merge_patches", image, offsets, 13),
        ("physics.canvas_views", image[:, 0], offsets, 5),
        ("physics.smooth_exit_wave", image, 0.8),
        ("physics.diffraction_amplitude", image),
        ("physics.summed_amplitude", np.abs(image)),
        ("physics.exit_waves", image, image[0], config),
        ("physics.exit_waves", image, image[:, :3], config),
        ("physics.chosen_probe", image[:, :3], np.array([1, 0, 0])),
        ("network.conv", real, layer, "a"),
        ("network.conv_upsampled", real, layer, "a"),
        *(("network.activation", kind, 10 * real) for kind in ("sigmoid", "swish", "softplus", "relu")),
        ("network.max_pool", real),
        ("network.upsample", real),
        ("network.channel_attention", real, looks, "a"),
        ("network.spatial_attention", real, looks, "a"),
        ("network.efficient_channel_attention", real, looks, "b"),
        ("network.batch_norm", real, norm, "a"),
        ("losses.poisson_nll", np.abs(image) ** 2 * dimmer, np.abs(image)),
        ("losses.amplitude_mae", np.abs(image), np.abs(image[::-1])),
        ("losses.poisson_nll", np.abs(image) ** 2, np.abs(image), valid),
        ("losses.amplitude_mae", np.abs(image), np.abs(image[::-1]), valid),
        ("losses.total_variation", image[:, 0]),
        ("losses.object_mae", image, image[::-1].copy()),
        ("losses.object_mae", np.full((2, 8, 8), complex(-0.0, -0.0)), image[:, 0]),
        ("losses.amplitude_variation", image[:, 0]),
        ("losses.phase_variation", image[:, 0] * (real[..., 0] > 0)),
        ("losses.amplitude_deviation", image[:, 0]),
        ("losses.phase_deviation", image[:, 0] * (real[..., 0] > 0)),
        ("losses.amplitude_variance", image[:, 0]),
    ):
        module, function = stage.split(".")
        want = getattr(modules[module], function)(*arguments)
        error = deviation(adapter.call(stage, *arguments), want)
        yield Measurement(stage, "stages, float64", adapter.name, error)


def refinement_stages(adapter) -> Iterator:
    """Single stages of a refinement on random arrays, against the reference."""
    import numpy as np

    from ptycho_backends.reference import refinement
    from ptycho_backends.testing.agreement import deviation
    from ptycho_backends.testing.measurements import Measurement
    from ptycho_backends.testing.refinement_measurements import StageArrays
    from ptycho_backends.values import ChunkSums, PassSettings

    chunk = StageArrays(seed=0)
    shape, places, weights = chunk.canvas.shape, (chunk.corners, chunk.fractions), chunk.weights
    light, gain = (
        refinement.illumination(*places, chunk.probe, shape),
        refinement.slow_gain(shape, 5.0, 2.5, 0.1),
    )
    settings = PassSettings(damping=0.1, smoothness=3.0, step=0.5)
    everything = {"with_probe": True, "with_positions": True}
    chunk_arguments = chunk.canvas, chunk.probe, chunk.measured, *weights, *places
    for stage, *arguments in (
        ("views", chunk.canvas, *places, chunk.side),
        ("view_slopes", chunk.canvas, *places, chunk.side),
        ("spread", chunk.waves[:, 0], *places, chunk.canvas),
        ("illumination", *places, chunk.probe, shape),
        ("pixel_weights", chunk.valid, chunk.classes, chunk.numbers, chunk.class_count),
        *(
            ("modulus_change", chunk.waves, chunk.measured, weights[0], kind)
            for kind in ("amplitude", "poisson")
        ),
        ("chunk_sums", *chunk_arguments, chunk.canvas, "amplitude"),
        ("roughness", chunk.canvas, 0.07),
        ("slow_gain", shape, 5.0, 2.5, 0.1),
        ("object_step", chunk.canvas, chunk.canvas[::-1].copy(), light, gain, 0.25, settings),
        ("probe_step", chunk.probe, chunk.probe[::-1].copy(), chunk.measured[0] ** 2),
    ):
        options = everything if stage == "chunk_sums" else {}
        copies = [one.copy() if isinstance(one, np.ndarray) else one for one in arguments]
        want = getattr(refinement, stage)(*copies, **options)
        got = adapter.call(f"refinement.{stage}", *arguments, **options)
        if isinstance(want, ChunkSums):
            want = {name: value for name, value in vars(want).items() if value is not None}
            pairs = [(got[name], want[name]) for name in want]
        else:
            pairs = zip(got, want, strict=True) if isinstance(want, tuple) else [(got, want)]
        for one, other in pairs:
            yield Measurement(
                f"refinement.{stage}", "refinement, float64", adapter.name, deviation(one, other)
            )


def unrolled_stages(adapter) -> Iterator:
    """Stages of the network `unrolled`, against the reference; the first case has several rounds."""
    import numpy as np

    from ptycho_backends.reference import correction, unrolled
    from ptycho_backends.reference.initial_weights import correction_weights
    from ptycho_backends.reference.model import channels_first, in_double, offsets_by_channel
    from ptycho_backends.testing.agreement import deviation
    from ptycho_backends.testing.contract import CASES
    from ptycho_backends.testing.measurements import Measurement

    for case in (one for one in CASES if one.architecture == "unrolled"):
        weights, batch, model = in_double(case.weights), case.batch, case.config.model
        fed = channels_first(case.intensity_scale * batch.diffraction_amplitude.astype(np.float64))
        offsets = offsets_by_channel(batch.relative_offsets_px.astype(np.float64))
        given = fed, offsets, weights, model, batch.valid_pixels, batch.probe_index
        steps, network = unrolled.before_last_correction(*given), correction_weights(weights)
        for module, stage, *arguments in (
            (unrolled, "before_last_correction", *given),
            (unrolled, "object_canvas", *given),
            (correction, "corrected", steps.canvas, steps.light, network),
            (correction, "corrected_scan", steps.canvas[0], steps.light[0], network),
        ):
            name = f"{module.__name__.rpartition('.')[2]}.{stage}"
            want, got = getattr(module, stage)(*arguments), adapter.call(name, *arguments)
            pairs = zip(got, want, strict=True) if isinstance(want, tuple) else [(got, want)]
            for one, other in pairs:
                yield Measurement(name, "outputs, float64", adapter.name, deviation(one, other))


def mutated_copy(folder: Path, package: str, mutant: Mutant | None) -> None:
    """The packages in `folder`, with one mistake in them."""
    for name in ("ptycho_backends", "ptycho_torch"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    if mutant is None:
        return
    path = folder / package / mutant.file
    source = path.read_text()
    if source.count(mutant.old) != 1:
        raise SystemExit(
            f"{package}/{mutant.file}: {mutant.old!r} occurs {source.count(mutant.old)} times, want 1"
        )
    changed = source.replace(mutant.old, mutant.new)
    compile(changed, str(path), "exec")
    path.write_text(changed)


def verdict(name: str, mutant: Mutant | None) -> tuple[bool, str, float]:
    """True if the mistake was noticed; the quantity that noticed it, and the seconds that took."""
    started = time.perf_counter()
    of_verbs = mutant is not None and mutant.of_verbs
    of_training = mutant is not None and Path(mutant.file).name in OF_TRAINING
    with tempfile.TemporaryDirectory() as folder:
        mutated_copy(Path(folder), PACKAGES[name], mutant)
        told, tells = PROCESSES.Pipe(duplex=False)
        judging = PROCESSES.Process(target=judge_in, args=(folder, name, of_verbs, of_training, tells))
        judging.start()
        tells.close()
        try:
            noticed, by = told.recv()
        except EOFError:
            raise SystemExit(f"{name}, {mutant}: the judge failed, its message is above") from None
        finally:
            judging.join()
    return noticed, by, time.perf_counter() - started


def judge_in(folder: str, name: str, of_verbs: bool, of_training: bool, tells: Connection) -> None:
    """Judge the packages in `folder`, in a process that has the framework imported, and nothing of this library."""
    sys.path.insert(0, folder)
    sys.dont_write_bytecode = True
    by = judge(name, of_verbs=of_verbs, of_training=of_training)
    tells.send((bool(by), by))


def check_backend(name: str, only: str, *, of_verbs: bool) -> tuple[int, int]:
    """Judge every mutant of one backend, or those of verbs alone; (killed, survived)."""
    noticed, by, seconds = verdict(name, None)
    if noticed:
        raise SystemExit(f"{name}: the unbroken backend does not pass: {by}")
    print(f"{name}: unbroken, passes ({seconds:.0f} s)", flush=True)
    chosen = [one for one in MUTANTS[name] if only in one.name and (one.of_verbs or not of_verbs)]
    killed = 0
    with ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool:
        verdicts = pool.map(lambda mutant: verdict(name, mutant), chosen)
        for mutant, (noticed, by, seconds) in zip(chosen, verdicts, strict=True):
            killed += noticed
            outcome = f"killed by {by}" if noticed else "SURVIVED"
            print(
                f"{name:11} {Path(mutant.file).name:24} {mutant.name:50} {seconds:4.0f} s  {outcome}",
                flush=True,
            )
    return killed, len(chosen) - killed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("backends", nargs="*", help="torch, tensorflow, planted (default: all)")
    parser.add_argument("--only", default="", help="mutants whose name holds this text")
    parser.add_argument("--verbs", action="store_true", help="mutants of whole verbs alone")
    parser.add_argument("--around", default="torch", help="the backend that faults are planted around")
    options = parser.parse_args()
    os.environ |= SETTINGS
    asked = [name for name in FRAMEWORKS if name in (options.backends or FRAMEWORKS)]
    PROCESSES.set_forkserver_preload(IMPORTED + [module for name in asked for module in FRAMEWORKS[name]])
    results = [
        check_planted(options.around, options.only)
        if name == PLANTED
        else check_backend(name, options.only, of_verbs=options.verbs)
        for name in options.backends or (*MUTANTS, PLANTED)
    ]
    killed, survived = (sum(column) for column in zip(*results, strict=True))
    print(f"{killed} killed, {survived} survived")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
