"""Scan positions to groups: members, relative offsets, normalisation, ground truth.

One NumPy implementation that every backend shares, so the same seed gives the same groups everywhere.
A group is a row of indices; patterns are gathered from the scan when a batch asks for them.
"""

import itertools
import logging
import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy
from numpy.typing import NDArray

from ptycho_backends.config import InferenceConfig, TrainingConfig
from ptycho_backends.errors import GroupingError, ScanError
from ptycho_backends.reference.physics import extract_patches
from ptycho_backends.scans.scan import Scan
from ptycho_backends.values import Batch

log = logging.getLogger(__name__)

# Up to here all subsets of a neighbour pool are written down; 9 of 15 neighbours give 5005.
MAX_LISTED_SUBSETS = 10_000

# Seeds whose neighbours are looked up at once: a few MB.
CHUNK_SEEDS = 1 << 16

# Stream of the random numbers that form the groups of an epoch; the order of its batches has another one.
RESAMPLING_STREAM = 1


@dataclass(frozen=True, eq=False, repr=False)
class GroupedData:
    """A scan and the groups formed from it; patterns stay in the scan until a batch is gathered.

    Attributes
    ----------
    scan : Scan
    nn_indices : (B, C) int64
        Positions of each group; `C = gridsize**2`.
    normalize : {'Batch', 'Group'}
        One factor for all groups, or one for each, brings them to the scale that the network is fed with.
    data_scaling : {'Parseval', 'Max'}
        That scale: the mean energy of a pattern is (N/2)^2, or the largest amplitude is 1.
    phase_subtraction : bool
        Remove the mean phase of every ground-truth patch.
    parts : tuple of Scan
        Of merged scans, each with its probe and its valid pixels; else empty.
    part_of_group : (B,) int32, optional
        Number of each group's scan in `parts`.
    probe_count : int
        1 where all groups share a probe, else the number of `parts`.
    known_normalisation : float, optional
        `normalisation` of a larger set of groups to which these belong; default: their own.

    Normalisation and labels are those of the `TrainingConfig` that the groups are used with (`as_configured`).
    """

    scan: Scan
    nn_indices: NDArray[np.int64]
    normalize: str = "Batch"
    data_scaling: str = "Parseval"
    phase_subtraction: bool = False
    parts: tuple[Scan, ...] = ()
    part_of_group: NDArray[np.int32] | None = None
    probe_count: int = 1
    known_normalisation: float | None = None

    def __len__(self) -> int:
        return len(self.nn_indices)

    @property
    def gridsize(self) -> int:
        return math.isqrt(self.nn_indices.shape[1])

    @property
    def N(self) -> int:
        return self.scan.N

    @cached_property
    def group_centres_px(self) -> NDArray[np.float64]:
        """(B, 1, 2, 1) float64, `R`: mean position of each group, `[x, y]`."""
        return self._positions_px.mean(axis=-1, keepdims=True)

    @cached_property
    def relative_offsets_px(self) -> NDArray[np.float32]:
        """(B, 1, 2, C) float32, `r = -(position - R)`, `[x, y]`; the sign is part of the contract."""
        return (-(self._positions_px - self.group_centres_px)).astype(np.float32)

    @property
    def _positions_px(self) -> NDArray[np.float64]:
        """(B, 1, 2, C)."""
        return np.moveaxis(self.scan.positions_of(self.nn_indices), 1, -1)[:, None]

    @cached_property
    def normalisation(self) -> float:
        """`sqrt((N/2)^2 / mean over groups and channels of sum X^2)`, accumulated in float64.

        Energies are those of whole patterns: measured at the valid pixels, over the fraction of the probe's
        energy that falls there.

        With `data_scaling='Max'` one over the largest amplitude.
        """
        if self.known_normalisation is not None:
            return self.known_normalisation
        mean = float(np.mean(self._energies))
        if mean == 0.0:
            raise ScanError(f"{self.scan.name}: every pattern of these groups is empty (all zeros)")
        if self.data_scaling == "Max":
            return 1.0 / float(np.max(self.scan.maxima_of(self.nn_indices)))
        return math.sqrt((self.N / 2) ** 2 / mean)

    @cached_property
    def group_normalisation(self) -> NDArray[np.float64]:
        """(B,) float64, the factor of each group: all equal, unless `normalize='Group'`."""
        if self.normalize == "Batch":
            return np.full(len(self), self.normalisation)
        if self.data_scaling == "Max":
            size = np.max(self.scan.maxima_of(self.nn_indices), axis=1)
        else:
            size = np.sqrt(np.mean(self._energies, axis=1)) / (self.N / 2)
        # a group of empty patterns stays empty, whatever it is multiplied with
        return np.where(size > 0, 1.0 / np.where(size > 0, size, 1.0), self.normalisation)

    @property
    def probe_gain(self) -> float:
        """Root of the mean energy of a normalised pattern over (N/2)^2; 1 unless `data_scaling='Max'`.

        The probe of a new model is multiplied by it, so that the object keeps its amplitude whatever
        scale the patterns have.
        """
        if self.data_scaling == "Parseval":
            return 1.0
        energies = self._energies * self.group_normalisation[:, None] ** 2
        return math.sqrt(float(np.mean(energies))) / (self.N / 2)

    def as_configured(self, config: TrainingConfig) -> "GroupedData":
        """The same groups with the scale and labels that `config` asks for."""
        wanted = (config.normalize, config.data_scaling, config.phase_subtraction)
        if wanted == (self.normalize, self.data_scaling, self.phase_subtraction):
            return self
        normalize, data_scaling, phase_subtraction = wanted
        return replace(
            self, normalize=normalize, data_scaling=data_scaling, phase_subtraction=phase_subtraction
        )

    @property
    def is_masked(self) -> bool:
        """True where batches have `valid_pixels`: not all pixels of all scans are valid."""
        scans = (self.scan,) if self.part_of_group is None else self.parts
        return any(scan.valid_pixels is not None for scan in scans)

    @property
    def _energies(self) -> NDArray[np.float64]:
        """(B, C) float64, the energy of each whole pattern of each group."""
        energies = self.scan.energies_of(self.nn_indices)
        if self.part_of_group is None:
            return energies if self.scan.valid_pixels is None else energies / self.scan.lit_fraction
        lit = np.array([part.lit_fraction for part in self.parts])
        return energies / lit[self.part_of_group][:, None] if (lit != 1.0).any() else energies

    def _valid_pixels(self, indices: NDArray[np.integer] | slice, count: int) -> NDArray[np.bool_] | None:
        """(count, N, N) bool, the valid pixels of the groups `indices`; None where all are."""
        if not self.is_masked:
            return None
        if self.part_of_group is None:
            return np.broadcast_to(self.scan.valid_pixels, (count, self.N, self.N))  # type: ignore[arg-type]
        every = np.ones((self.N, self.N), bool)
        masks = np.stack([every if part.valid_pixels is None else part.valid_pixels for part in self.parts])
        return masks[self.part_of_group[indices]]

    def batch(
        self,
        indices: NDArray[np.integer] | slice = slice(None),
        *,
        intensity_scale: float = 1.0,
        with_truth: bool = False,
    ) -> Batch:
        """Gather the groups `indices` from the scan.

        Parameters
        ----------
        indices : integer array or slice
            Numbers of the groups.
        intensity_scale : float
            `s`, carried along.
        with_truth : bool
            Cut ground-truth patches from the scan's object guess as well.

        Raises
        ------
        ScanError
            If ground truth is asked for and the scan has none.
        """
        members = self.nn_indices[indices]
        factors: np.float32 | NDArray[np.float32] = np.float32(self.normalisation)
        if self.normalize == "Group":
            factors = self.group_normalisation[indices].astype(np.float32)[:, None, None, None]
        amplitude = self.scan.diffraction_amplitude(members) * factors
        patches = centre = None
        if with_truth:
            truth = self._truth()
            positions = self.scan.positions_of(members)
            patches = np.moveaxis(self._labels(truth, positions), 1, -1)
            centre = self._labels(truth, self.group_centres_px[indices][:, 0, :, 0])[..., None]
        return Batch(
            diffraction_amplitude=np.moveaxis(amplitude, 1, -1),
            relative_offsets_px=self.relative_offsets_px[indices],
            intensity_scale=intensity_scale,
            object_patches=patches,
            object_at_centre=centre,
            valid_pixels=self._valid_pixels(indices, len(members)),
            probe_index=self._probe_index(indices),
        )

    def _probe_index(self, indices: NDArray[np.integer] | slice) -> NDArray[np.int32] | None:
        return (
            self.part_of_group[indices] if self.part_of_group is not None and self.probe_count > 1 else None
        )

    def _labels(self, truth: NDArray, positions_px: NDArray) -> NDArray[np.complex64]:
        patches = extract_patches(truth, positions_px, self.N)
        if not self.phase_subtraction:
            return patches
        # the phase of the mean, and not the mean of the phases, which jump at +-pi
        mean = patches.mean(axis=(-2, -1), keepdims=True, dtype=np.complex128)
        return (patches * np.exp(-1j * np.angle(mean))).astype(np.complex64)

    def _truth(self) -> NDArray[np.complex64]:
        if self.scan.object_guess is None:
            raise ScanError(
                f"{self.scan.name}: no objectGuess, which supervised training and the real-space error need; "
                "use a scan that has one, or model_type='pinn' with realspace_mae_weight=0"
            )
        return self.scan.object_guess

    def to_legacy_dict(self) -> dict[str, NDArray | None]:
        """The grouped dictionary with the legacy keys; everything gathered at once.

        `diffraction` is the measured amplitude, `X_full` the normalised one, `Y` the ground truth or
        None; `coords_offsets` is `R`, `coords_relative` `r`, `coords_nn` the positions (B, 1, 2, C).
        """
        has_truth = self.scan.object_guess is not None
        batch = self.batch(with_truth=has_truth)
        return {
            "diffraction": self.legacy_diffraction(),
            "X_full": batch.diffraction_amplitude,
            "Y": batch.object_patches,
            **self.legacy_coordinates(),
        }

    def legacy_diffraction(self) -> NDArray[np.float32]:
        """(B, N, N, C), measured amplitude."""
        return np.moveaxis(self.scan.diffraction_amplitude(self.nn_indices), 1, -1)

    def legacy_coordinates(self) -> dict[str, NDArray | None]:
        """The entries of `to_legacy_dict` apart from images of each group."""
        start = np.stack([self.scan.xcoords_start, self.scan.ycoords_start], axis=-1)  # type: ignore[list-item]
        start_nn = np.moveaxis(start[self.nn_indices], 1, -1)[:, None]
        start_centre = start_nn.mean(axis=-1, keepdims=True)
        return {
            "coords_offsets": self.group_centres_px,
            "coords_relative": self.relative_offsets_px,
            "coords_start_offsets": start_centre,
            "coords_start_relative": (-(start_nn - start_centre)).astype(np.float32),
            "coords_nn": self._positions_px,
            "coords_start_nn": start_nn,
            "nn_indices": self.nn_indices,
            "objectGuess": self.scan.object_guess,
        }

    def __repr__(self) -> str:
        return f"GroupedData({len(self)} groups of {self.nn_indices.shape[1]} from {self.scan!r})"


