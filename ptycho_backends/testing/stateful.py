"""A state machine of the protocol: any order of calls, with sound and unsound arguments.

    from ptycho_backends.testing.stateful import protocol_machine

    TestMyBackend = protocol_machine("mypackage").TestCase

Each call works, and gives finite numbers, or raises an error of `ptycho_backends.errors` (or the ValueError that
`export` documents).
"""

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, multiple, rule

from ptycho_backends.config import ExecutionConfig, ModelConfig, RefinementConfig, TrainingConfig
from ptycho_backends.errors import PtychoBackendsError
from ptycho_backends.registry import get_backend
from ptycho_backends.scans.grouping import group_scan
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training.plan import inference_groups
from ptycho_backends.values import Batch, Prediction, Reconstruction, TrainedModel

SIDE, POSITIONS = 16, 20

Change = Mapping[str, Any]

# The first entry of each leaves everything as it is; simpler ones come first, so that failures shrink to them.
CONFIGS: Sequence[Change] = (
    {}, {"nepochs": 2}, {"seed": 3}, {"probe_trainable": True}, {"n_groups": None, "nphotons": None},
    {"nepochs": 0}, {"batch_size": 3}, {"nphotons": float("nan")}, {"nphotons": 1e300}, {"nll_weight": 0.0},
    {"n_groups": 10_000}, {"model.N": 32}, {"model.gridsize": 0}, {"model.n_probe_modes": 2},
)  # fmt: skip
EXECUTIONS: Sequence[Change] = (
    {}, {"accum_steps": 2}, {"gradient_clip_val": 0.5}, {"precision": "64-true"}, {"divergence_retries": 1},
    {"learning_rate": 1e30}, {"learning_rate": -1.0}, {"precision": "8-bit"}, {"accelerator": "abacus"},
    {"devices": 0}, {"strategy": "nowhere"}, {"inference_batch_size": 0}, {"num_workers": -1},
)  # fmt: skip
GROUPS = ("sound", "of another gridsize", "of another side", "a scan")
BATCHES = (
    "sound", "empty", "of another side", "of more channels", "infinite", "1e308", "negative strides", "float64",
    "without offsets", "far offsets", "negative scale",
)  # fmt: skip
WEIGHTS = ("sound", "none", "one missing", "one more", "wrong shape", "NaN", "text")
STARTS = ("none", "image", "flat array", "empty array", "infinite array", "missing file")
PATHS = ("archive", "folder", "missing", "below a file", "no archive")
SIZES = (None, 4, SIDE, 3, 0, -2, 10**6)
OPERATIONS = ("forward", "loss", "gradients", "train_step")


def scan_of(side: int = SIDE, count: int = POSITIONS) -> Scan:
    """A small simulated scan."""
    return simulate_star(side, count, n_photons=1e5, seed=0)


def changed_config(change: Change) -> TrainingConfig:
    """A small configuration with fields assigned, unchecked."""
    model = ModelConfig(N=SIDE, architecture="unrolled", n_steps=1)
    config = TrainingConfig(model=model, nepochs=1, batch_size=8, nphotons=1e5, n_groups=POSITIONS)
    for name, value in change.items():
        owner = config.model if name.startswith("model.") else config
        setattr(owner, name.removeprefix("model."), value)
    return config


def changed_execution(change: Change) -> ExecutionConfig:
    """An execution on a processor with fields assigned, unchecked."""
    execution = ExecutionConfig(accelerator="cpu", enable_progress_bar=False, logger_backend=None)
    for name, value in change.items():
        setattr(execution, name, value)
    return execution


def damaged_batch(batch: Batch, how: str) -> Batch:
    """`batch` with one of `BATCHES` done to it."""
    patterns = np.array(batch.diffraction_amplitude)
    offsets = batch.relative_offsets_px
    if how == "infinite":
        patterns[0, 0, 0, 0] = np.inf
    changes: dict[str, dict[str, Any]] = {
        "empty": {"diffraction_amplitude": patterns[:0], "relative_offsets_px": offsets[:0]},
        "of another side": {"diffraction_amplitude": patterns[:, ::2, ::2]},
        "of more channels": {"diffraction_amplitude": np.repeat(patterns, 3, axis=-1)},
        "infinite": {"diffraction_amplitude": patterns},
        "1e308": {"diffraction_amplitude": np.full(patterns.shape, 1e308)},
        "negative strides": {"diffraction_amplitude": patterns[:, ::-1, ::-1]},
        "float64": {"diffraction_amplitude": patterns.astype(np.float64)},
        "without offsets": {"relative_offsets_px": offsets[:, :, :1]},
        "far offsets": {"relative_offsets_px": np.full_like(offsets, 1e30)},
        "negative scale": {"intensity_scale": -1.0},
    }
    return dataclasses.replace(batch, **changes.get(how, {}))


