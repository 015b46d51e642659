"""Fine-tuning in the manner of LoRA, on PyTorch: every kernel stays, plus a trained product of rank two."""

import dataclasses

import numpy as np
import torch
from torch.nn.utils import parametrize

from ptycho_torch.backend.arrays import tensors_from_batch
from ptycho_torch.backend.model import PtychoModel


class LowRank(torch.nn.Module):
    def __init__(self, kernel, rank):
        super().__init__()
        self.a = torch.nn.Parameter(0.05 * torch.randn(rank, kernel[0].numel()))
        self.b = torch.nn.Parameter(torch.zeros(len(kernel), rank))

    def forward(self, kernel):
        return kernel.detach() + (self.b @ self.a).reshape(kernel.shape)


def finetune(plan, steps=20, rank=2, rate=1e-2):
    """The model of `plan.start`, tuned on its data, and the loss of every step."""
    torch.manual_seed(0)
    model = PtychoModel(plan.config.model, plan.start.weights)
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
    added = [LowRank(layer.weight, rank) for layer in layers]
    for layer, one in zip(layers, added, strict=True):
        parametrize.register_parametrization(layer, "weight", one)
    optimizer, losses = torch.optim.Adam([p for one in added for p in one.parameters()], lr=rate), []
    for _ in range(steps):
        batch = plan.gather(np.asarray(plan.train_indices[:16]), 1)
        total = model.loss_terms(plan.config, tensors_from_batch(batch), batch.intensity_scale)["total"]
        optimizer.zero_grad(), total.backward(), optimizer.step()
        losses.append(total.item())
    for layer in layers:
        parametrize.remove_parametrizations(layer, "weight")
    return dataclasses.replace(plan.start, weights=model.weights()), losses
