"""The plan of a training: complete configuration, groups, split, order of batches, first weights.

It is made once for each training, and only a plan carries a complete configuration. Nothing here depends on a
framework, so all backends start from the same weights and see the same batches.
"""

import dataclasses
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy
from numpy.typing import NDArray

from ptycho_backends.archive.model_file import load_archive
from ptycho_backends.builtin_backends import canonical_name
from ptycho_backends.config import ExecutionConfig, InferenceConfig, TrainingConfig, validate, with_side
from ptycho_backends.errors import ConfigError, GroupingError, ScanError
from ptycho_backends.params import bridge, params
from ptycho_backends.reference import probe as probes
from ptycho_backends.reference.initial_weights import initial_weights, probe_shape
from ptycho_backends.scans.extent import patches_outside, require_sane_canvas
from ptycho_backends.scans.grouping import (
    GroupedData,
    Resampling,
    groups_for_inference,
    groups_for_training,
)
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.statistics import holds_counts, mean_photons
from ptycho_backends.training.canvas import room_for
from ptycho_backends.training.checkpoints import model_to_resume
from ptycho_backends.training.resuming import resumed_config, resumed_for
from ptycho_backends.values import Batch, TrainedModel

log = logging.getLogger(__name__)

# Stream of the random numbers that split off the validation set; epochs, counted from 1, have their own.
SPLIT_STREAM = 0
# Part of the patches that may reach beyond the object that labels are taken from.
MOST_UNLABELLED = 0.1


Completion = Callable[[TrainingConfig, Scan | GroupedData, ExecutionConfig | None], TrainingConfig]
"""Completes a configuration for data and an `ExecutionConfig`: `Backend.complete_config`."""


def complete_config(
    config: TrainingConfig,
    data: Scan | GroupedData,
    backend: str,
    execution: ExecutionConfig | None = None,
) -> TrainingConfig:
    """A validated copy of `config` with all that the data decide filled in; `params.cfg` is filled from it.

    That is `N`, `n_probes`, `backend`; where they are None, `nphotons` as measured and `n_groups` of one per position;
    and `neighbor_count` of at least `gridsize**2` where it has its default.

    Raises
    ------
    ConfigError
        Lists every invalid field; or no loss has a weight; or `data` are grouped otherwise.
    """
    completed = completed_config(config, data, backend, execution)
    bridge.update_legacy_dict(params.cfg, completed)
    return completed


def completed_config(
    config: TrainingConfig,
    data: Scan | GroupedData,
    backend: str,
    execution: ExecutionConfig | None = None,
) -> TrainingConfig:
    """As `complete_config`, for a caller that has filled `params.cfg` already."""
    completed = with_side(config, data.N)
    completed.backend = canonical_name(backend)
    completed.model.n_probes = data.probe_count if isinstance(data, GroupedData) else 1
    if execution is not None:
        validate(execution)
    if isinstance(data, GroupedData) and data.gridsize != completed.model.gridsize:
        raise ConfigError(
            f"gridsize: got {completed.model.gridsize}, but the data are grouped with {data.gridsize}"
        )
    if not completed.positions_provided:
        raise ConfigError(
            "positions_provided: got False, want True; a scan always has positions, and they count"
        )
    _fill_in_from_data(completed, data)
    if completed.resample_groups:
        _require_resampling_possible(completed, data)
    if completed.model.model_type == "pinn" and not _has_loss(completed):
        raise ConfigError(
            "nll_weight, mae_weight, realspace_weight: all zero, so there is nothing to minimise; "
            "set one of them (realspace_weight together with tv_weight or realspace_mae_weight)"
        )
    return completed


def _fill_in_from_data(config: TrainingConfig, data: Scan | GroupedData) -> None:
    if config.n_groups is None:
        config.n_groups = len(data)
        if isinstance(data, Scan) and config.n_subsample is not None:
            config.n_groups = min(len(data), config.n_subsample)
    if config.neighbor_count == TrainingConfig.neighbor_count:
        config.neighbor_count = max(config.neighbor_count, config.model.group_size)
    if config.nphotons is None:
        config.nphotons = _measured_photons(data)


