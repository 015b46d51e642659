"""Every field of the configurations has an effect: `FIELDS` says which, `check_field` shows it on a backend.

from ptycho_backends.testing.fields import FIELDS, Baselines, check_field

@pytest.fixture(scope="module")
def baselines():
    return Baselines()

@pytest.mark.parametrize("field", FIELDS)
def test_field(baselines, tmp_path, field):
    check_field(get_backend("mypackage"), field, tmp_path, baselines)
"""

import contextlib
import dataclasses
import io
import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.config import (
    ExecutionConfig,
    FinetuneStage,
    InferenceConfig,
    ModelConfig,
    TrainingConfig,
)
from ptycho_backends.errors import PtychoBackendsError
from ptycho_backends.protocol import Backend
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training.plan import inference_groups

CLASSES: Mapping[str, type] = {
    "ModelConfig": ModelConfig,
    "TrainingConfig": TrainingConfig,
    "InferenceConfig": InferenceConfig,
    "ExecutionConfig": ExecutionConfig,
}
POSITIONS = 8

EFFECTS: Mapping[str, str] = {
    "weights": "the trained weights differ",
    "history": "the history differs",
    "image": "the image differs",
    "files": "other files are written",
    "log": "the lines on the terminal or in the log differ",
    "record": "the model keeps the value, which decides no number",
    "nothing": "every number stays the same: only time and memory change",
    "refused": "refused by an error with its name",
    "elsewhere": "has tests of its own",
}
"""What may become of another value of a field."""


@dataclass(frozen=True)
class Expected:
    """Another value of a field, and its effect.

    Attributes
    ----------
    value : object
    effect : str
        One of `EFFECTS`.
    given : mapping
        Other fields, `Class.field` to value, that both runs have: those without which the field means nothing.
    note : str
        For people: why nothing or no number changes, or where the tests are.
    may_refuse : bool
        A backend may also refuse the value by an error with its name.
    """

    value: Any
    effect: str = "weights"
    given: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    may_refuse: bool = False


# the smallest network, for all fields that every network has
_BASE = {
    "ModelConfig.N": 16, "ModelConfig.architecture": "unrolled", "ModelConfig.n_steps": 2,
    "ModelConfig.n_filters_scale": 1, "TrainingConfig.nepochs": 1, "TrainingConfig.batch_size": 4,
    "TrainingConfig.nphotons": 1e5, "ExecutionConfig.accelerator": "cpu",
    "ExecutionConfig.enable_progress_bar": False, "ExecutionConfig.enable_checkpointing": False,
}  # fmt: skip
_CNN = {"ModelConfig.N": 64, "ModelConfig.architecture": "cnn", "ModelConfig.n_steps": ModelConfig.n_steps}
_ATTENTION = {**_CNN, "ModelConfig.architecture": "attention"}
_KEPT = {"ExecutionConfig.enable_checkpointing": True}
_PAIR = {"ModelConfig.gridsize": 2}
_CANVAS = {**_CNN, **_PAIR, "ModelConfig.max_position_jitter": 2}
_LABELS = {"TrainingConfig.realspace_weight": 1.0}
_OBJECT = {"TrainingConfig.realspace_weight": 1.0, "TrainingConfig.realspace_mae_weight": 1.0}
_SUPERVISED = {"ModelConfig.model_type": "supervised"}
_TOO_MANY = {**_PAIR, "TrainingConfig.neighbor_count": 6, "TrainingConfig.n_groups": 10}
_TOO_MANY_IMAGES = {**_PAIR, "InferenceConfig.neighbor_count": 6, "InferenceConfig.n_groups": 10}
_EPOCHS = {"TrainingConfig.nepochs": 2}
_STANDING = {"TrainingConfig.nepochs": 3, "ExecutionConfig.learning_rate": 1e-30}
_STAGE_THAT_STANDS = (FinetuneStage(3, {"decoder": 1.0}),)
_STAGES = (FinetuneStage(1, {"decoder": 0.5}),)
_PART = {"TrainingConfig.n_subsample": 6}
_PART_OF_IMAGE = {"InferenceConfig.n_subsample": 6}
_NO_GPU = "nothing on the CPU"

