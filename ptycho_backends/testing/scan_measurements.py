"""Measurements of a backend on whole scans: training, stitching, archives, groups."""

import dataclasses
import itertools
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.archive.model_file import load_archive
from ptycho_backends.config import ExecutionConfig, FinetuneStage, ModelConfig, TrainingConfig
from ptycho_backends.protocol import Backend
from ptycho_backends.reference import model as reference
from ptycho_backends.reference.initial_weights import weight_dtype
from ptycho_backends.reference.stitching import stitch
from ptycho_backends.scans.grouping import GroupedData, groups_for_training
from ptycho_backends.scans.merging import merge_groups
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.testing.agreement import deviation, step_deviation
from ptycho_backends.testing.measurements import DOUBLE, OUTPUTS, SINGLE, Measurement, Timings
from ptycho_backends.testing.replay import replayed_training
from ptycho_backends.training.plan import TrainingPlan, inference_groups, plan_training
from ptycho_backends.values import Reconstruction, TrainedModel

STITCHING_SIZE = 20

ATTENTION: Mapping[str, Any] = MappingProxyType(
    {"architecture": "attention", "cbam_encoder": True, "eca_decoder": True, "batch_norm": True}
)
"""The model of a scan case with attention: running values are what training adds to weights and gradients."""


@dataclass(frozen=True, repr=False)
class ScanCase:
    """A simulated scan and a short training on it; a handful of steps, because training is chaotic.

    `staged` is one main epoch, then fine-tuning of the decoder and of all but the phase's heads, with
    gradients gathered and clipped. `probes` is the number of scans that are trained on together: the second one has
    another probe, and pixels that are not valid; both have two modes.
    """

    gridsize: int = 1
    positions: int = 10
    supervised: bool = False
    attention: bool = False
    seed: int = 0
    staged: bool = False
    probes: int = 1

    def __repr__(self) -> str:
        changed = (
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        )
        return f"ScanCase({', '.join(changed)})"

    def scan(self) -> Scan:
        return simulate_star(64, self.positions, n_photons=1e5, seed=self.seed)

    def data(self) -> Scan | GroupedData:
        """The scan to train on, or the groups of several."""
        scan = self.scan()
        if self.probes == 1:
            return scan
        assert scan.probe_guess is not None
        valid = np.ones((scan.N, scan.N), bool)
        valid[20:24, 30:40] = False
        other = dataclasses.replace(
            simulate_star(64, self.positions, n_photons=1e5, seed=self.seed + 1),
            probe_guess=np.roll(scan.probe_guess, 6, axis=1),
            probe_modes=None,
            valid_pixels=valid,
        )
        return merge_groups([groups_for_training(one, self.config) for one in (scan, other)])

    @property
    def config(self) -> TrainingConfig:
        return TrainingConfig(
            model=ModelConfig(
                N=64,
                gridsize=self.gridsize,
                n_filters_scale=1,
                model_type="supervised" if self.supervised else "pinn",
                n_probe_modes=2 if self.probes > 1 else 1,
                **ATTENTION if self.attention else {},
            ),
            batch_size=4,
            nepochs=1 if self.staged else 2,
            nphotons=1e5,
            n_groups=self.positions,
            neighbor_count=max(4, self.gridsize**2),
            probe_trainable=bool(self.seed % 2),
            seed=self.seed,
        )

    @property
    def execution(self) -> ExecutionConfig:
        """In float64."""
        if not self.staged:
            return DOUBLE
        stages = (
            FinetuneStage(1, {"decoder": 0.5, "phase_head": 2.0}),
            FinetuneStage(1, {"encoder_bottom": 0.25, "encoder_top": 0.75, "decoder": 0.1}),
        )
        return dataclasses.replace(
            DOUBLE,
            scheduler="Cosine",
            warmup_epochs=2,
            finetune_stages=stages,
            accum_steps=2,
            # gradients are 75 to 274 long: some are shortened, and not all alike, which Adam would not notice
            gradient_clip_val=170.0,
        )


def draw_scan_case(seed: int) -> ScanCase:
    """The scan and training that the integer `seed` stands for."""
    return ScanCase(
        gridsize=1 + seed % 3,
        positions=10 + seed % 4,
        supervised=seed % 4 == 3,
        attention=seed % 2 == 1,
        seed=seed,
    )


