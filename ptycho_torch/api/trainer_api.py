"""`setup_lightning_trainer`, under the name that programs written for the legacy port know."""

import os
from pathlib import Path

import lightning
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from ptycho_torch.api.base_api import PtychoModel
from ptycho_torch.config_bridge import to_execution_config
from ptycho_torch.config_params import TrainingConfig

PATIENCE = 100


def setup_lightning_trainer(
    ptycho_model: PtychoModel,
    training_config: TrainingConfig,
    output_dir: str | os.PathLike[str] | None = None,
) -> lightning.Trainer:
    """A Lightning trainer for `ptycho_model`, on one device, that keeps the best epoch.

    It stops after 100 epochs without a better one.

    `Trainer._from_lightning` of `base_api` trains with this library's checkpoints, logs and resuming as well.

    Parameters
    ----------
    ptycho_model : PtychoModel
    training_config : ptycho_torch.config_params.TrainingConfig
        `epochs`, `device`, `accum_steps` and `gradient_clip_val` are used.
    output_dir : path, optional
        Parent of `best-checkpoint.ckpt`. Default: Lightning's.

    Raises
    ------
    ConfigError
        If a setting is refused.
    """
    folder = None if output_dir is None else Path(output_dir).absolute()
    execution = to_execution_config(training_config)
    monitored = ptycho_model.model.val_loss_name
    return lightning.Trainer(
        max_epochs=training_config.epochs,
        accelerator=execution.accelerator,
        devices=1,
        accumulate_grad_batches=execution.accum_steps,
        gradient_clip_val=execution.gradient_clip_val,
        callbacks=[
            ModelCheckpoint(dirpath=folder, filename="best-checkpoint", monitor=monitored, mode="min"),
            EarlyStopping(monitor=monitored, mode="min", patience=PATIENCE),
        ],
        default_root_dir=folder,
        logger=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
