"""A forward hook on a layer, on PyTorch: the features that the network makes of a batch."""

import numpy as np
import torch

from ptycho_backends import ModelConfig, TrainingConfig
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training.plan import plan_training
from ptycho_torch.backend.arrays import tensors_from_batch
from ptycho_torch.backend.model import PtychoModel


def main(N=64, layers=("encoder/block0", "decoder/block0")):
    """`{layer: (B, channels, y, x) array}` of a batch of four groups."""
    network = ModelConfig(N=N, architecture="unrolled", gridsize=1)
    plan = plan_training(simulate_star(N, 30, seed=0), TrainingConfig(model=network, nepochs=1), "torch")
    model = PtychoModel(plan.config.model, plan.start.weights)
    features = {}

    def keep(name):
        return lambda module, inputs, output: features.update({name: output.detach().numpy().copy()})

    hooks = [model.layer(name).register_forward_hook(keep(name)) for name in layers]
    batch = plan.gather(np.arange(4), 1)
    tensors = tensors_from_batch(batch)
    with torch.no_grad():
        model(batch.intensity_scale * tensors["diffraction"], tensors["offsets"])
    for hook in hooks:
        hook.remove()
    return features


if __name__ == "__main__":
    print({name: array.shape for name, array in main().items()})
