"""Groups to tensors, batch by batch: patterns are gathered from the scan when a step needs them."""

from collections.abc import Iterator
from typing import Any

import lightning
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from ptycho_backends import prefetch
from ptycho_backends.config import ExecutionConfig
from ptycho_backends.preparation import TrainingPlan
from ptycho_torch.arrays import TensorBatch, tensors_from_batch


class GroupBatches(Dataset):
    """Maps an array of group numbers to the tensors of that batch."""

    def __init__(self, plan: TrainingPlan) -> None:
        self._plan = plan

    def __getitem__(self, indices: NDArray) -> TensorBatch:
        return tensors_from_batch(self._plan.gather(indices))


class EpochBatches(Sampler):
    """The batches of each epoch, in the order that the seed gives them on every backend.

    Of the epoch in which training was interrupted, only the batches that were not yet seen.
    """

    def __init__(self, plan: TrainingPlan) -> None:
        self._plan = plan
        self._epoch = plan.epochs_done + 1
        state = plan.start.training_state
        self._skipped = 0 if state is None else state.batches_done

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning with the number of epochs this run has finished."""
        self._epoch = self._plan.epochs_done + 1 + epoch

    def _batches(self) -> list[NDArray]:
        batches = self._plan.epoch_batches(self._epoch)
        return batches[self._skipped :] if self._epoch == self._plan.epochs_done + 1 else batches

    def __len__(self) -> int:
        return len(self._batches())

    def __iter__(self) -> Iterator[NDArray]:
        return iter(self._batches())


class PrefetchingLoader(DataLoader):
    """A DataLoader without processes, whose next `ahead` batches a thread gathers during a step."""

    def __init__(self, dataset: Dataset, *, ahead: int, **settings: Any) -> None:
        super().__init__(dataset, **settings)
        self._ahead = ahead

    def __iter__(self) -> Iterator[TensorBatch]:  # type: ignore[override]
        return prefetch.ahead(super().__iter__(), self._ahead)


class PtychoDataModule(lightning.LightningDataModule):
    """Training and validation batches of a `TrainingPlan`."""

    def __init__(self, plan: TrainingPlan, execution: ExecutionConfig) -> None:
        super().__init__()
        self.plan = plan
        self.execution = execution

    def _loader(self, sampler: object) -> DataLoader:
        run = self.execution
        dataset = GroupBatches(self.plan)
        settings: dict[str, Any] = {"sampler": sampler, "batch_size": None, "pin_memory": run.pin_memory}
        if run.num_workers == 0:
            return PrefetchingLoader(
                dataset, ahead=run.prefetch_factor or prefetch.DEFAULT_PREFETCH, **settings
            )
        return DataLoader(
            dataset,
            num_workers=run.num_workers,
            persistent_workers=run.persistent_workers,
            prefetch_factor=run.prefetch_factor,
            **settings,
        )

    def train_dataloader(self) -> DataLoader:
        sampler = EpochBatches(self.plan)
        if self.trainer is not None:
            sampler.set_epoch(self.trainer.current_epoch)
        return self._loader(sampler)

    def val_dataloader(self) -> DataLoader | list:
        batches = self.plan.validation_batches()
        return self._loader(batches) if batches else []