FIELDS: Mapping[str, Expected] = {
    "ModelConfig.N": Expected(32, "refused", note="decided by the patterns"),
    "ModelConfig.gridsize": Expected(2),
    "ModelConfig.n_filters_scale": Expected(2),
    "ModelConfig.model_type": Expected("supervised"),
    "ModelConfig.architecture": Expected("attention", given={**_CNN, "ModelConfig.n_filters_scale": 2}),
    "ModelConfig.amp_activation": Expected("softplus", given=_CNN),
    "ModelConfig.object_big": Expected(False, given={**_CNN, **_PAIR}),
    "ModelConfig.probe_big": Expected(False, given=_CNN),
    "ModelConfig.probe_mask": Expected(True),
    "ModelConfig.pad_object": Expected(False, given=_CNN),
    "ModelConfig.probe_scale": Expected(8.0),
    "ModelConfig.gaussian_smoothing_sigma": Expected(0.7, given=_CNN),
    "ModelConfig.offset": Expected(12, given=_CANVAS),
    "ModelConfig.max_position_jitter": Expected(12, given=_CANVAS),
    "ModelConfig.cbam_encoder": Expected(True, given=_ATTENTION),
    "ModelConfig.cbam_bottleneck": Expected(True, given=_ATTENTION),
    "ModelConfig.cbam_decoder": Expected(True, given=_ATTENTION),
    "ModelConfig.eca_encoder": Expected(True, given=_ATTENTION),
    "ModelConfig.eca_decoder": Expected(True, given=_ATTENTION),
    "ModelConfig.spatial_decoder": Expected(True, given=_ATTENTION),
    "ModelConfig.decoder_spatial_kernel": Expected(3, given={**_ATTENTION, "ModelConfig.spatial_decoder": True}),
    "ModelConfig.use_shared_decoder": Expected(True, given=_ATTENTION),
    "ModelConfig.edge_pad": Expected(3, given=_ATTENTION),
    "ModelConfig.decoder_last_c_outer_fraction": Expected(0.5, given=_ATTENTION),
    "ModelConfig.batch_norm": Expected(True, given=_ATTENTION),
    "ModelConfig.n_steps": Expected(3),
    "ModelConfig.n_rounds": Expected(2),
    "ModelConfig.n_probe_modes": Expected(2),
    "ModelConfig.n_probes": Expected(2, "nothing", note="replaced by the number of scans"),
    "TrainingConfig.model": Expected(
        ModelConfig(N=16, architecture="unrolled", n_steps=2, n_filters_scale=1, probe_mask=True)
    ),
    "TrainingConfig.train_data_file": Expected(Path("a.npz"), "record", note="the command line reads it"),
    "TrainingConfig.test_data_file": Expected(Path("b.npz"), "record", note="`run` reads it"),
    "TrainingConfig.batch_size": Expected(2),
    "TrainingConfig.nepochs": Expected(2),
    "TrainingConfig.mae_weight": Expected(1.0),
    "TrainingConfig.nll_weight": Expected(0.5, given={"TrainingConfig.mae_weight": 1.0}),
    "TrainingConfig.realspace_mae_weight": Expected(1.0, given=_LABELS),
    "TrainingConfig.realspace_weight": Expected(1.0, given={"TrainingConfig.realspace_mae_weight": 1.0}),
    "TrainingConfig.nphotons": Expected(1e4),
    "TrainingConfig.n_groups": Expected(5),
    "TrainingConfig.n_images": Expected(5, note="deprecated name of `n_groups`, with a warning"),
    "TrainingConfig.n_subsample": Expected(5),
    "TrainingConfig.subsample_seed": Expected(7, given=_PART),
    "TrainingConfig.neighbor_count": Expected(7, given=_PAIR),
    "TrainingConfig.enable_oversampling": Expected(
        True, "refused", given=_TOO_MANY, note="more groups than positions are refused without it"
    ),
    "TrainingConfig.neighbor_pool_size": Expected(
        8, given={**_TOO_MANY, "TrainingConfig.enable_oversampling": True}
    ),
    "TrainingConfig.positions_provided": Expected(False, "refused", note="a scan always has positions"),
    "TrainingConfig.probe_trainable": Expected(True),
    "TrainingConfig.intensity_scale_trainable": Expected(False, given=_CNN),
    "TrainingConfig.output_dir": Expected(Path("elsewhere"), "record", note="`workflows` write there"),
    "TrainingConfig.sequential_sampling": Expected(True, given={"TrainingConfig.n_groups": 5}),
    "TrainingConfig.normalize": Expected("Group"),
    "TrainingConfig.data_scaling": Expected("Max"),
    "TrainingConfig.phase_subtraction": Expected(True, given=_SUPERVISED),
    "TrainingConfig.backend": Expected(None, "elsewhere", note="chooses the backend: `tests/test_registry.py`"),
    "TrainingConfig.tv_weight": Expected(1.0, given=_LABELS),
    "TrainingConfig.seed": Expected(7),
    "TrainingConfig.amp_loss": Expected("Total_Variation"),
    "TrainingConfig.phase_loss": Expected("Mean_Deviation"),
    "TrainingConfig.amp_loss_coeff": Expected(50.0, given={"TrainingConfig.amp_loss": "Total_Variation"}),
    "TrainingConfig.phase_loss_coeff": Expected(50.0, given={"TrainingConfig.phase_loss": "Total_Variation"}),
    "TrainingConfig.amplitude_variance_coeff": Expected(1.0),
    "TrainingConfig.validation_share": Expected(0.5),
    "TrainingConfig.resample_groups": Expected(True, given={**_PAIR, "TrainingConfig.neighbor_count": 7, **_EPOCHS}),
    "InferenceConfig.model": Expected(None, "elsewhere", note="the trained model's takes its place: `workflows.infer`"),
    "InferenceConfig.model_path": Expected(None, "elsewhere", note="the command line's and the record of an image"),
    "InferenceConfig.test_data_file": Expected(None, "elsewhere", note="the command line's and the record of an image"),
    "InferenceConfig.n_groups": Expected(5, "image"),
    "InferenceConfig.n_images": Expected(5, "image", note="deprecated name of `n_groups`, with a warning"),
    "InferenceConfig.n_subsample": Expected(5, "image"),
    "InferenceConfig.subsample_seed": Expected(7, "image", given=_PART_OF_IMAGE),
    "InferenceConfig.neighbor_count": Expected(7, "image", given=_PAIR),
    "InferenceConfig.enable_oversampling": Expected(
        True, "refused", given=_TOO_MANY_IMAGES, note="more groups than positions are refused without it"
    ),
    "InferenceConfig.neighbor_pool_size": Expected(
        8, "image", given={**_TOO_MANY_IMAGES, "InferenceConfig.enable_oversampling": True}
    ),
    "InferenceConfig.debug": Expected(True, "log"),
    "InferenceConfig.output_dir": Expected(None, "elsewhere", note="`workflows` and the command line write there"),
    "InferenceConfig.backend": Expected(None, "elsewhere", note="chooses the backend: `tests/test_registry.py`"),
    "InferenceConfig.agree_on_phase": Expected(False, "image"),
    "ExecutionConfig.accelerator": Expected("mps", "refused", note="where there is none"),
    "ExecutionConfig.devices": Expected(2, "elsewhere", note="several processes: the tests of process groups"),
    "ExecutionConfig.strategy": Expected("ddp", "elsewhere", note="several processes: the tests of process groups"),
    "ExecutionConfig.precision": Expected("64-true"),
    "ExecutionConfig.allow_tf32": Expected(
        True, "nothing", note="nothing on the CPU; TensorFlow refuses it", may_refuse=True
    ),
    "ExecutionConfig.compile_network": Expected(True, "elsewhere", note="takes a minute: `benchmarks/test_compile.py`"),
    "ExecutionConfig.deterministic": Expected(False, "nothing", note=_NO_GPU),
    "ExecutionConfig.gradient_clip_val": Expected(1e-6),
    "ExecutionConfig.accum_steps": Expected(2),
    "ExecutionConfig.num_workers": Expected(1, "elsewhere", note="starts a process: the tests of workers"),
    "ExecutionConfig.pin_memory": Expected(True, "elsewhere", note=_NO_GPU),
    "ExecutionConfig.persistent_workers": Expected(True, "elsewhere", note="needs `num_workers`"),
    "ExecutionConfig.prefetch_factor": Expected(3, "nothing"),
    "ExecutionConfig.learning_rate": Expected(1e-4),
    "ExecutionConfig.scheduler": Expected("Exponential", given=_EPOCHS),
    "ExecutionConfig.warmup_epochs": Expected(2, given=_EPOCHS),
    "ExecutionConfig.min_lr_ratio": Expected(0.9, given={**_EPOCHS, "ExecutionConfig.scheduler": "Cosine"}),
    "ExecutionConfig.finetune_stages": Expected(_STAGES),
    "ExecutionConfig.finetune_early_stop_patience": Expected(
        1,
        "history",
        given={"ExecutionConfig.finetune_stages": _STAGE_THAT_STANDS, "ExecutionConfig.learning_rate": 1e-30},
    ),
    "ExecutionConfig.enable_progress_bar": Expected(True, "log"),
    "ExecutionConfig.enable_checkpointing": Expected(True, "files"),
    "ExecutionConfig.checkpoint_save_top_k": Expected(0, "files", given=_KEPT),
    "ExecutionConfig.checkpoint_monitor_metric": Expected("train_loss", "files", given=_KEPT),
    "ExecutionConfig.checkpoint_mode": Expected("max", "files", given={**_KEPT, "TrainingConfig.nepochs": 3}),
    "ExecutionConfig.early_stop_patience": Expected(1, "history", given=_STANDING),
    "ExecutionConfig.divergence_retries": Expected(
        1, "elsewhere", note="needs a training that diverges: `tests/training/test_divergence.py`"
    ),
    "ExecutionConfig.logger_backend": Expected("none", "files"),
    "ExecutionConfig.picture_every": Expected(1, "files", given={"ExecutionConfig.enable_checkpointing": True}),
    "ExecutionConfig.inference_batch_size": Expected(3, "nothing", note="images agree to the roundings of float32"),
}  # fmt: skip
"""`Class.field` to another value and its effect, for every field."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """Results of one training and one image; `error` where it was refused."""

    weights: Mapping[str, NDArray] = field(default_factory=dict)
    history: tuple[Any, ...] = ()
    image: NDArray | None = None
    files: frozenset[str] = frozenset()
    log: str = ""
    config: TrainingConfig | None = None
    error: str = ""


Baselines = dict[tuple[Any, ...], Outcome]
"""Outcomes without the changed field, by backend and given fields; share one between checks."""


def run(
    backend: Backend, values: Mapping[str, Any], folder: Path, side: int, *, image: bool = True
) -> Outcome:
    """Train on a simulated scan of eight patterns of `side` pixels; reconstruct it if `image`."""
    texts = io.StringIO()
    handler = logging.StreamHandler(texts)
    logger = logging.getLogger("ptycho_backends")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with contextlib.redirect_stdout(texts), contextlib.redirect_stderr(texts), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return dataclasses.replace(
                _run(backend, {**_BASE, **values}, folder, side, image), log=texts.getvalue()
            )
    except PtychoBackendsError as error:
        return Outcome(error=str(error))
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _run(backend: Backend, values: Mapping[str, Any], folder: Path, side: int, with_image: bool) -> Outcome:
    chosen: dict[str, dict[str, Any]] = {name: {} for name in CLASSES}
    for name, value in values.items():
        owner, _, attribute = name.partition(".")
        chosen[owner][attribute] = value
    model = ModelConfig(**chosen["ModelConfig"])
    training = TrainingConfig(**{"model": model, **chosen["TrainingConfig"]})
    execution = ExecutionConfig(**chosen["ExecutionConfig"])
    scan = simulate_star(side, POSITIONS, seed=1)
    trained = backend.train(scan, training, execution=execution, output_dir=folder)
    image = None
    if with_image:
        inference = InferenceConfig(
            **{"model": trained.config.model, "neighbor_count": 4, **chosen["InferenceConfig"]}
        )
        more = {} if inference.agree_on_phase is None else {"agree_on_phase": inference.agree_on_phase}
        groups = inference_groups(trained, scan, inference)
        image = backend.infer(trained, groups, execution=execution, **more).object
    return Outcome(
        weights=trained.weights,
        history=tuple((row.train_loss, row.val_loss, row.learning_rate) for row in trained.history),
        image=image,
        files=frozenset(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()),
        config=trained.config,
    )


def check_field(backend: Backend, name: str, folder: Path, baselines: Baselines | None = None) -> None:
    """Assert that another value of the field `name` does what `FIELDS` says.

    Parameters
    ----------
    backend : Backend
    name : str
        `Class.field`, a key of `FIELDS`.
    folder : Path
        Empty; gets the files of two runs.
    baselines : dict, optional
        Runs with the given fields alone, which are kept there for the next check.

    Raises
    ------
    AssertionError
        The text names the field, both values, the wanted effect and the effects that were seen.
    """
    expected = FIELDS[name]
    if expected.effect == "elsewhere":
        return
    baselines = {} if baselines is None else baselines
    side = {**_BASE, **expected.given}["ModelConfig.N"]
    image = expected.effect not in ("weights", "history", "files") or name.startswith("InferenceConfig.")
    key = (backend.name, image, *sorted((key, repr(value)) for key, value in expected.given.items()))
    if key not in baselines:
        baselines[key] = run(backend, expected.given, folder / "without", side, image=image)
    before, after = (
        baselines[key],
        run(backend, {**expected.given, name: expected.value}, folder / "with", side, image=image),
    )
    short = name.partition(".")[2]
    told = f"{backend.name}: {name}={expected.value!r} beside {dict(expected.given)}"
    if expected.effect == "refused":
        # one of the two: an option that permits something is refused where it is absent
        errors = [run_.error for run_ in (before, after) if run_.error]
        assert len(errors) == 1, f"{told}: want one refusal, got {errors}"
        assert short in errors[0], f"{told}: the error does not name it: {errors[0]}"
        return
    if expected.may_refuse and short in after.error:
        return
    assert not before.error + after.error, f"{told}: {before.error or after.error}"
    seen = effects(before, after)
    if expected.effect == "record":
        assert before.config is not None
        assert getattr(before.config, short) != getattr(after.config, short), f"{told}: not recorded"
        assert not seen & {"weights", "history", "image"}, f"{told}: changes {sorted(seen)}"
    elif expected.effect == "nothing":
        assert not seen & {"weights", "history", "image"}, f"{told}: changes {sorted(seen)}"
    else:
        assert expected.effect in seen, (
            f"{told}: want {EFFECTS[expected.effect]}; changed: {sorted(seen) or 'nothing'}"
        )


def effects(before: Outcome, after: Outcome) -> set[str]:
    """Names of `EFFECTS` in which two outcomes differ; images by more than roundings of float32."""
    seen = set()
    if before.weights.keys() != after.weights.keys() or any(
        not np.array_equal(after.weights[name], weight) for name, weight in before.weights.items()
    ):
        seen.add("weights")
    if before.history != after.history:
        seen.add("history")
    first, second = before.image, after.image
    if first is not None and second is not None and not _same_image(first, second):
        seen.add("image")
    if before.files != after.files:
        seen.add("files")
    if before.log != after.log:
        seen.add("log")
    return seen


def _same_image(first: NDArray, second: NDArray) -> bool:
    """True for images that differ by the roundings of float32 only."""
    allowed = 1e-5 * float(np.abs(first).max())
    return first.shape == second.shape and np.allclose(first, second, rtol=0, atol=allowed)


def field_rows() -> list[tuple[str, str, str, str]]:
    """Rows of the table in docs/parity.md: field, other value, effect, fields beside it or a note."""
    rows = []
    for name, expected in FIELDS.items():
        hidden = {"ModelConfig.N", "ModelConfig.n_steps"}
        shown = {key: value for key, value in expected.given.items() if key not in hidden}
        beside = ", ".join(f"`{key.partition('.')[2]}={value!r}`" for key, value in shown.items())
        value = "" if expected.value is None else f"`{_shown(expected.value)}`"
        notes = "; ".join(text for text in (f"with {beside}" if beside else "", expected.note) if text)
        rows.append((f"`{name}`", value, EFFECTS[expected.effect], notes))
    return rows


def _shown(value: Any) -> str:
    if isinstance(value, ModelConfig):
        return "another ModelConfig"
    return repr(str(value)) if isinstance(value, Path) else repr(value)