def _measured_photons(data: Scan | GroupedData) -> float:
    """Mean photons in the patterns of `data`, with a warning where these are no counts."""
    scans = (data,) if isinstance(data, Scan) else data.parts or (data.scan,)
    means = [mean_photons(scan) for scan in scans]
    if len(scans) == 1:
        photons = means[0]
    else:
        photons = float(np.average(means, weights=[len(scan) for scan in scans]))
    if not all(map(holds_counts, scans)):
        log.warning(
            "nphotons: the patterns are no whole counts (nor roots of counts), so %.4g photons a pattern is a guess; "
            "give nphotons, or measurement if amplitude and intensity were mistaken",
            photons,
        )
    return photons


def _require_resampling_possible(config: TrainingConfig, data: Scan | GroupedData) -> None:
    if isinstance(data, GroupedData):
        raise ConfigError(
            "resample_groups: got True, but the data are grouped already; give the Scan itself, or leave it False"
        )
    positions = min(len(data), config.n_subsample or len(data))
    if config.model.gridsize > 1 and config.n_groups is not None and config.n_groups > positions:
        raise ConfigError(
            f"resample_groups: got True with {config.n_groups} groups for {positions} positions; every epoch has "
            f"other groups, so want n_groups of at most {positions}"
        )


def _has_loss(config: TrainingConfig) -> bool:
    """True where some loss has a weight."""
    realspace = config.realspace_weight * (config.tv_weight + config.realspace_mae_weight)
    auxiliary = config.amplitude_variance_coeff
    auxiliary += config.amp_loss_coeff if config.amp_loss else 0.0
    auxiliary += config.phase_loss_coeff if config.phase_loss else 0.0
    return config.nll_weight + config.mae_weight + realspace + auxiliary > 0


def needs_truth(config: TrainingConfig) -> bool:
    """True where the loss compares with a known object."""
    realspace = config.realspace_weight * config.realspace_mae_weight
    return config.model.model_type == "supervised" or realspace > 0


