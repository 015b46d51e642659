"""Groups of options that several commands share: each stands once, and a command takes it as one argument."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Self

from ptycho_backends.cli.options import (
    Accelerator,
    AgreeOnPhase,
    Architecture,
    BackendName,
    BatchSize,
    Check,
    ConfigFile,
    Debug,
    Epochs,
    ExecutionFile,
    Filters,
    Gridsize,
    Groups,
    LearningRate,
    Overwrite,
    Photons,
    PictureEvery,
    Precision,
    ProbeModes,
    ProbeTrainable,
    Quiet,
    Refine,
    RefinePositions,
    RefineProbe,
    Resume,
    Seed,
    StitchingSize,
    Verbose,
    option,
)
from ptycho_backends.cli.reporting import Say, session

if TYPE_CHECKING:
    from ptycho_backends.config_sections import Settings

Options = Mapping[str, tuple[Any, Any]]
"""Type with the option's texts, and default, by the name of the parameter."""


class OptionGroup:
    """Base class of the groups: dataclasses whose fields are options."""

    @classmethod
    def option_types(cls) -> Options:
        return {field.name: (field.type, field.default) for field in dataclasses.fields(cls)}  # type: ignore[arg-type]

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        return cls(**values)


def takes_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of each `OptionGroup` among its parameters, in its place."""
    signature = inspect.signature(command)
    groups: dict[str, type[OptionGroup]] = {}
    shown: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        if isinstance(parameter.annotation, type) and issubclass(parameter.annotation, OptionGroup):
            groups[name] = parameter.annotation
            shown += [
                inspect.Parameter(
                    option_name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=kind
                )
                for option_name, (kind, default) in parameter.annotation.option_types().items()
            ]
        else:
            shown.append(parameter.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD))

    @functools.wraps(command)
    def with_groups(**values: Any) -> None:
        taken = {
            name: group.of({option_name: values.pop(option_name) for option_name in group.option_types()})
            for name, group in groups.items()
        }
        command(**values, **taken)

    with_groups.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
    with_groups.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return with_groups


@dataclass(frozen=True)
class Messages(OptionGroup):
    """The options of a command's messages."""

    verbose: Verbose = 0
    quiet: Quiet = False
    debug: Debug = False

    def session(self) -> AbstractContextManager[Say]:
        """As `reporting.session`."""
        return session(self.verbose, self.quiet, self.debug)


@dataclass(frozen=True)
class Computing(OptionGroup):
    """Backend, settings and device of a command that computes."""

    backend: BackendName = None
    config: ConfigFile = None
    execution: ExecutionFile = None
    assignments: Annotated[
        list[str] | None,
        option(
            "--set",
            help="Any setting of docs/configuration.md, as training.nll_weight=0.5; may be repeated. Wins over files "
            "and other options.",
            metavar="SECTION.FIELD=VALUE",
        ),
    ] = None
    print_config: Annotated[
        bool,
        option("--print-config", help="Print all settings as YAML that --config takes, and compute nothing."),
    ] = False
    accelerator: Accelerator = None
    precision: Precision = None

    def settings(self, *sections: str) -> "Settings":
        """The settings of `--config` and `--set`; the latter may name `sections`.

        Raises
        ------
        ConfigError
        """
        from ptycho_backends.config_sections import settings_of  # late, for --help

        return settings_of(self.config, self.assignments or (), sections)


@dataclass(frozen=True)
class TrainedOptions(OptionGroup):
    """The options that decide the model and the steps of its training."""

    architecture: Architecture = None
    gridsize: Gridsize = None
    filters: Filters = None
    epochs: Epochs = None
    batch_size: BatchSize = None
    nphotons: Photons = None
    n_groups: Groups = None
    seed: Seed = None
    probe_trainable: ProbeTrainable = None

    @property
    def model(self) -> dict[str, Any]:
        """Fields of `ModelConfig`; None where one was not given."""
        return {"architecture": self.architecture, "gridsize": self.gridsize, "n_filters_scale": self.filters}

    @property
    def training(self) -> dict[str, Any]:
        """Fields of `TrainingConfig`; None where one was not given."""
        from ptycho_backends.cli.settings import given_size  # late, for --help

        return {
            "nepochs": self.epochs, "batch_size": given_size(self.batch_size), "nphotons": self.nphotons,
            "n_groups": self.n_groups, "seed": self.seed, "probe_trainable": self.probe_trainable,
        }  # fmt: skip


@dataclass(frozen=True)
class TrainingOptions(TrainedOptions):
    """The options of `train` and `run` beside the files that they read."""

    learning_rate: LearningRate = None
    picture_every: PictureEvery = None
    resume: Resume = None
    overwrite: Overwrite = False
    check: Check = True


@dataclass(frozen=True)
class ImageOptions(OptionGroup):
    """The options of `infer`, `run` and `watch` that decide how an image is made of patches, and refined."""

    stitching_size: StitchingSize = None
    agree_on_phase: AgreeOnPhase = None
    refine: Refine = None
    refine_probe: RefineProbe = None
    refine_positions: RefinePositions = False
    probe_modes: ProbeModes = None

    @property
    def refinement(self) -> dict[str, Any]:
        """Fields of `RefinementConfig`; None or False where one was not given."""
        return {
            "refine_probe": self.refine_probe,
            "refine_positions": self.refine_positions,
            "n_probe_modes": self.probe_modes,
        }


def print_settings(configs: Mapping[str, Any]) -> None:
    """Print configurations by section, for `--print-config`."""
    import typer

    from ptycho_backends.config_sections import sections_text  # late, for --help

    typer.echo(sections_text(configs), nl=False)
