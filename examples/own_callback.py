"""Callbacks and data of your own, on PyTorch: a callback ends training early, and batches get fresh noise."""

import torch
from lightning.pytorch.callbacks import Callback

from ptycho_backends import ModelConfig, TrainingConfig, workflows
from ptycho_backends.scans.simulate import simulate_star
from ptycho_torch.backend.backend import TorchBackend
from ptycho_torch.backend.data import PtychoDataModule


class EnoughLearned(Callback):
    """Ends training once an epoch has brought less than `least` of the loss."""

    def __init__(self, least):
        self.least, self.losses = least, []

    def on_train_epoch_end(self, trainer, pl_module):
        self.losses.append(float(trainer.callback_metrics["loss_epoch"]))
        if len(self.losses) > 1 and self.losses[-2] - self.losses[-1] < self.least * abs(self.losses[-1]):
            trainer.should_stop = True


class NoisyData(PtychoDataModule):
    """Measured amplitudes with a little noise, other in every epoch."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        noise = 1 + 0.01 * torch.randn_like(batch["diffraction"])
        return {**batch, "diffraction": batch["diffraction"] * noise} if self.trainer.training else batch


def main(output_dir="run", N=64, epochs=30, least=1e-4):
    config = TrainingConfig(model=ModelConfig(N=N, architecture="unrolled", gridsize=1), nepochs=epochs)
    backend = TorchBackend(callbacks=[EnoughLearned(least)], data=NoisyData)
    return workflows.train(simulate_star(N, 60, seed=0), config, output_dir, backend=backend).model


if __name__ == "__main__":
    print(main())