@dataclass(frozen=True, eq=False)
class TrainingPlan:
    """Everything that training needs, decided before a framework is touched.

    Attributes
    ----------
    config : TrainingConfig
        Complete and valid.
    groups : GroupedData
    train_indices, validation_indices : integer arrays
        Numbers of the groups that train, and of those that are held out.
    start : TrainedModel
        Initial weights, or the model that is resumed with its history and state.
    resample : callable, optional
        From an epoch (counted from 1) to the groups of it, as many as `groups` have and like these, of the
        same scan or another one; the same for the same epoch. Those of `train_indices` train; held out are
        always those of `groups`. Processes that help need it picklable. None: `groups` in every epoch.
    """

    config: TrainingConfig
    groups: GroupedData
    train_indices: NDArray[np.integer]
    validation_indices: NDArray[np.integer]
    start: TrainedModel
    resample: Callable[[int], GroupedData] | None = None
    _latest: dict[int, GroupedData] = dataclasses.field(default_factory=dict, init=False, repr=False)

    @property
    def epochs_done(self) -> int:
        """Finished epochs of the model that is resumed; 0 for a new one."""
        return self.start.epochs_done

    @property
    def scan(self) -> Scan:
        """The scan that the groups are of."""
        return self.groups.scan

    def changed(self, *, batch_size: int | None = None, output_dir: Path | None = None) -> "TrainingPlan":
        """This plan with another batch size or output folder; groups and first weights stay.

        `params.cfg` follows, as far as it was filled by this plan.

        Raises
        ------
        ConfigError
            If a value is not allowed.
        """
        given = {"batch_size": batch_size, "output_dir": output_dir}
        changes = {name: value for name, value in given.items() if value is not None}
        if not changes:
            return self
        config = dataclasses.replace(self.config, **changes)  # type: ignore[arg-type]
        for name in changes:
            value = getattr(config, name)
            params.cfg[bridge.legacy_name(name)] = str(value) if isinstance(value, Path) else value
        return dataclasses.replace(self, config=config, start=dataclasses.replace(self.start, config=config))

    @property
    def batches_an_epoch(self) -> int:
        """Number of `epoch_batches`."""
        return -(-len(self.train_indices) // self.config.batch_size)

    def epoch_batches(self, epoch: int) -> list[NDArray[np.integer]]:
        """Group numbers of each batch of `epoch` (counted from 1), in order; the last may be short."""
        order = np.random.default_rng([self.config.seed, epoch]).permutation(self.train_indices)
        return _chunks(order, self.config.batch_size)

    def validation_batches(self) -> list[NDArray[np.integer]]:
        """Group numbers of each batch of the groups that are held out."""
        return _chunks(self.validation_indices, self.config.batch_size)

    def epoch_groups(self, epoch: int) -> GroupedData:
        """The groups that `epoch_batches(epoch)` count in; `groups` for epoch 0. The latest ones are kept.

        Raises
        ------
        GroupingError
            If those that `resample` gives are not like `groups`.
        """
        if self.resample is None or epoch == 0:
            return self.groups
        groups = self._latest.get(epoch)
        if groups is None:
            groups = self.resample(epoch).as_configured(self.config)
            _require_alike(groups, self.groups, epoch)
            self._latest.clear()
            self._latest[epoch] = groups
        return groups

    def gather(self, indices: NDArray[np.integer], epoch: int = 0) -> Batch:
        """The batch of these groups of `epoch`, with ground truth if the loss needs it; 0 for those held out."""
        return self.epoch_groups(epoch).batch(
            indices,
            intensity_scale=self.start.intensity_scale,
            with_truth=needs_truth(self.config),
        )


def _require_alike(groups: GroupedData, first: GroupedData, epoch: int) -> None:
    for what, got, want in (
        ("groups", len(groups), len(first)),
        ("pixels along a side", groups.N, first.N),
        ("positions in a group", groups.nn_indices.shape[1], first.nn_indices.shape[1]),
        ("probes", groups.probe_count, first.probe_count),
        ("masked patterns", groups.is_masked, first.is_masked),
    ):
        if got != want:
            raise GroupingError(
                f"resample: epoch {epoch} has {what}: {got}, want {want} as in the plan's groups"
            )


@dataclass(frozen=True)
class Shard:
    """Part of a batch for one of several processes.

    Attributes
    ----------
    indices : integer array
        Group numbers; never empty, because every process takes part in every step.
    groups : int
        Number of them that count: all; or none, where there were fewer groups than processes.
    batch_groups : int
        Groups of the whole batch.
    """

    indices: NDArray[np.integer]
    groups: int
    batch_groups: int


def shard_batches(batches: list[NDArray[np.integer]], rank: int, size: int) -> list[Shard]:
    """Shards of process `rank` of `size` when they work on `size` of `batches` at a time.

    Where the last step has fewer groups, every process has fewer of them.
    """
    shards = []
    for first in range(0, len(batches), size):
        together = np.concatenate(batches[first : first + size])
        own = np.array_split(together, size)[rank]
        shards.append(Shard(own if len(own) else together[:1], len(own), len(together)))
    return shards


def _chunks(indices: NDArray[np.integer], size: int) -> list[NDArray[np.integer]]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def plan_training(
    data: Scan | GroupedData | TrainingPlan,
    config: TrainingConfig | None,
    backend: str,
    execution: ExecutionConfig | None = None,
    resume_from: str | os.PathLike[str] | TrainedModel | None = None,
    *,
    complete: Completion | None = None,
) -> TrainingPlan:
    """Complete the configuration, form the groups, split them, and draw or load the first weights.

    Parameters
    ----------
    data : Scan, GroupedData or TrainingPlan
        A plan is returned as it is.
    config : TrainingConfig
        Not changed. With a plan: None, or the plan's own.
    backend : str
        Name of the backend that will train.
    execution : ExecutionConfig, optional
    resume_from : path or TrainedModel, optional
        No first weights are drawn then. With a plan: None, because the plan has its start already.
    complete : callable, optional
        Completes the configuration. Default: `complete_config` for `backend`.

    Raises
    ------
    ConfigError, ScanError, GroupingError, ArchiveError
        Before anything is computed or written.
    """
    if isinstance(data, TrainingPlan):
        _require_plan_alone(data, config, backend, resume_from)
        return data
    if config is None:
        raise ConfigError("config: got None, want a TrainingConfig; only a TrainingPlan carries its own")
    resumed = None
    if resume_from is not None:
        resumed = (
            resume_from
            if isinstance(resume_from, TrainedModel)
            else model_to_resume(Path(resume_from), load_archive)
        )
        config = resumed_config(config, resumed)
    if complete is None:
        config = complete_config(config, data, backend, execution)
    else:
        config = complete(config, data, execution)
    if resumed is not None:
        _check_same_model(resumed.config, config)
        resumed = resumed_for(config, resumed)
        if resumed.training_state is None:
            log.warning(
                "the model that is resumed has no state of its optimiser, so Adam and the schedule start anew; its "
                "checkpoint (checkpoints/last.wts.h5.zip of the run) goes on as if nothing had happened"
            )
    scan = data.scan if isinstance(data, GroupedData) else data
    if needs_truth(config):
        for part in (data.parts if isinstance(data, GroupedData) else ()) or (scan,):
            _require_labels(part)
    groups = data if isinstance(data, GroupedData) else groups_for_training(data, config)
    groups = groups.as_configured(config)
    if config.model.architecture == "unrolled":
        _make_room(config, groups, resumed)
    train, validation = _split(len(groups), config.validation_share, config.seed)
    scans = groups.parts if groups.probe_count > 1 else (scan,)
    start = new_model(scans, config, backend, groups.probe_gain) if resumed is None else resumed
    start = dataclasses.replace(start, config=config)
    return TrainingPlan(config, groups, train, validation, start, _resampling(config, groups, train))


def _require_labels(scan: Scan) -> None:
    """Refuse a scan without an object, or many of whose patches lie beyond it, where labels are 0; warn of a few."""
    if scan.object_guess is None:
        raise ScanError(
            f"{scan.name}: no objectGuess, which supervised training and the real-space error need; "
            "use a scan that has one, or model_type='pinn' with realspace_mae_weight=0"
        )
    outside = patches_outside(scan.scan_positions_px, scan.N, scan.object_guess.shape)
    if not len(outside):
        return
    height, width = scan.object_guess.shape
    text = (
        f"{scan.name}: {len(outside)} of {len(scan)} patches reach beyond objectGuess of {width} x {height} pixels, "
        f"where labels are zeros (positions x {scan.xcoords.min():.4g} .. {scan.xcoords.max():.4g}, y "
        f"{scan.ycoords.min():.4g} .. {scan.ycoords.max():.4g}); want the object of these positions, or "
        "model_type='pinn' with realspace_mae_weight=0"
    )
    if len(outside) > MOST_UNLABELLED * len(scan):
        raise ScanError(text)
    log.warning(text)


def _make_room(config: TrainingConfig, groups: GroupedData, resumed: TrainedModel | None) -> None:
    """Widen the canvas of `config` until all views of the groups, and of those of other epochs, lie on it."""
    farthest = 0.0
    if config.resample_groups:
        # a member of a group is among the nearest neighbours of another one
        positions = groups.scan.scan_positions_px
        count = min(config.neighbor_count + 1, len(positions))
        farthest = float(np.max(scipy.spatial.cKDTree(positions).query(positions, k=[count])[0]))
    before = 0 if resumed is None else resumed.config.model.max_position_jitter
    config.model.max_position_jitter = max(before, room_for(config.model, groups, farthest))
    params.cfg[bridge.legacy_name("max_position_jitter")] = config.model.max_position_jitter


def _resampling(config: TrainingConfig, groups: GroupedData, train: NDArray[np.integer]) -> Resampling | None:
    if not config.resample_groups:
        return None
    resampling = Resampling(config, groups, train)
    if resampling.changes_groups:
        return resampling
    log.warning(
        "resample_groups: there are no other groups to draw; want fewer groups than positions, not in sequence, "
        "or groups of several positions and neighbor_count above gridsize**2"
    )
    return None


def _require_plan_alone(
    plan: TrainingPlan, config: TrainingConfig | None, backend: str, resume_from: object
) -> None:
    if plan.config.backend != canonical_name(backend):
        raise ConfigError(
            f"backend: got {backend!r}, but the training was planned for {plan.config.backend!r}"
        )
    if config is not None and config is not plan.config and config != plan.config:
        raise ConfigError("config: got another one than the plan's; plan the training with it instead")
    if resume_from is not None:
        raise ConfigError("resume_from: got a model beside a plan; plan the training with it instead")


def _split(count: int, fraction: float, seed: int) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """(training, validation) group numbers, each in ascending order; a single group only trains."""
    held_out = 0 if count < 2 or fraction == 0 else min(count - 1, max(1, int(fraction * count)))
    order = np.random.default_rng([seed, SPLIT_STREAM]).permutation(count)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def new_model(
    scans: Scan | Sequence[Scan] | None, config: TrainingConfig, backend: str, probe_gain: float = 1.0
) -> TrainedModel:
    """An untrained model: initial weights from the seed, the probe of each scan (or the default one), scale.

    `config` is complete; of several scans there are `n_probes`. The default probe is normalised as a guess is, so
    that the two are interchangeable. `probe_gain` is that of the groups which train (`GroupedData.probe_gain`).
    """
    probe = first_probe(scans, config)
    if probe_gain != 1.0:
        probe = (probe * probe_gain).astype(np.complex64)
    if config.nphotons is None:
        raise ConfigError("nphotons: got None, want a number > 0, as in a complete configuration")
    scale = probes.intensity_scale(config.nphotons, config.model.N)
    weights = initial_weights(config.model, config.seed, probe=probe, intensity_scale=scale)
    return TrainedModel(config=config, weights=weights, intensity_scale=scale, backend=backend)


def first_probe(
    scans: Scan | Sequence[Scan] | None, config: TrainingConfig, *, normalised: bool = True
) -> NDArray[np.complex64]:
    """The weight `probe` of an untrained model: for each scan its own modes, then modes made from the main one.

    Modes of a scan beyond `n_probe_modes` are left out, with a warning.

    Parameters
    ----------
    scans : Scan or sequence of Scan, optional
        A sequence has one scan, or `n_probes`.
    config : TrainingConfig
        Complete.
    normalised : bool
        Bring each probe to `probe_scale`; else it keeps the scan's scale.

    Returns
    -------
    complex64 array of `initial_weights.probe_shape`
    """
    model = config.model
    made = []
    for scan in [scans] if scans is None or isinstance(scans, Scan) else scans:
        modes = None if scan is None else scan.probe_modes
        modes = probes.default_probe(model.N)[None] if modes is None else modes
        if scan is not None:
            _warn_of_modes_left_out(scan.name, modes, model.n_probe_modes)
        chosen = probes.probe_with_modes(modes, model.n_probe_modes)
        chosen = chosen if model.n_probe_modes > 1 else chosen[0]
        made.append(probes.normalise_probe(chosen, model.probe_scale) if normalised else chosen)
    return np.stack(made).reshape(probe_shape(model))


def _warn_of_modes_left_out(name: str, modes: NDArray, used: int) -> None:
    if len(modes) <= used:
        return
    power = np.sum(np.abs(modes.astype(np.complex128)) ** 2, axis=(1, 2))
    log.warning(
        "%s: %d of %d probe modes are used; the others hold %.1f %% of the intensity (set n_probe_modes=%d)",
        name, used, len(modes), 100 * power[used:].sum() / max(power.sum(), np.finfo(float).tiny), len(modes),
    )  # fmt: skip


def _check_same_model(trained: TrainingConfig, wanted: TrainingConfig) -> None:
    differing = [
        f"model.{field.name}: got {getattr(wanted.model, field.name)!r}, "
        f"want {getattr(trained.model, field.name)!r} as in the model that is resumed"
        for field in dataclasses.fields(wanted.model)
        if not (wanted.model.architecture == "unrolled" and field.name == "max_position_jitter")
        if getattr(wanted.model, field.name) != getattr(trained.model, field.name)
    ]
    if differing:
        raise ConfigError("; ".join(differing))


def inference_groups(
    model: TrainedModel, data: Scan | GroupedData, config: InferenceConfig | None = None
) -> GroupedData:
    """`data` grouped as `model` wants it: one group around every position, unless `config` asks for fewer.

    Raises
    ------
    ConfigError
        If the patterns or the grouping do not fit the model.
    """
    scan = data.scan if isinstance(data, GroupedData) else data
    require_sane_canvas(scan.scan_positions_px, scan.N, scan.name)
    trained = model.config
    if isinstance(data, GroupedData):
        if data.N != trained.model.N or data.gridsize != trained.model.gridsize:
            raise ConfigError(
                f"data: got patterns of {data.N} pixels in groups of {data.gridsize}^2, "
                f"want {trained.model.N} pixels and {trained.model.gridsize}^2 as the model was trained"
            )
        if trained.model.n_probes > 1 and data.probe_count not in (1, trained.model.n_probes):
            raise ConfigError(
                f"data: got groups of {data.probe_count} probes, want {trained.model.n_probes}, in the order in which "
                "the model was trained with them, or 1, the first of them"
            )
        return data.as_configured(trained)
    if config is None:
        config = InferenceConfig(
            model=dataclasses.replace(trained.model),
            neighbor_count=max(trained.neighbor_count, trained.model.group_size),
        )
    config = with_side(dataclasses.replace(config, model=dataclasses.replace(trained.model)), data.N)
    return groups_for_inference(data, config).as_configured(trained)
