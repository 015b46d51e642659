"""Settings with which each architecture trains well: the defaults of the command line and of `workflows`.

The dataclasses' own defaults are those that configurations, archives and `params.cfg` have always had.
"""

from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig

DEFAULT_ARCHITECTURE = "unrolled"


def training_recipe(architecture: str = DEFAULT_ARCHITECTURE) -> TrainingConfig:
    """Model and training; `N`, the number of groups and the photons come from the scan.

    Raises
    ------
    ConfigError
        If there is no such architecture.
    """
    model = ModelConfig(N=0, architecture=architecture)
    if architecture != "unrolled":
        return TrainingConfig(model=model)
    # a correction of the estimate is small, and is found in few epochs
    model.gridsize, model.n_filters_scale = 2, 1
    return TrainingConfig(model=model, nepochs=12)


def execution_recipe(architecture: str = DEFAULT_ARCHITECTURE) -> ExecutionConfig:
    """Learning rate and its schedule."""
    if architecture != "unrolled":
        return ExecutionConfig()
    return ExecutionConfig(learning_rate=2e-3, scheduler="OneCycle")


def synthetic_recipe() -> TrainingConfig:
    """As `training_recipe`, for training on synthetic scans."""
    config = training_recipe()
    config.model.model_type, config.model.n_filters_scale = "supervised", 2
    config.nepochs, config.batch_size = 20, 8
    return config
