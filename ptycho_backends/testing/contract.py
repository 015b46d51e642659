"""The conformance kit: subclass `BackendContract` once, and pytest holds your backend against the reference.

    from ptycho_backends.testing.contract import BackendContract

    class TestMyBackend(BackendContract):
        backend_name = "mypackage"       # as registered under `ptycho_backends.backends`

A backend that passes computes the model of docs/model.md, and its models move freely.
"""

import dataclasses
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from ptycho_backends.config import ExecutionConfig, TrainingConfig
from ptycho_backends.errors import ConfigError, PtychoBackendsError, ScanError
from ptycho_backends.protocol import Backend
from ptycho_backends.reference import model as reference
from ptycho_backends.reference.initial_weights import LOG_SCALE, PROBE
from ptycho_backends.registry import get_backend
from ptycho_backends.testing.agreement import assert_agrees, assert_all_agree
from ptycho_backends.testing.cases import Case
from ptycho_backends.testing.measurements import (
    DOUBLE,
    OUTPUTS,
    SINGLE,
    Timings,
    along_slopes,
    loss_terms,
    outputs,
    probed_slopes,
    reordering_share,
    replayed,
    require_agreement,
)
from ptycho_backends.testing.refinement_measurements import REFINEMENTS, RefinementCase, measure_refinement
from ptycho_backends.testing.scan_measurements import ScanCase, measure_scan
from ptycho_backends.testing.symmetries import Reordering
from ptycho_backends.testing.verb_cases import VERBS, VerbCase
from ptycho_backends.testing.verbs import measure_verbs, require_verbs
from ptycho_backends.training.plan import inference_groups, plan_training
from ptycho_backends.values import Batch, EpochRecord, Prediction, RefinementRecord

CASES = (
    Case(gridsize=2, probe_mask=True, gaussian_smoothing_sigma=0.5, max_position_jitter=7, loss="all",
         offsets="uncentred", seed=1),
    Case(amp_activation="swish", pad_object=False, object_big=False, loss="nll+mae", nphotons=1e6, seed=2),
    Case(gridsize=2, amp_activation="softplus", probe_big=False, loss="supervised", offsets="far", seed=3),
    Case(gridsize=3, amp_activation="relu", loss="mae+object", groups=1, dark=True, seed=4),
    Case(N=128, loss="nll+tv", groups=1, probe_trainable=False, seed=5),
    Case(architecture="attention", gridsize=2, cbam_encoder=True, cbam_bottleneck=True, cbam_decoder=True,
         decoder_last_c_outer_fraction=0.4, edge_pad=3, loss="all", offsets="uncentred", seed=6),
    Case(architecture="attention", eca_encoder=True, eca_decoder=True, spatial_decoder=True,
         decoder_spatial_kernel=3, use_shared_decoder=True, batch_norm=True, loss="nll+mae", groups=3,
         intensity_scale_trainable=False, seed=7),
    Case(gridsize=2, loss="mae+variation", seed=8),
    Case(gridsize=2, loss="nll+mae", n_probe_modes=3, masked=True, gaussian_smoothing_sigma=0.5, probe_mask=True,
         seed=9),
    Case(loss="mae+object", n_probe_modes=2, n_probes=2, groups=3, masked=True, seed=10),
    Case(gridsize=2, loss="nll", n_probes=2, nphotons=1e4, seed=11),
    Case(architecture="unrolled", N=32, gridsize=2, n_steps=3, n_rounds=2, probe_mask=True, loss="all",
         offsets="uncentred", seed=12),
    Case(architecture="unrolled", N=22, n_steps=4, n_probe_modes=2, n_probes=2, groups=3, masked=True, loss="nll+mae",
         seed=13),
    Case(architecture="unrolled", N=16, gridsize=2, n_steps=2, loss="supervised", dark=True, offsets="far", seed=14),
    Case(architecture="unrolled", N=16, n_steps=1, loss="nll+tv", groups=3, dark=True, seed=15),
)  # fmt: skip
"""Every switch of the model at least once each way."""

SCANS = (ScanCase(gridsize=2, seed=1), ScanCase(supervised=True, attention=True, positions=11))

BAD_CONFIGURATIONS: Sequence[dict[str, Any]] = (
    {"nepochs": 0},
    {"batch_size": 3},
    {"nll_weight": -1.0},
    {"nll_weight": 0.0},
    {"nphotons": float("nan")},
    {"model.N": 96},
    {"model.N": 128},
    {"model.gridsize": 0},
    {"model.amp_activation": "tanh"},
    {"model.gaussian_smoothing_sigma": -0.5},
    {"model.model_type": "unsupervised"},
    {"model.cbam_encoder": True},
    {"model.architecture": "attention", "model.edge_pad": 16},
)
"""Changes to a valid configuration, each of which every backend refuses with `ConfigError`."""