def measure_scan(
    case: ScanCase, backends: Mapping[str, Backend], timings: Timings | None = None
) -> Iterator[Measurement]:
    """Each backend against a replay in NumPy and against the reference; then each against each."""
    timings = Timings() if timings is None else timings
    scan = case.data()
    models: dict[str, TrainedModel] = {}
    images: dict[str, Reconstruction] = {}
    start: dict[str, NDArray] = {}
    for name, backend in backends.items():
        plan = plan_training(scan, case.config, name, case.execution)
        start = dict(plan.start.weights)
        model = timings.timed(name, "training of two epochs", backend.train, scan, case.config,
                              execution=case.execution)  # fmt: skip
        models[name] = model
        yield from _training(name, backend, model, plan, case.execution)
        groups = inference_groups(model, scan)
        yield from _predictions(name, backend, model, groups)
        # the first backend's model, so that images of one archive are compared
        first = next(iter(models.values()))
        images[name] = timings.timed(name, "reconstruction", backend.infer, first, scan,
                                     execution=SINGLE, stitching_size=STITCHING_SIZE)  # fmt: skip
        yield from _image(name, images[name], first, groups)
        yield from _archive(name, model, backends)
    for one, other in itertools.combinations(backends, 2):
        error, where = step_deviation(models[one].weights, models[other].weights, start)
        yield Measurement("trained weights", "training, float64", f"{one}, {other}", error, where)
        error = deviation(images[one].object, images[other].object)
        yield Measurement("stitched image", "stitched image", f"{one}, {other}", error)


def _training(
    name: str, backend: Backend, model: TrainedModel, plan: TrainingPlan, execution: ExecutionConfig
) -> Iterator[Measurement]:
    replayed, history = replayed_training(backend, plan, execution)
    # trained weights are stored so; a scale that has hardly moved would otherwise show its rounding
    weights = {weight: value.astype(weight_dtype(weight)) for weight, value in replayed.items()}
    error, where = step_deviation(model.weights, weights, plan.start.weights)
    yield Measurement("trained weights against a replay", "training, float64", name, error, where)
    for field in ("train_loss", "val_loss", "learning_rate"):
        got = [getattr(row, field) for row in model.history]
        want = [getattr(row, field) for row in history]
        yield Measurement("history against a replay", "training, float64", name, deviation(got, want), field)


def _predictions(
    name: str, backend: Backend, model: TrainedModel, groups: GroupedData
) -> Iterator[Measurement]:
    """`predict` over a scan, in batches, against the reference all at once."""
    batch = groups.batch(intensity_scale=model.intensity_scale)
    want = reference.predict(model.config.model, model.weights, batch)
    execution = dataclasses.replace(DOUBLE, inference_batch_size=3)
    got = backend.predict(model, groups, execution=execution)
    error, where = max((deviation(getattr(got, output), getattr(want, output)), output) for output in OUTPUTS)
    yield Measurement("prediction of a scan", "outputs, float64", name, error, where)


def _image(
    name: str, image: Reconstruction, model: TrainedModel, groups: GroupedData
) -> Iterator[Measurement]:
    """The stitched image against the reference's, and where it lies against the groups."""
    batch = groups.batch(intensity_scale=model.intensity_scale)
    patches = reference.predict(model.config.model, model.weights, batch).object
    want, coverage, origin = stitch(patches, groups.group_centres_px, STITCHING_SIZE)
    yield Measurement("stitched image", "stitched image", name, deviation(image.object, want))
    for what, got, exact in (
        ("centres of groups", image.group_centres_px, groups.group_centres_px[:, 0, :, 0]),
        ("coverage", image.coverage, coverage),
        ("origin", image.origin_px, origin),
    ):
        yield Measurement("grouped data", "grouped data", name, deviation(got, exact), what)


def _archive(name: str, model: TrainedModel, backends: Mapping[str, Backend]) -> Iterator[Measurement]:
    """Saved by one, loaded by every one and by the library itself: the same bits."""
    with tempfile.TemporaryDirectory() as folder:
        path = backends[name].save(model, Path(folder))
        loaded = {other: backend.load(path) for other, backend in backends.items()}
        loaded["the library"] = load_archive(path)
    for other, again in loaded.items():
        error, where = _bit_difference(again, model)
        yield Measurement("round trip", "round trip", f"{name}, {other}", error, where)


def _bit_difference(got: TrainedModel, want: TrainedModel) -> tuple[float, str]:
    if list(got.weights) != list(want.weights):
        return np.inf, "names or order of the weights"
    for name, value in want.weights.items():
        same = got.weights[name]
        if (same.dtype, same.shape, same.tobytes()) != (value.dtype, value.shape, value.tobytes()):
            return np.inf, name
    for name in ("config", "intensity_scale", "history", "backend"):
        one, other = getattr(got, name), getattr(want, name)
        if (tuple(one) != tuple(other)) if name == "history" else one != other:
            return np.inf, name
    return 0.0, ""
