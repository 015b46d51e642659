"""From the command line to configurations and plans: the YAML file first, then the options that were given."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.backend_base import plan_for
from ptycho_backends.checking.cures import changed
from ptycho_backends.cli.groups import Computing, TrainingOptions
from ptycho_backends.cli.reading import Reading
from ptycho_backends.config import (
    ExecutionConfig,
    InferenceConfig,
    ModelConfig,
    RefinementConfig,
    TrainingConfig,
    from_values,
    raise_if_any,
)
from ptycho_backends.config_file import load_config, load_config_with_names
from ptycho_backends.config_sections import Settings
from ptycho_backends.errors import ConfigError, ScanError
from ptycho_backends.protocol import Backend
from ptycho_backends.recipes import (
    DEFAULT_ARCHITECTURE,
    execution_recipe,
    synthetic_recipe,
    training_recipe,
)
from ptycho_backends.registry import get_backend
from ptycho_backends.scans.grouping import GroupedData
from ptycho_backends.scans.merging import groups_of_scans
from ptycho_backends.scans.readers.folder import scans_of_folder
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.scan_files import load_mask, load_scan
from ptycho_backends.training import checkpoints
from ptycho_backends.training.batch_size import inference_batch_size, training_batch_size
from ptycho_backends.training.checkpoints import model_to_resume
from ptycho_backends.training.launch import launched
from ptycho_backends.training.plan import TrainingPlan, inference_groups
from ptycho_backends.training.run_folder import FILES, resumable_file
from ptycho_backends.values import TrainedModel

Say = Callable[[str], None]
AUTO = "auto"

Given = dict[str, Any]
"""Options by field name; None where one was not given."""


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingJob:
    """Everything that `train` and `run` start from."""

    scans: Sequence[Scan]
    config: TrainingConfig
    backend: Backend
    resumed: TrainedModel | None

    @property
    def data(self) -> Scan | GroupedData:
        """The scan to train on, or the groups of several."""
        return self.scans[0] if len(self.scans) == 1 else groups_of_scans(self.scans, self.config)


def scan_of(path: Path, reading: Reading) -> Scan:
    """The scan in a file or folder, read as the options of the command want."""
    valid = None if reading.mask is None else load_mask(reading.mask)
    scan = load_scan(
        path,
        measurement=reading.measurement,
        mapped=reading.mapped,
        verify=reading.verify,
        valid_pixels=valid,
        options=reading.options,
    )
    return changed(scan, reading.changes)


def scans_of(paths: Sequence[Path], reading: Reading) -> list[Scan]:
    """The scans in several files, as `scan_of` reads them; a folder of scans stands for all of them."""
    each = [one for path in paths for one in (scans_of_folder(path) if path.is_dir() else [path])]
    return [scan_of(path, reading) for path in each]


def probe_of(path: Path, side: int | None) -> NDArray[np.complex64]:
    """The probe modes of the scan in a file; `side` is the one that was asked for, if any.

    Raises
    ------
    ScanError
        If the scan has no probe, or one of another side.
    """
    scan = load_scan(path)
    if scan.probe_modes is None:
        raise ScanError(f"{path}: has no probe; want a scan with probeGuess")
    if side not in (None, scan.N):
        raise ScanError(f"side: got {side}, but the probe of {path} has {scan.N}; leave --side out")
    return scan.probe_modes


def training_job(
    scans: Sequence[Scan],
    path: Path | None,
    settings: Settings,
    backend: str | None,
    resume: Path | None,
    *,
    model: Given,
    training: Given,
) -> TrainingJob:
    """Choose the backend, and derive the configuration for `scans`, of which the first is that of `path`.

    From the strongest to the weakest: single assignments; options; a file; the configuration of the model that is
    resumed; the recipe of the architecture.
    """
    base: TrainingConfig | None = None
    named: set[str] = set()
    if settings.flat_file is not None:
        base, named = load_config_with_names(settings.flat_file, TrainingConfig)
    chosen = _chosen_backend(backend, settings, "training", base if "backend" in named else None)
    resumed = None if resume is None else model_to_resume(resumable_file(resume), chosen.load)
    if base is None and resumed is not None:
        # where to write is for the user to say, not for whoever made the model
        base = dataclasses.replace(resumed.config, output_dir=TrainingConfig.output_dir, test_data_file=None)
        named = {field.name for field in dataclasses.fields(TrainingConfig)} | {"N"}
        named.discard("output_dir")
    model, training = _merged(settings, "model", model), _merged(settings, "training", training)
    if "output_dir" not in named:
        training |= {"output_dir": output_or_resumed(training.get("output_dir"), resume)}
    architecture = model.get("architecture", DEFAULT_ARCHITECTURE)
    config = _training_config(base or training_recipe(architecture), named, model, training)
    config.train_data_file, config.backend = path, chosen.name
    return TrainingJob(scans, config, chosen, resumed)


def _merged(settings: Settings, section: str, options: Given) -> Given:
    return settings.of_file(section) | _only_given(options) | settings.given(section)


def _chosen_backend(
    name: str | None, settings: Settings, section: str, config: TrainingConfig | InferenceConfig | None
) -> Backend:
    """The backend that is asked for, which an environment variable may win over where only a file names it."""
    filed = settings.of_file(section).get("backend")
    config = config if filed is None else TrainingConfig(backend=filed)
    return get_backend(settings.given(section).get("backend", name), config=config)


def output_or_resumed(output: Path | None, resume: Path | None) -> Path | None:
    """The folder that was asked for, else that of the run which is resumed, or of the model in it, if any."""
    if output is not None or resume is None or resume.is_dir():
        return resume if output is None else output
    return resume.parent.parent if resume.parent.name == checkpoints.FOLDER else resume.parent


def execution_file(given: Path | None, resume: Path | None) -> Path | None:
    """The file of how to run that was given, else that of the run which is resumed, if any."""
    of_run = None if given is not None or resume is None else resume / FILES["execution"]
    return of_run if of_run is not None and of_run.is_file() else given


def _training_config(base: TrainingConfig, named: set[str], model: Given, training: Given) -> TrainingConfig:
    """`base` with the options given; the side of the patterns, where neither names it, comes from the scans."""
    model, training = _only_given(model), _only_given(training)
    if "N" not in named:
        model.setdefault("N", 0)
    inner, inner_problems = from_values(ModelConfig, vars(base.model) | model)
    config, problems = from_values(TrainingConfig, vars(base) | training | {"model": inner})
    raise_if_any("settings", [*inner_problems, *(p for p in problems if not p.startswith("model."))])
    return config


def synthetic_source(
    scans: Sequence[Path] | None, synthetic: int | None, probe_from: Path | None, **others: Any
) -> Path:
    """The file that gives synthetic scans their probe; `others` are options that mean nothing to them.

    Raises
    ------
    ConfigError
        If the options contradict one another.
    """
    if scans:
        raise ConfigError(
            f"SCAN: got {scans[0]} beside --synthetic, which trains on no measured scan; leave it out"
        )
    if given := _only_given(others):
        named = ", ".join(f"{name}: got {value}" for name, value in given.items())
        raise ConfigError(f"{named} beside --synthetic, which has settings of its own; leave it out")
    if probe_from is None:
        raise ConfigError(
            "probe_from: got none; --synthetic needs the probe and the dose of a scan: --probe-from SCAN"
        )
    if synthetic is None:
        raise ConfigError(
            "synthetic: got none; --probe-from is for --synthetic PARTS, as in --synthetic 10000"
        )
    return probe_from


def synthetic_settings(
    settings: Settings, backend: str | None, *, model: Given, training: Given
) -> TrainingConfig:
    """The recipe for synthetic scans with the settings and options given."""
    model, training = _merged(settings, "model", model), _merged(settings, "training", training)
    config = _training_config(synthetic_recipe(), set(), model, training)
    config.backend = _chosen_backend(backend, settings, "training", None).name
    return config


@dataclasses.dataclass(frozen=True, eq=False)
class InferenceJob:
    """Everything that `infer` starts from."""

    model: TrainedModel
    config: InferenceConfig
    backend: Backend


def inference_job(
    model_path: Path, path: Path, settings: Settings, backend: str | None, *, inference: Given
) -> InferenceJob:
    """Load the model, choose the backend, and derive the configuration for the scan in the file `path`."""
    base, named = InferenceConfig(), set[str]()
    if settings.flat_file is not None:
        base, named = load_config_with_names(settings.flat_file, InferenceConfig)
    chosen = _chosen_backend(backend, settings, "inference", base if "backend" in named else None)
    model = chosen.load(model_path)
    given = _merged(settings, "inference", inference)
    if "neighbor_count" not in named:
        neighbours = max(model.config.neighbor_count, model.config.model.group_size)
        given.setdefault("neighbor_count", neighbours)
    config, problems = from_values(InferenceConfig, vars(base) | given)
    raise_if_any("settings", problems)
    config.model_path, config.test_data_file, config.backend = model_path, path, chosen.name
    return InferenceJob(model, config, chosen)


def given_size(batch_size: str | None) -> int | str | None:
    """`--batch-size` as the configuration takes it and checks it; None for 'auto'."""
    if batch_size in (None, AUTO):
        return None
    try:
        return int(batch_size)
    except ValueError:
        return batch_size


def training_plan(
    job: TrainingJob, batch_size: str | None, execution: ExecutionConfig, say: Say
) -> TrainingPlan:
    """The plan of `job`; its batch size is found by trying, if 'auto' was asked for."""
    launch = launched(execution, job.backend.name) if batch_size == AUTO else None
    if launch is not None and launch.size > 1:
        raise ConfigError(
            f"batch_size: got 'auto' for {launch.size} processes, each of which might find another; find it with "
            "one process, and give them that number"
        )
    plan = plan_for(job.backend, job.data, job.config, execution, job.resumed)
    if job.config.nphotons is None:
        whose = "the scan's" if len(job.scans) == 1 else f"the {len(job.scans)} scans'"
        say(f"nphotons: {plan.config.nphotons:.4g}, the mean counts of {whose} patterns")
    if batch_size != AUTO:
        return plan
    size = training_batch_size(job.backend, plan, execution)
    say(f"batch size: {size}, found by trying")
    return plan.changed(batch_size=size)


def settled_execution(
    job: InferenceJob, scan: Scan, batch_size: str | None, execution: ExecutionConfig, say: Say
) -> ExecutionConfig:
    """`execution` with the inference batch size found by trying, if 'auto' was asked for."""
    if batch_size != AUTO:
        return execution
    groups = inference_groups(job.model, scan, job.config)
    size = inference_batch_size(job.backend, job.model, groups, execution)
    say(f"batch size: {size}, found by trying")
    return dataclasses.replace(execution, inference_batch_size=size)


def execution_config(
    settings: Settings,
    path: Path | None,
    architecture: str | None = None,
    **given: Any,
) -> ExecutionConfig:
    """From the files, the options and single assignments.

    Without a file, as the recipe of the `architecture` that is trained.
    """
    base = ExecutionConfig() if architecture is None else execution_recipe(architecture)
    if path is not None:
        base = load_config(path, ExecutionConfig)
    execution, problems = from_values(ExecutionConfig, vars(base) | _merged(settings, "execution", given))
    raise_if_any("settings", problems)
    return execution


def execution_of(
    settings: Settings, computing: Computing, options: TrainingOptions, config: TrainingConfig
) -> ExecutionConfig:
    """How the training of `config` runs, by the options of `train` and `run`."""
    return execution_config(
        settings,
        execution_file(computing.execution, options.resume),
        config.model.architecture,
        accelerator=computing.accelerator,
        precision=computing.precision,
        learning_rate=options.learning_rate,
        picture_every=options.picture_every,
    )


def with_progress(execution: ExecutionConfig, quiet: bool) -> ExecutionConfig:
    """`execution` whose progress is shown, if it asks for that and nobody asks for quiet."""
    return dataclasses.replace(execution, enable_progress_bar=execution.enable_progress_bar and not quiet)


def _only_given(options: Given) -> Given:
    return {name: value for name, value in options.items() if value is not None}


def refinement_config(
    settings: Settings, refine: str | None, default: str, **given: Any
) -> RefinementConfig | None:
    """Settings of a refinement from `--refine` and its companions; None where it is switched off.

    Parameters
    ----------
    settings : Settings
        A section `refinement` in the file switches it on, one that is null off.
    refine : str, optional
        As `--refine` was given.
    default : str
        Of the command.
    **given
        Fields of `RefinementConfig`; None or False where one was not given.

    Raises
    ------
    ConfigError
        If `refine` is neither 'auto' nor a number; or options of a refinement come with none.
    """
    if "refinement" in settings.file:
        default = "0" if settings.file["refinement"] is None else AUTO
    chosen = default if refine is None else refine
    given = {name: value for name, value in given.items() if value not in (None, False)}
    assigned = settings.given("refinement")
    if chosen == "0":
        if values := given | assigned:
            raise ConfigError(f"{', '.join(values)}: given, but nothing is refined; add --refine auto")
        return None
    values = settings.of_file("refinement")
    if refine is not None:
        # the file's number of passes is replaced
        values["passes"] = None if refine == AUTO else _passes(refine)
    config, problems = from_values(RefinementConfig, values | given | assigned)
    raise_if_any("settings", problems)
    return config


def flat_refinement(settings: Settings) -> Settings:
    """`settings` with a flat file read as the section `refinement`, as the command `refine` wants it."""
    if settings.flat_file is None:
        return settings
    config = load_config(settings.flat_file, RefinementConfig)
    return dataclasses.replace(settings, file={"refinement": vars(config)}, flat_file=None)


def _passes(refine: str) -> int:
    if not refine.isdigit():
        raise ConfigError(f"refine: got {refine!r}, want 'auto', a number of passes, or 0 for none")
    return int(refine)
