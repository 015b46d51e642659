"""Training with a loss of your own, on PyTorch: robust misfit of the amplitudes, and a smooth object."""

import torch.nn.functional as F

from ptycho_backends import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training.plan import plan_training
from ptycho_torch.backend.module import PtychoModule
from ptycho_torch.backend.training import TrainingRun


def main(N=64, epochs=10, smoothness=0.05):
    """The trained model, and the values of its two terms at every step."""
    execution = ExecutionConfig(enable_progress_bar=False, accelerator="cpu", learning_rate=2e-3)
    network = ModelConfig(N=N, architecture="unrolled", gridsize=1)
    plan = plan_training(simulate_star(N, 60, seed=0), TrainingConfig(model=network, nepochs=epochs), "torch")
    module = PtychoModule(plan.start, execution)
    model, seen = module.model, []

    def loss_terms(config, batch, intensity_scale, statistics=None):
        measured = intensity_scale * batch["diffraction"]
        _, image, amplitude = model(measured, batch["offsets"], statistics)
        misfit = F.smooth_l1_loss(amplitude, measured)
        roughness = image.diff(dim=-1).abs().mean() + image.diff(dim=-2).abs().mean()
        seen.append((misfit.item(), roughness.item()))
        return {"misfit": misfit, "roughness": roughness, "total": misfit + smoothness * roughness}

    # the module asks its model for the terms, and minimises `total`
    model.loss_terms = loss_terms
    return TrainingRun(plan, module, execution=execution).fit(), seen


if __name__ == "__main__":
    model, seen = main()
    print(model, seen[0], seen[-1])
