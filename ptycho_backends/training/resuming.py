"""Settings of a training that is resumed: taken, or refused; never stored and not used."""

import copy
import dataclasses
import logging
import math

from ptycho_backends.config import TrainingConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.values import TrainedModel

log = logging.getLogger(__name__)

LOSS_FIELDS = (
    "mae_weight", "nll_weight", "realspace_mae_weight", "realspace_weight", "tv_weight", "amp_loss", "phase_loss",
    "amp_loss_coeff", "phase_loss_coeff", "amplitude_variance_coeff",
)  # fmt: skip


def resumed_config(config: TrainingConfig, resumed: TrainedModel) -> TrainingConfig:
    """`config` for training on from `resumed`: its photon count is that of the model.

    Raises
    ------
    ConfigError
        For another `nphotons`, because the model's intensity scale was made from its own; for another `seed` beside
        a resume state, and for another `batch_size` within an epoch.
    """
    before, state = resumed.config, resumed.training_state
    problems = []
    if config.nphotons is None:
        config = copy.copy(config)
        config.nphotons = before.nphotons
    elif before.nphotons is not None and not math.isclose(config.nphotons, before.nphotons, rel_tol=1e-6):
        problems.append(
            f"nphotons: got {config.nphotons:g}, want {before.nphotons:g}, which the intensity scale of the model that "
            "is resumed was made from; leave it out, or train from the start"
        )
    if state is not None and config.seed != before.seed:
        problems.append(
            f"seed: got {config.seed}, want {before.seed} as in the training that is resumed: another one would train "
            "on the groups held out so far; leave it out, or train from the start"
        )
    if state is not None and state.batches_done and config.batch_size != before.batch_size:
        problems.append(
            f"batch_size: got {config.batch_size}, want {before.batch_size} until the interrupted epoch is over"
        )
    if problems:
        raise ConfigError("; ".join(problems))
    return config


def resumed_for(config: TrainingConfig, resumed: TrainedModel) -> TrainedModel:
    """`resumed` without the record of the best loss, if `config` has another loss, which is not to be compared."""
    changed = [name for name in LOSS_FIELDS if getattr(config, name) != getattr(resumed.config, name)]
    state = resumed.training_state
    if not changed or state is None:
        return resumed
    log.warning("%s: another loss from here on than before", ", ".join(changed))
    schedule = {**state.schedule, "best": None, "epochs_since_best": 0, "epochs_since_cut": 0}
    return dataclasses.replace(resumed, training_state=dataclasses.replace(state, schedule=schedule))
