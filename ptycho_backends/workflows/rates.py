"""The verb `find_rate`: a learning rate for a scan."""

from pathlib import Path

from ptycho_backends.backend_base import plan_for
from ptycho_backends.config import ExecutionConfig, TrainingConfig
from ptycho_backends.files.output import output_directory
from ptycho_backends.images.curves import rates_figure
from ptycho_backends.images.drawing import save_figure
from ptycho_backends.protocol import Backend
from ptycho_backends.recipes import execution_recipe, training_recipe
from ptycho_backends.scans.scan import Scan
from ptycho_backends.training.plan import TrainingPlan
from ptycho_backends.training.rate_finder import HIGHEST, LOWEST, STEPS, RateSweep, save_sweep, sweep_rates
from ptycho_backends.workflows.arguments import AnyPath, chosen_backend, loaded_scan, require_light

RATE_FILES = ("rates.csv", "rates.png")
"""Files of `find_rate`."""


def find_rate(
    scan: Scan | AnyPath | TrainingPlan,
    config: TrainingConfig | None = None,
    output_dir: AnyPath | None = None,
    *,
    backend: str | Backend | None = None,
    execution: ExecutionConfig | None = None,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
    steps: int = STEPS,
) -> RateSweep:
    """Let the learning rate grow from step to step, and find the rate at which the loss falls most steeply.

    Works on every backend, by its gradients; nothing that is given is changed.

    Parameters
    ----------
    scan : Scan, path or TrainingPlan
        A plan brings its own configuration, and the model that it goes on with.
    config : TrainingConfig, optional
        Default: `recipes.training_recipe()`.
    output_dir : path, optional
        Gets `rates.csv` and `rates.png`. Default: nothing is written.
    backend : str or Backend, optional
    execution : ExecutionConfig, optional
        Default: `recipes.execution_recipe` of the architecture.
    lowest, highest : float
        Rates of the first and of the last step.
    steps : int

    Returns
    -------
    RateSweep
        With `suggestion`, for `ExecutionConfig.learning_rate`; `plot()` draws it.

    Raises
    ------
    PtychoBackendsError
        For bad input and for a folder that cannot be written to: before anything is computed.
    """
    data = scan if isinstance(scan, TrainingPlan) else loaded_scan(scan)
    if isinstance(data, TrainingPlan):
        settings = data.config
    else:
        settings = config = training_recipe() if config is None else config
    chosen = chosen_backend(backend, settings)
    execution = execution_recipe(settings.model.architecture) if execution is None else execution
    plan = plan_for(chosen, data, config, execution)
    require_light(plan.groups)
    folder = None if output_dir is None else output_directory(output_dir)
    sweep = sweep_rates(chosen, plan, execution, lowest=lowest, highest=highest, steps=steps)
    if folder is not None:
        _write(sweep, folder)
    return sweep


def _write(sweep: RateSweep, folder: Path) -> None:
    """Write the table and the picture of a sweep."""
    table, picture = (folder / name for name in RATE_FILES)
    figure = rates_figure(sweep.learning_rates, sweep.losses, sweep.suggestion)
    save_sweep(sweep, table)
    save_figure(figure, picture)