def damaged_weights(weights: Mapping[str, Any], how: str) -> dict[str, Any]:
    """`weights` with one of `WEIGHTS` done to them."""
    found = dict(weights)
    last = next(reversed(found))
    if how == "none":
        return {}
    if how == "one missing":
        del found[last]
    elif how == "one more":
        found["more"] = np.zeros(3, np.float32)
    elif how == "wrong shape":
        found[last] = found[last][..., :-1]
    elif how == "NaN":
        found[last] = np.full_like(found[last], np.nan)
    elif how == "text":
        found[last] = "probe"
    return found


class ProtocolMachine(RuleBasedStateMachine):
    """Calls of a backend's methods; `protocol_machine` names the backend."""

    backend_name = ""
    models: Bundle[TrainedModel] = Bundle("models")
    images: Bundle[Reconstruction] = Bundle("images")

    def __init__(self) -> None:
        super().__init__()
        self.backend = get_backend(self.backend_name)
        self.scan = scan_of()
        self._temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self._temporary.name)

    def teardown(self) -> None:
        self._temporary.cleanup()

    def attempt(self, call: Callable[[], Any], documented: type[Exception] = PtychoBackendsError) -> Any:
        """The result of `call`; None where it raises an error that is documented."""
        try:
            return call()
        except documented:
            return None

    def batch_of(self, model: TrainedModel) -> Batch:
        """Some groups of the scan, as `model` takes them."""
        return inference_groups(model, self.scan).batch(np.arange(3), intensity_scale=model.intensity_scale)

    @rule(
        target=models,
        config=st.sampled_from(CONFIGS),
        execution=st.sampled_from(EXECUTIONS),
        writes=st.booleans(),
    )
    def train(self, config: Change, execution: Change, writes: bool) -> Any:
        return self._trained(config, execution, writes, None)

    @rule(target=models, model=models, config=st.sampled_from(CONFIGS), execution=st.sampled_from(EXECUTIONS))
    def resume(self, model: TrainedModel, config: Change, execution: Change) -> Any:
        return self._trained(config, execution, False, model)

    def _trained(self, config: Change, execution: Change, writes: bool, start: TrainedModel | None) -> Any:
        model = self.attempt(
            lambda: self.backend.train(
                self.scan,
                changed_config(config),
                execution=changed_execution(execution),
                output_dir=self.folder / "run" if writes else None,
                resume_from=start,
            )
        )
        if model is None:
            return multiple()
        assert all(np.isfinite(value).all() for value in model.weights.values())
        assert all(np.isfinite(record.train_loss) for record in model.history)
        return model

    @rule(config=st.sampled_from(CONFIGS), execution=st.sampled_from(EXECUTIONS))
    def prepare(self, config: Change, execution: Change) -> None:
        run = changed_execution(execution)
        groups = group_scan(self.scan, n_groups=4)
        self.attempt(lambda: self.backend.complete_config(changed_config(config), self.scan, run))
        self.attempt(lambda: self.backend.prepare(groups, changed_config(config), execution=run))

    @rule(model=models, groups=st.sampled_from(GROUPS), execution=st.sampled_from(EXECUTIONS))
    def predict(self, model: TrainedModel, groups: str, execution: Change) -> None:
        data = self._groups(model, groups)
        if isinstance(data, Scan):
            return
        found = self.attempt(
            lambda: self.backend.predict(model, data, execution=changed_execution(execution))
        )
        self._require_finite(found)

    def _groups(self, model: TrainedModel, kind: str) -> Any:
        if kind == "of another gridsize":
            return group_scan(self.scan, gridsize=2, n_groups=4)
        if kind == "of another side":
            return group_scan(scan_of(32), n_groups=4)
        return self.scan if kind == "a scan" else inference_groups(model, self.scan)

    @rule(
        target=images, model=models, groups=st.sampled_from(GROUPS), size=st.sampled_from(SIZES),
        execution=st.sampled_from(EXECUTIONS),
    )  # fmt: skip
    def infer(self, model: TrainedModel, groups: str, size: int | None, execution: Change) -> Any:
        data = self._groups(model, groups)
        image = self.attempt(
            lambda: self.backend.infer(
                model, data, execution=changed_execution(execution), stitching_size=size
            )
        )
        return self._image(image)

    @rule(target=images, start=st.sampled_from(STARTS), passes=st.sampled_from((1, 2, 0, -1)))
    def refine(self, start: str, passes: int) -> Any:
        return self._refined(start, None, passes)

    @rule(target=images, image=images)
    def refine_further(self, image: Reconstruction) -> Any:
        return self._refined("image", image, 1)

    def _refined(self, start: str, image: Reconstruction | None, passes: int) -> Any:
        starts: dict[str, Any] = {
            "image": image,
            "flat array": np.ones((40, 40), np.complex64),
            "empty array": np.ones((0, 0), np.complex64),
            "infinite array": np.full((40, 40), np.inf, np.complex64),
            "missing file": self.folder / "no image.npz",
        }
        config = RefinementConfig()
        config.passes = passes
        found = self.attempt(
            lambda: self.backend.refine(starts.get(start), self.scan, config, execution=changed_execution({}))
        )
        return self._image(found)

    def _image(self, image: Reconstruction | None) -> Any:
        if image is None:
            return multiple()
        assert np.isfinite(image.object).all()
        assert np.isfinite(image.coverage).all()
        return image

    @rule(target=models, model=consumes(models), path=st.sampled_from(PATHS))
    def save_and_load(self, model: TrainedModel, path: str) -> Any:
        (self.folder / "file").write_text("no model")
        (self.folder / "empty").mkdir(exist_ok=True)
        place = {
            "archive": self.folder / "model.wts.h5.zip",
            "folder": self.folder / "models",
            "below a file": self.folder / "file" / "model.wts.h5.zip",
        }.get(path)
        if place is not None:
            place = self.attempt(functools.partial(self.backend.save, model, place))
        source = {"missing": self.folder / "nothing", "no archive": self.folder / "file"}.get(path, place)
        loaded = None if source is None else self.attempt(lambda: self.backend.load(source))
        assert (loaded is not None) == (path in ("archive", "folder"))
        if loaded is None:
            return model
        assert all(np.array_equal(loaded.weights[name], value) for name, value in model.weights.items())
        return loaded

    @rule(model=models, format=st.sampled_from(("ptychopinn", "no such format")))
    def export(self, model: TrainedModel, format: str) -> None:
        self.attempt(lambda: self.backend.export(model, self.folder / "exported.zip", format), ValueError)

    @rule(
        model=models, operation=st.sampled_from(OPERATIONS), batch=st.sampled_from(BATCHES),
        weights=st.sampled_from(WEIGHTS), execution=st.sampled_from(EXECUTIONS),
    )  # fmt: skip
    def compute(
        self, model: TrainedModel, operation: str, batch: str, weights: str, execution: Change
    ) -> None:
        damaged = damaged_batch(self.batch_of(model), batch)
        given = damaged_weights(model.weights, weights)
        config: Any = model.config.model if operation == "forward" else model.config
        operand: Any = [damaged, damaged] if operation == "train_step" else damaged
        run = changed_execution(execution)
        found = self.attempt(lambda: getattr(self.backend, operation)(config, given, operand, execution=run))
        if operation != "train_step":
            self._require_finite(found)

    @staticmethod
    def _require_finite(found: Any) -> None:
        if found is None:
            return
        values = vars(found) if isinstance(found, Prediction) else found
        for name, value in values.items():
            assert np.isfinite(value).all(), name


def protocol_machine(backend: str) -> type[ProtocolMachine]:
    """The state machine of a backend, by its name in the registry."""
    return type(f"Protocol_{backend}", (ProtocolMachine,), {"backend_name": backend})


__all__ = ["ProtocolMachine", "protocol_machine"]