def group_scan(
    scan: Scan,
    *,
    gridsize: int = 1,
    n_groups: int | None = None,
    neighbor_count: int = 4,
    sequential_sampling: bool = False,
    seed: int | None = None,
    n_subsample: int | None = None,
    enable_oversampling: bool = False,
    neighbor_pool_size: int | None = None,
) -> GroupedData:
    """Sample seed positions, then choose each one's group among its nearest neighbours.

    Parameters
    ----------
    scan : Scan
    gridsize : int
        A group holds `gridsize**2` positions; for 1 that is the seed position itself.
    n_groups : int, optional
        None: as many as there are positions. For `gridsize=1` it is capped at that number.
    neighbor_count : int
        `K`, the nearest neighbours (the seed position excluded when there are enough others).
    sequential_sampling : bool
        Take the first positions in order instead of drawing them without replacement.
    seed : int, optional
        The same seed gives the same groups in every backend; None draws different ones each time.
    n_subsample : int, optional
        Keep that many positions, drawn at random, before grouping.
    enable_oversampling : bool
        Allow more groups than positions: several different groups per seed position.
    neighbor_pool_size : int, optional
        With oversampling, the `K` to choose from; default `neighbor_count`.

    Raises
    ------
    GroupingError
        If there are fewer positions or neighbours than a group needs, or more groups are asked for
        than there are positions (or different subsets of the pool).

    References
    ----------
    docs/model.md, section 2.
    """
    generator = np.random.default_rng(seed)
    available, order = _available_and_order(len(scan), n_subsample, sequential_sampling, generator)
    count, size = len(available), gridsize**2
    wanted = count if n_groups is None else n_groups
    oversampled = wanted > count and gridsize > 1
    pool = neighbor_pool_size if oversampled and neighbor_pool_size is not None else neighbor_count
    if gridsize > 1:
        _check_groups_possible(scan.name, count, size, wanted, pool, oversampled, enable_oversampling)
    elif wanted > count:
        log.info("n_groups: %d asked for, %d positions give as many groups of one", wanted, count)
        wanted = count

    if not oversampled:
        return GroupedData(scan, _groups_around(scan, available, order[:wanted], size, pool, generator))

    positions = scan.scan_positions_px[available]
    rounds = -(-wanted // count)
    neighbours = nearest(positions, order, pool)
    subsets = _different_subsets(count, neighbours.shape[1], size, rounds, generator)
    members = np.take_along_axis(neighbours[:, None, :], subsets, axis=2)  # (count, rounds, C)
    members = members.transpose(1, 0, 2).reshape(rounds * count, size)[:wanted]
    return GroupedData(scan, available[members])


def _available_and_order(
    count: int, n_subsample: int | None, sequential: bool, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The positions kept, of `count`; and their numbers among these, in the order in which they become seeds."""
    available = np.arange(count)
    if n_subsample is not None and n_subsample < count:
        available = np.sort(generator.choice(count, n_subsample, replace=False))
    return available, _order(len(available), sequential, generator)


def _order(count: int, sequential: bool, generator: np.random.Generator) -> NDArray[np.int64]:
    return np.arange(count) if sequential else generator.permutation(count)


def _groups_around(
    scan: Scan,
    available: NDArray[np.int64],
    seeds: NDArray[np.int64],
    size: int,
    pool: int,
    generator: np.random.Generator,
) -> NDArray[np.int64]:
    """(len(seeds), size) positions of a group around each of `seeds`, which count in `available`."""
    if size == 1:
        return available[seeds][:, None]
    neighbours = nearest(scan.scan_positions_px[available], seeds, pool)
    return available[_choose(neighbours, size, generator)]


def _check_groups_possible(
    name: str, count: int, size: int, wanted: int, pool: int, oversampled: bool, allowed: bool
) -> None:
    if count < size:
        raise GroupingError(f"{name}: {count} positions, want at least {size} for groups of {size}")
    if pool < size:
        raise GroupingError(
            f"neighbor_count: got {pool} neighbours, want at least {size} (gridsize**2) to choose from"
        )
    if not oversampled:
        return
    if not allowed:
        raise GroupingError(
            f"n_groups: got {wanted} groups for {count} positions; use at most {count}, "
            "or set enable_oversampling=True to choose several groups around each position"
        )
    reachable = min(pool, count - 1 if count - 1 >= pool else count)
    most = count * math.comb(reachable, size)
    if wanted > most:
        raise GroupingError(
            f"n_groups: got {wanted}, but {count} positions with {reachable} neighbours each give at most "
            f"{most} different groups of {size}; raise neighbor_pool_size"
        )


MAX_NEIGHBOURS = 1 << 27
"""Of all positions together, so that their numbers take at most a gigabyte."""


def nearest(positions_px: NDArray[np.float64], seeds: NDArray[np.integer], K: int) -> NDArray[np.int64]:
    """(len(seeds), K) nearest positions to each seed, nearest first, the seed left out if K others exist."""
    count = len(positions_px)
    enough_others = count - 1 >= K
    K = min(K, count)
    reach = min(K + 1, count) if enough_others else K
    if len(seeds) * reach > MAX_NEIGHBOURS:
        raise GroupingError(
            f"neighbor_count: got {K} for each of {len(seeds)} positions, want at most {MAX_NEIGHBOURS // len(seeds)}: "
            "more take more memory than there is"
        )
    found = _found_nearest(positions_px, np.asarray(seeds), reach)
    if not enough_others:
        return found
    # drop the seed where it was found (positions measured twice may crowd it out), else the farthest
    is_seed = found == np.asarray(seeds)[:, None]
    is_seed[:, -1] |= ~is_seed.any(axis=1)
    return found[~is_seed].reshape(len(seeds), K)


def _found_nearest(
    positions_px: NDArray[np.float64], seeds: NDArray[np.integer], reach: int
) -> NDArray[np.int64]:
    """(len(seeds), reach) nearest positions to each seed, itself among them, on all processor cores."""
    tree = scipy.spatial.cKDTree(positions_px)
    # seeds that lie together one after the other, so that they find the same part of the tree in the cache;
    # the neighbours found do not depend on it
    turn = np.full(len(positions_px), -1, np.int64)
    turn[seeds] = np.arange(len(seeds))
    order = turn[tree.indices]
    order = order[order >= 0]
    if len(order) < len(seeds):  # a seed is there twice
        order = np.arange(len(seeds))
    found = np.empty((len(seeds), reach), np.int64)
    for start in range(0, len(order), CHUNK_SEEDS):
        part = order[start : start + CHUNK_SEEDS]
        _, nearby = tree.query(positions_px[seeds[part]], k=reach, workers=-1)
        found[part] = np.reshape(nearby, (len(part), reach))
    return found


def _choose(neighbours: NDArray[np.int64], size: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """`size` of each row's neighbours at random, nearest first."""
    keys = generator.random(neighbours.shape)
    if neighbours.shape[1] == size:
        return neighbours
    chosen = np.sort(np.argsort(keys, axis=1)[:, :size], axis=1)
    return np.take_along_axis(neighbours, chosen, axis=1)


def _different_subsets(
    count: int, pool: int, size: int, rounds: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """(count, rounds, size) column numbers: for each position, `rounds` different subsets of its pool."""
    total = math.comb(pool, size)
    if total <= MAX_LISTED_SUBSETS:
        listed = np.array(list(itertools.combinations(range(pool), size)), np.int64)
        drawn = np.argsort(generator.random((count, total)), axis=1)[:, :rounds]
        return listed[drawn]
    # so many subsets that drawing the same one twice is rare
    subsets = np.empty((count, rounds, size), np.int64)
    for i in range(count):
        taken: set[tuple[int, ...]] = set()
        while len(taken) < rounds:
            taken.add(tuple(sorted(generator.choice(pool, size, replace=False).tolist())))
        subsets[i] = sorted(taken)
    return subsets


def groups_for_training(scan: Scan, config: TrainingConfig) -> GroupedData:
    """The groups that `config` trains on."""
    return group_scan(
        scan,
        gridsize=config.model.gridsize,
        n_groups=config.n_groups,
        neighbor_count=config.neighbor_count,
        sequential_sampling=config.sequential_sampling,
        seed=_sampling_seed(config),
        n_subsample=config.n_subsample,
        enable_oversampling=config.enable_oversampling,
        neighbor_pool_size=config.neighbor_pool_size,
    )


@dataclass(frozen=True, eq=False)
class Resampling:
    """Other training groups in every epoch, drawn as `groups_for_training` draws them; the rest stay.

    The seed position of a group that is held out is that of no training group. Which positions `n_subsample` keeps
    does not change.

    Attributes
    ----------
    config : TrainingConfig
        Complete; not more groups than positions.
    groups : GroupedData
        Of `groups_for_training`.
    training : (T,) integer array
        Numbers of the groups that train.
    """

    config: TrainingConfig
    groups: GroupedData
    training: NDArray[np.integer]

    @property
    def changes_groups(self) -> bool:
        """False where every epoch would have the same groups."""
        config, size = self.config, self.config.model.group_size
        others_to_choose = size > 1 and config.neighbor_count > size
        kept = min(len(self.groups.scan), config.n_subsample or len(self.groups.scan))
        return others_to_choose or (len(self.groups) < kept and not config.sequential_sampling)

    def __call__(self, epoch: int) -> GroupedData:
        """The groups of `epoch`, the same for the same seed."""
        config, scan = self.config, self.groups.scan
        sequential, seed = config.sequential_sampling, _sampling_seed(config)
        available, first = _available_and_order(
            len(scan), config.n_subsample, sequential, np.random.default_rng(seed)
        )
        held_out = np.delete(first[: len(self.groups)], self.training)
        generator = np.random.default_rng([seed, epoch, RESAMPLING_STREAM])
        order = _order(len(available), sequential, generator)
        seeds = order[~np.isin(order, held_out)][: len(self.training)]
        members = self.groups.nn_indices.copy()
        members[self.training] = _groups_around(
            scan, available, seeds, config.model.group_size, config.neighbor_count, generator
        )
        return replace(self.groups, nn_indices=members)


def _sampling_seed(config: TrainingConfig) -> int:
    return config.seed if config.subsample_seed is None else config.subsample_seed


def groups_for_inference(scan: Scan, config: InferenceConfig) -> GroupedData:
    """The groups that `config` reconstructs from; in the scan's order, so that results are repeatable.

    With `debug` their number, reach and normalisation are logged.
    """
    groups = group_scan(
        scan,
        gridsize=config.model.gridsize,
        n_groups=config.n_groups,
        neighbor_count=config.neighbor_count,
        sequential_sampling=True,
        seed=0 if config.subsample_seed is None else config.subsample_seed,
        n_subsample=config.n_subsample,
        enable_oversampling=config.enable_oversampling,
        neighbor_pool_size=config.neighbor_pool_size,
    )
    if config.debug:
        reach = float(np.abs(groups.relative_offsets_px).max())
        log.info(
            "inference: %d groups of %d from %s, up to %.2f pixels from their centres; patterns times %.4g",
            len(groups), groups.nn_indices.shape[1], scan.name, reach, groups.normalisation,
        )  # fmt: skip
    return groups