def changed(config: TrainingConfig, changes: dict[str, Any]) -> TrainingConfig:
    """A copy with fields assigned, as Ptychodus does: unchecked until the configuration is used."""
    copy = dataclasses.replace(config, model=dataclasses.replace(config.model))
    for name, value in changes.items():
        owner = copy.model if name.startswith("model.") else copy
        setattr(owner, name.removeprefix("model."), value)
    return copy


def _is_bias_of_amplitude(name: str) -> bool:
    return name in ("amplitude/inner_head/bias", "amplitude/border_head/bias")


def _of_case(test: Any) -> Any:
    return pytest.mark.parametrize("case", CASES, ids=repr)(test)


class BackendContract:
    """Inherit, name your backend, done. A backend that does not load fails every test."""

    backend_name: ClassVar[str]

    @pytest.fixture
    def backend(self) -> Backend:
        """The backend under test."""
        try:
            return get_backend(self.backend_name)
        except PtychoBackendsError as error:
            pytest.fail(f"{self.backend_name}: {error}", pytrace=False)

    # --- the protocol

    def test_has_every_member(self, backend: Backend) -> None:
        assert isinstance(backend, Backend)
        assert isinstance(backend.name, str)
        assert backend.name
        assert isinstance(backend.export_formats, frozenset)
        assert all(isinstance(name, str) for name in backend.export_formats)

    def test_signatures(self, backend: Backend) -> None:
        for name, method in vars(Backend).items():
            if name.startswith("_") or not inspect.isfunction(method):
                continue
            want = list(inspect.signature(method).parameters.values())[1:]
            got = list(inspect.signature(getattr(backend, name)).parameters.values())
            assert [(p.name, p.kind) for p in got] == [(p.name, p.kind) for p in want], name
            # a parameter may be optional here that is not in the protocol
            required = {p.name for p in want if p.default is p.empty}
            assert {p.name for p in got if p.default is p.empty} <= required, name

    # --- the mathematics

    @_of_case
    def test_outputs(self, backend: Backend, case: Case) -> None:
        want = reference.predict(case.config.model, case.weights, case.batch)
        require_agreement(outputs(backend.name, backend, case, want, Timings()))

    @_of_case
    def test_loss(self, backend: Backend, case: Case) -> None:
        want = reference.loss(case.config, case.weights, case.batch)
        require_agreement(loss_terms(backend.name, backend, case, want))

    @_of_case
    def test_gradients_are_the_slopes_of_the_loss(self, backend: Backend, case: Case) -> None:
        gradients = backend.gradients(case.config, case.weights, case.batch, execution=DOUBLE)
        assert list(gradients) == list(case.weights)
        require_agreement(
            along_slopes(backend.name, gradients, list(probed_slopes(case, gradients, count=3)))
        )

    @_of_case
    def test_step_is_adam(self, backend: Backend, case: Case) -> None:
        step = backend.train_step(case.config, case.weights, [case.batch], execution=DOUBLE)
        require_agreement([replayed(backend.name, backend, case, step)])
        for name, trained in ((PROBE, case.probe_trainable), (LOG_SCALE, case.intensity_scale_trainable)):
            assert trained or np.array_equal(step[name], case.weights[name]), name

    @_of_case
    def test_float32_gradient_is_as_good_as_float32_allows(self, backend: Backend, case: Case) -> None:
        exact = backend.gradients(case.config, case.weights, case.batch, execution=DOUBLE)
        require_agreement([reordering_share(backend.name, backend, case, exact, 3, Timings())])

    def test_arguments_are_left_alone(self, backend: Backend) -> None:
        case = CASES[0]
        weights = {name: value.copy() for name, value in case.weights.items()}
        pixels = case.batch.diffraction_amplitude.copy()
        backend.train_step(case.config, weights, [case.batch], execution=SINGLE)
        backend.gradients(case.config, weights, case.batch, execution=SINGLE)
        assert all(np.array_equal(weights[name], value) for name, value in case.weights.items())
        assert np.array_equal(case.batch.diffraction_amplitude, pixels)

    # --- laws

    @_of_case
    def test_reordering_changes_nothing(self, backend: Backend, case: Case) -> None:
        order = Reordering(case.config.model, case.groups, case.seed)
        weights, batch = order.weights(case.weights), order.batch(case.batch)
        want = order.prediction(
            backend.forward(case.config.model, case.weights, case.batch, execution=DOUBLE)
        )
        _same_prediction(backend.forward(case.config.model, weights, batch, execution=DOUBLE), want)
        gradients = backend.gradients(case.config, weights, batch, execution=DOUBLE)
        assert_all_agree(
            "gradient",
            order.weights_back(gradients),
            backend.gradients(case.config, case.weights, case.batch, execution=DOUBLE),
            "gradients, float64",
        )

    def test_a_group_does_not_know_its_batch(self, backend: Backend) -> None:
        case = CASES[0]
        whole = backend.forward(case.config.model, case.weights, case.batch, execution=DOUBLE)
        for number in range(case.groups):
            alone = backend.forward(
                case.config.model, case.weights, _part(case.batch, number), execution=DOUBLE
            )
            part = slice(number, number + 1)
            _same_prediction(
                alone, Prediction(whole.object[part], whole.amplitude[part], whole.intensity[part])
            )

    def test_object_does_not_know_where_the_group_is(self, backend: Backend) -> None:
        case = CASES[0]
        # multiples of 1/64 pixel, so that float32 adds them exactly
        offsets = np.round(case.batch.relative_offsets_px * 64) / np.float32(64)
        moved = offsets + np.array([3.25, -1.5], np.float32)[:, None]
        batch = dataclasses.replace(case.batch, relative_offsets_px=offsets)
        elsewhere = dataclasses.replace(case.batch, relative_offsets_px=moved)
        here = backend.forward(case.config.model, case.weights, batch, execution=DOUBLE)
        there = backend.forward(case.config.model, case.weights, elsewhere, execution=DOUBLE)
        assert_agrees("object", there.object, here.object, "laws, float64")

    def test_dark_patterns_give_finite_numbers(self, backend: Backend) -> None:
        case = CASES[0]
        nothing = np.zeros_like(case.batch.diffraction_amplitude)
        dark = dataclasses.replace(case.batch, diffraction_amplitude=nothing)
        for execution in (DOUBLE, SINGLE):
            assert np.isfinite(backend.loss(case.config, case.weights, dark, execution=execution)["total"])
            gradients = backend.gradients(case.config, case.weights, dark, execution=execution)
            assert all(np.isfinite(value).all() for value in gradients.values())

    @pytest.mark.parametrize("loss", ["mae+object", "supervised", "supervised+deviation"])
    def test_faint_objects_give_finite_numbers(self, backend: Backend, loss: str) -> None:
        """The phase's gradient divides by the square of the amplitude, which underflows."""
        case = Case(loss=loss, gridsize=2)
        # amplitudes of 1e-18, 1e-20, 1e-30, and below the smallest normal number of float32
        for bias in (-41.4, -46.0, -69.0, -90.0):
            faint = {
                name: np.full_like(value, bias) if _is_bias_of_amplitude(name) else value
                for name, value in case.weights.items()
            }
            for execution in (DOUBLE, SINGLE):
                terms = backend.loss(case.config, faint, case.batch, execution=execution)
                gradients = backend.gradients(case.config, faint, case.batch, execution=execution)
                for name, value in {**terms, **gradients}.items():
                    assert np.isfinite(np.asarray(value)).all(), f"{name}, {execution.precision}, bias {bias}"

    # --- errors

    @pytest.mark.parametrize("changes", BAD_CONFIGURATIONS, ids=repr)
    def test_bad_configuration_is_refused(self, backend: Backend, changes: dict[str, Any]) -> None:
        scan, config = SCANS[0].scan(), changed(SCANS[0].config, changes)
        with pytest.raises(ConfigError):
            backend.complete_config(config, scan)
        with pytest.raises(ConfigError):
            backend.train(scan, config, execution=SINGLE)

    def test_missing_truth_is_refused(self, backend: Backend) -> None:
        scan = dataclasses.replace(SCANS[1].scan(), object_guess=None, object_mask=None)
        with pytest.raises(ScanError, match="objectGuess"):
            backend.train(scan, SCANS[1].config, execution=SINGLE)
        case = CASES[2]
        without = dataclasses.replace(case.batch, object_patches=None, object_at_centre=None)
        with pytest.raises(ScanError, match="objectGuess"):
            backend.loss(case.config, case.weights, without, execution=SINGLE)

    def test_data_that_do_not_fit_the_model_are_refused(self, backend: Backend) -> None:
        config = dataclasses.replace(SCANS[0].config, nepochs=1)
        model = backend.train(SCANS[0].scan(), config, execution=SINGLE)
        other = dataclasses.replace(model, config=changed(config, {"model.gridsize": 1}))
        groups = inference_groups(other, SCANS[0].scan())
        with pytest.raises(ConfigError):
            backend.predict(model, groups, execution=SINGLE)

    # --- whole scans

    @pytest.mark.parametrize("scan", SCANS, ids=repr)
    def test_training_stitching_and_archives(self, backend: Backend, scan: ScanCase) -> None:
        require_agreement(measure_scan(scan, {backend.name: backend}))

    @pytest.mark.parametrize("case", VERBS, ids=repr)
    def test_verbs(self, backend: Backend, case: VerbCase) -> None:
        """Training, resuming, prediction, inference and refinement of one case: whole verbs, every option."""
        require_verbs(case, measure_verbs(case, {backend.name: backend}))

    def test_history_and_resuming(self, backend: Backend, tmp_path: Path) -> None:
        scan, config = SCANS[0].scan(), SCANS[0].config
        reported: list[EpochRecord] = []
        first = backend.train(
            scan, dataclasses.replace(config, nepochs=1), execution=DOUBLE, on_epoch=reported.append
        )
        assert [row.epoch for row in first.history] == [row.epoch for row in reported] == [1]
        assert first.backend == backend.name
        assert not first.interrupted
        assert first.training_state is not None
        assert (first.training_state.epoch, first.training_state.batches_done) == (1, 0)
        resumed = backend.train(scan, config, execution=DOUBLE, resume_from=first)
        assert resumed.history[0] == first.history[0]
        assert [row.epoch for row in resumed.history] == [1, 2]
        straight = backend.train(scan, config, execution=DOUBLE)
        # the hand-over rounds the weights to float32, nothing else
        assert resumed.history[1].train_loss == pytest.approx(straight.history[1].train_loss, rel=1e-5)
        assert resumed.training_state is not None
        assert straight.training_state is not None
        assert resumed.training_state.step == straight.training_state.step

    def test_a_plan_is_trained_as_it_is(self, backend: Backend) -> None:
        config = dataclasses.replace(SCANS[0].config, nepochs=1)
        plan = plan_training(SCANS[0].scan(), config, backend.name, DOUBLE)
        model = backend.train(plan, plan.config, execution=DOUBLE)
        assert model.config == plan.config
        again = backend.train(SCANS[0].scan(), config, execution=DOUBLE)
        assert model.history[0].train_loss == again.history[0].train_loss

    @pytest.mark.parametrize("execution", [DOUBLE, SINGLE], ids=["float64", "float32"])
    @pytest.mark.parametrize("case", REFINEMENTS, ids=repr)
    def test_refinement(self, backend: Backend, case: RefinementCase, execution: ExecutionConfig) -> None:
        require_agreement(measure_refinement(case, {backend.name: backend}, execution))

    def test_a_refinement_reports_and_names_itself(self, backend: Backend) -> None:
        case = REFINEMENTS[0]
        reported: list[RefinementRecord] = []
        image = backend.refine(None, case.scan(), case.config, execution=SINGLE, on_pass=reported.append)
        assert list(image.passes) == reported
        assert [row.number for row in reported] == list(range(1, case.passes + 1))
        assert image.backend == backend.name
        assert not image.interrupted
        assert image.object.dtype == np.complex64

    def test_a_refinement_starts_from_an_image(self, backend: Backend) -> None:
        """One pass from the image of three continues, where one from a flat object has to begin."""
        case = dataclasses.replace(REFINEMENTS[0], passes=3)
        image = backend.refine(None, case.scan(), case.config, execution=SINGLE)
        config = dataclasses.replace(case.config, passes=1)
        onward = backend.refine(image, case.scan(), config, execution=SINGLE)
        assert onward.start is image
        assert onward.passes[0].error < 0.5 * image.passes[0].error

    def test_prepared_data(self, backend: Backend) -> None:
        groups = inference_groups(
            backend.train(SCANS[0].scan(), dataclasses.replace(SCANS[0].config, nepochs=1), execution=SINGLE),
            SCANS[0].scan(),
        )
        assert backend.prepare(groups, SCANS[0].config, execution=SINGLE) is not None

    def test_unknown_export_format_is_refused(self, backend: Backend, tmp_path: Path) -> None:
        config = dataclasses.replace(SCANS[0].config, nepochs=1)
        model = backend.train(SCANS[0].scan(), config, execution=SINGLE)
        with pytest.raises(ValueError, match="no-such-format"):
            backend.export(model, tmp_path / "model.bin", "no-such-format")
        assert not list(tmp_path.iterdir())


def _part(batch: Batch, number: int) -> Batch:
    part = slice(number, number + 1)
    values = {
        field.name: getattr(batch, field.name)[part]
        for field in dataclasses.fields(batch)
        if isinstance(getattr(batch, field.name), np.ndarray)
    }
    return dataclasses.replace(batch, **values)


def _same_prediction(got: Prediction, want: Prediction) -> None:
    for output in OUTPUTS:
        assert_agrees(output, getattr(got, output), getattr(want, output), "laws, float64")


__all__ = ["BAD_CONFIGURATIONS", "CASES", "SCANS", "BackendContract", "changed"]
