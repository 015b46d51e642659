"""Cases of whole verbs: a scan or two to train on, every setting of the training and of its run, a scan to reconstruct.

Tiny on purpose: a training is a handful of steps, because training is chaotic. A `VerbCase` prints as the call
that makes it again. Hypothesis draws its fields (`strategies.verb_cases`), or one integer does (`draw_verb_case`).
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np

from ptycho_backends.config import (
    SCHEDULERS,
    ExecutionConfig,
    FinetuneStage,
    ModelConfig,
    RefinementConfig,
    TrainingConfig,
)
from ptycho_backends.scans.grouping import GroupedData, groups_for_training
from ptycho_backends.scans.merging import merge_groups
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.testing.cases import LOSSES

STAGES = (
    FinetuneStage(1, {"decoder": 0.5, "phase_head": 2.0}),
    FinetuneStage(1, {"encoder_bottom": 0.25, "encoder_top": 0.75, "decoder": 0.1}),
)
"""Fine-tuning of a `staged` case: each stage freezes something."""

MODELS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "unrolled": {"N": 16, "n_steps": 2},
        "cnn": {"N": 64},
        # with running values, which training moves beside the weights
        "attention": {
            "N": 64,
            "cbam_encoder": True,
            "eca_decoder": True,
            "batch_norm": True,
            "use_shared_decoder": True,
        },
    }
)
"""The model of each architecture; other models are compared batch by batch (`cases`)."""

VERB_VALUES: Mapping[str, Sequence[Any]] = MappingProxyType(
    {
        "architecture": ("unrolled", "unrolled", "unrolled", "cnn", "cnn", "attention"),
        "gridsize": (1, 1, 2),
        "positions": (11, 10, 13),
        "groups": (None, None, 7, 17),
        "loss": tuple(LOSSES),
        "batch_size": (4, 4, 8, 2),
        "nepochs": (1, 2),
        "more": (1, 2),
        "scheduler": SCHEDULERS,
        "learning_rate": (1e-3, 3e-4, 4e-3),
        "warmup": (0, 0, 2),
        "min_lr_ratio": (0.1, 0.6),
        "accum_steps": (1, 1, 2),
        "clip": (None, None, 0.5, 30.0),
        "staged": (False, False, True),
        "patience": (100, 100, 1),
        "validation_share": (0.2, 0.05, 0.0),
        "probe_trainable": (True, False),
        "scale_trainable": (True, False),
        "modes": (1, 1, 2),
        "scans": (1, 1, 1, 2),
        "masked": (False, False, True),
        "resample": (False, False, True),
        "normalize": ("Batch", "Batch", "Group"),
        "data_scaling": ("Parseval", "Parseval", "Max"),
        "phase_subtraction": (False, True),
        "sequential": (False, False, True),
        "subsample": (None, None, 9),
        "photons": (None, 1e6),
        "within": (False, True),
        "shown": (9, 12, 70),
        "inference_batch": (4, 5, 64, None),
        "stitching": (None, 10, 16),
        "agree": (None, True, False),
    }
)
"""Values of each field of a verb case, repeated in proportion to their frequency; shrinking tends to the first."""


@dataclass(frozen=True, repr=False)
class VerbCase:
    """A training, stopped and resumed, and a reconstruction.

    Attributes
    ----------
    architecture : {'unrolled', 'cnn', 'attention'}
    gridsize, batch_size, nepochs, learning_rate, scheduler, warmup, min_lr_ratio, accum_steps, clip, patience,
    validation_share, probe_trainable, scale_trainable, normalize, data_scaling, phase_subtraction, sequential,
    subsample, photons
        As the fields of like names in the configurations.
    positions : int
        Of each scan that is trained on.
    groups : int, optional
        `n_groups`; more than there are positions means oversampling.
    loss : str
        A name in `LOSSES`.
    more : int
        Main epochs after the stop.
    staged : bool
        The stages `STAGES` follow the main epochs.
    modes, scans : int
        Probe modes; scans that are trained on together, each with its own probe and brightness.
    masked : bool
        Some pixels of the last scan, and of the scan that is reconstructed, are not valid.
    resample : bool
        Other groups in every epoch.
    within : bool
        What is resumed was stopped within its first epoch.
    shown : int
        Positions of the scan that is reconstructed, which is ten times brighter.
    inference_batch, stitching, agree
        `inference_batch_size`, `stitching_size`, `agree_on_phase` of `infer`; a `stitching` is for patterns of 16
        pixels, and grows with them.
    seed : int
    """

    architecture: str = "unrolled"
    gridsize: int = 1
    positions: int = 11
    groups: int | None = None
    loss: str = "nll"
    batch_size: int = 4
    nepochs: int = 1
    more: int = 1
    scheduler: str = "Default"
    learning_rate: float = 1e-3
    warmup: int = 0
    min_lr_ratio: float = 0.1
    accum_steps: int = 1
    clip: float | None = None
    staged: bool = False
    patience: int = 100
    validation_share: float = 0.2
    probe_trainable: bool = True
    scale_trainable: bool = True
    modes: int = 1
    scans: int = 1
    masked: bool = False
    resample: bool = False
    normalize: str = "Batch"
    data_scaling: str = "Parseval"
    phase_subtraction: bool = False
    sequential: bool = False
    subsample: int | None = None
    photons: float | None = None
    within: bool = False
    shown: int = 9
    inference_batch: int | None = 4
    stitching: int | None = None
    agree: bool | None = None
    seed: int = 0

    def __repr__(self) -> str:
        changed = (
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        )
        return f"VerbCase({', '.join(changed)})"

    @property
    def N(self) -> int:
        """Side of a pattern."""
        return int(MODELS[self.architecture]["N"])

    @property
    def config(self) -> TrainingConfig:
        """Of the training up to the stop."""
        group = self.gridsize**2
        model = ModelConfig(
            gridsize=self.gridsize,
            n_filters_scale=1,
            architecture=self.architecture,
            model_type="supervised" if self.loss.startswith("supervised") else "pinn",
            n_probe_modes=self.modes,
            **MODELS[self.architecture],
        )
        return TrainingConfig(
            model=model,
            batch_size=self.batch_size,
            nepochs=self.nepochs,
            nphotons=self.photons,
            n_groups=self.positions if self.scans > 1 and self.groups is None else self.groups,
            n_subsample=self.subsample,
            neighbor_count=max(5, group),
            enable_oversampling=self.groups is not None and self.groups > self.positions,
            neighbor_pool_size=7 if group > 1 else None,
            probe_trainable=self.probe_trainable,
            intensity_scale_trainable=self.scale_trainable,
            sequential_sampling=self.sequential,
            normalize=self.normalize,
            data_scaling=self.data_scaling,
            phase_subtraction=self.phase_subtraction,
            validation_share=self.validation_share,
            resample_groups=self.resample,
            seed=self.seed,
            **LOSSES[self.loss],
        )

    @property
    def longer(self) -> TrainingConfig:
        """Of the training that goes on after the stop."""
        return dataclasses.replace(self.config, nepochs=self.nepochs + self.more)

    def execution(self, precision: ExecutionConfig, *, after_the_stop: bool = False) -> ExecutionConfig:
        """`precision` with the case's settings; stages come after the stop."""
        return dataclasses.replace(
            precision,
            learning_rate=self.learning_rate,
            scheduler=self.scheduler,
            warmup_epochs=self.warmup,
            min_lr_ratio=self.min_lr_ratio,
            accum_steps=self.accum_steps,
            gradient_clip_val=self.clip,
            early_stop_patience=self.patience,
            finetune_stages=STAGES if self.staged and after_the_stop else (),
            finetune_early_stop_patience=2,
            inference_batch_size=self.inference_batch,
        )

    def data(self) -> Scan | GroupedData:
        """The scan to train on, or the groups of several."""
        scans = [self._scan(number, self.positions, 10.0 ** (5 + number)) for number in range(self.scans)]
        if self.scans == 1:
            return scans[0]
        assert scans[0].probe_guess is not None
        moved = np.roll(scans[0].probe_guess, self.N // 10, axis=1)
        scans[1] = dataclasses.replace(scans[1], probe_guess=moved, probe_modes=None)
        return merge_groups([groups_for_training(one, self.config) for one in scans])

    def shown_scan(self) -> Scan:
        """The scan to reconstruct."""
        return self._scan(5, self.shown, 1e6)

    def _scan(self, number: int, positions: int, photons: float) -> Scan:
        scan = _simulated(self.N, positions, photons, self.seed % 7 + 10 * number)
        if self.masked and number != self.scans - 2:
            valid = np.ones((self.N, self.N), bool)
            valid[self.N // 2 + 2 : self.N // 2 + 5, 3 : self.N // 2] = False
            scan = dataclasses.replace(scan, valid_pixels=valid)
        return scan

    @property
    def stitching_size(self) -> int | None:
        """Of the reconstruction in float64."""
        return None if self.stitching is None else self.stitching * self.N // 16

    @property
    def other_stitching_size(self) -> int:
        """Of the one in float32."""
        return 12 if self.stitching_size is None else self.stitching_size - 2

    @property
    def trains_in_single(self) -> bool:
        """True for every other seed: a framework takes seconds to compile a further training."""
        return self.seed % 2 == 1

    @property
    def refinement(self) -> RefinementConfig:
        """Of a refinement that ends in the correction of an unrolled model."""
        # where no pixel judges, the correction is taken however bad it is
        held_out = 0.0 if self.seed % 2 else 1 / 16
        return RefinementConfig(passes=2, held_out_fraction=held_out, seed=self.seed)


@lru_cache(maxsize=32)
def _simulated(N: int, positions: int, photons: float, seed: int) -> Scan:
    return simulate_star(N, positions, n_photons=photons, seed=seed)


def coherent(drawn: Mapping[str, Any]) -> dict[str, Any]:
    """Drawn fields of a verb case, without combinations that are refused, slow or numerically unbounded."""
    fields = dict(drawn)
    if fields["architecture"] != "unrolled":
        # the reference takes seconds for more
        fields["shown"] = min(fields["shown"], 9)
        fields["nepochs"] = fields["more"] = 1
        fields["positions"] = min(fields["positions"], 11)
    if fields["architecture"] == "attention":
        # normalisation divides by the spread of a batch, which one group alone hardly has
        fields |= {
            "batch_size": 4,
            "validation_share": 0.05,
            "positions": 11,
            "groups": None,
            "subsample": None,
        }
        fields |= {"gridsize": 1, "scans": 1}
    if fields["resample"]:
        fields["scans"], fields["subsample"] = 1, None
        fields["groups"] = 7
    if fields["scans"] > 1:
        fields["subsample"] = None
    if fields["gridsize"] == 1 and fields["groups"] == 17:
        # more groups than positions need neighbours to choose from
        fields["groups"] = None
    if fields["subsample"] is not None and fields["groups"] == 17:
        fields["subsample"] = None
    return fields


def draw_verb_case(seed: int, **fixed: Any) -> VerbCase:
    """The verb case of the integer `seed`; `fixed` fields are taken as given."""
    generator = np.random.default_rng([seed, 7])
    drawn = {name: values[int(generator.integers(len(values)))] for name, values in VERB_VALUES.items()}
    return VerbCase(**{**coherent({**drawn, **fixed}), "seed": seed, **fixed})


VERBS = (
    VerbCase(loss="nll+mae", scheduler="Exponential", learning_rate=4e-3, nepochs=2, validation_share=0.5,
             shown=70, inference_batch=64, agree=False, stitching=10, seed=1),
    VerbCase(gridsize=2, loss="all", scheduler="OneCycle", accum_steps=2, scale_trainable=False, within=True,
             phase_subtraction=True, stitching=16, seed=2),
    VerbCase(loss="supervised", scheduler="WarmupCosine", nepochs=2, clip=0.5, probe_trainable=False, staged=True,
             min_lr_ratio=0.6, inference_batch=5, subsample=9, seed=3),
    VerbCase(loss="nll+tv", scans=2, modes=2, masked=True, normalize="Group", scheduler="Cosine", warmup=2,
             nepochs=3, patience=1, learning_rate=0.1, seed=4),
    VerbCase(gridsize=2, loss="mae+object", groups=17, batch_size=2, clip=0.05, staged=True, data_scaling="Max",
             scheduler="MultiStage", more=2, validation_share=0.05, seed=5),
    VerbCase(loss="mae", resample=True, groups=7, within=True, photons=1e6, scheduler="ReduceLROnPlateau",
             learning_rate=4e-3, nepochs=4, more=2, validation_share=0.3, patience=3, seed=6),
    VerbCase(architecture="attention", loss="nll+mae", validation_share=0.05, inference_batch=5, seed=7),
    VerbCase(architecture="cnn", gridsize=2, positions=9, loss="mae+variation", scale_trainable=False, staged=True,
             sequential=True, stitching=8, agree=True, seed=8),
)  # fmt: skip
"""Every setting at least once each way: what the conformance kit runs, and the first of every parity run."""


def draw_verb_cases(count: int, seed: int = 0, **fixed: Any) -> Iterator[VerbCase]:
    """The cases of `VERBS`, then drawn ones up to `count`; the same for the same `seed`."""
    for number in range(count):
        known = number < len(VERBS) and seed == 0 and not fixed
        yield VERBS[number] if known else draw_verb_case(1_000_000 * seed + number, **fixed)
