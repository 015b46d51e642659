"""A stand-in for a backend, in tests of code that is built on backends: it looks the object up."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from ptycho_backends import registry
from ptycho_backends.backend_base import BackendBase
from ptycho_backends.reference.physics import extract_patches
from ptycho_backends.values import EpochRecord, TrainedModel


class OracleBackend(BackendBase):
    """Keeps its first weights however long it trains, and reconstructs the scan's object guess.

    Its losses are 10 / epoch and 11 / epoch. It computes nothing for single batches.

    Attributes
    ----------
    interrupt_after : int, optional
        Epoch after which training ends as if the user had pressed Ctrl-C.
    """

    name = "oracle"
    interrupt_after: ClassVar[int | None] = None

    def train_plan(self, plan, execution, output_dir=None, on_epoch=None):
        history = list(plan.start.history)
        for epoch in range(len(history) + 1, plan.config.nepochs + 1):
            if len(history) == self.interrupt_after:
                break
            history.append(EpochRecord(epoch, 10.0 / epoch, 11.0 / epoch, learning_rate=1e-3, seconds=0.0))
            if on_epoch is not None:
                on_epoch(history[-1])
        return TrainedModel(
            plan.config,
            plan.start.weights,
            plan.start.intensity_scale,
            tuple(history),
            self.name,
            interrupted=len(history) < plan.config.nepochs,
        )

    def object_patches(self, model, groups, execution):
        truth = groups.scan.object_guess
        centres = groups.group_centres_px[:, 0, :, 0]
        if truth is None:
            patches = np.ones((len(groups), groups.N, groups.N), np.complex64)
        else:
            patches = extract_patches(truth, centres, groups.N).astype(np.complex64)
        yield slice(0, len(groups)), patches[..., None]

    def _nothing(self, *arguments: Any, **options: Any) -> Any:
        raise NotImplementedError("an oracle computes nothing")

    forward = loss = gradients = train_step = _nothing


FIGURES_OF_A_RUN = ("images.save_reconstruction_figure", "training.save_history_figure", "result.save_report")
"""Of `workflows`; matplotlib takes a second for each."""


def installed_alone(monkeypatch: pytest.MonkeyPatch, *figures: str) -> None:
    """Make the oracle the only installed backend; `figures` of `workflows` are empty files, not a second each."""
    entry = registry.BackendEntry("Oracle", "oracle_backend:OracleBackend", frozenset(), "")
    monkeypatch.setattr(registry, "BUILT_IN", {"oracle": entry})
    monkeypatch.delenv(registry.ENVIRONMENT_VARIABLE, raising=False)

    def touch(_: object, path: Path, *__: object) -> Path:
        path.touch()
        return path

    for name in figures:
        monkeypatch.setattr(f"ptycho_backends.workflows.{name}", touch)
