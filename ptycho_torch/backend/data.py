"""Groups to tensors, batch by batch: patterns are gathered from the scan when a step needs them."""

from collections.abc import Iterator, Sequence
from typing import Any

import lightning
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from ptycho_backends.config import ExecutionConfig
from ptycho_backends.training import prefetch
from ptycho_backends.training.plan import Shard, TrainingPlan, shard_batches
from ptycho_torch.backend.arrays import SHARD_SIZES, TensorBatch, tensors_from_batch
from ptycho_torch.backend.process_group import ProcessGroup

EpochAndPart = tuple[int, NDArray | Shard]
"""An epoch, 0 for validation, and the part of a batch that a process gathers."""


class _GroupBatches(Dataset):
    """Tensors of a batch by its epoch and its group numbers; a `Shard` gives its `shard_sizes` with them."""

    def __init__(self, plan: TrainingPlan) -> None:
        self._plan = plan

    def __getitem__(self, epoch_and_part: EpochAndPart) -> TensorBatch:
        epoch, part = epoch_and_part
        if isinstance(part, Shard):
            tensors = tensors_from_batch(self._plan.gather(part.indices, epoch))
            # plain numbers, which stay on the host
            return {**tensors, SHARD_SIZES: (part.groups, part.batch_groups)}  # type: ignore[dict-item]
        return tensors_from_batch(self._plan.gather(part, epoch))


class _EpochBatches(Sampler):
    """The batches of each epoch, in the order that the seed gives them on every backend.

    An epoch that was interrupted begins with its first batch that has not trained. Several processes take one
    batch each at a time.
    """

    def __init__(self, plan: TrainingPlan, processes: ProcessGroup | None = None) -> None:
        self._plan = plan
        self._processes = processes or ProcessGroup()
        self._epoch = plan.epochs_done + 1
        state = plan.start.training_state
        self._skipped = 0 if state is None else state.batches_done

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning with the number of epochs this run has finished."""
        self._epoch = self._plan.epochs_done + 1 + epoch

    def _batches(self) -> Sequence[EpochAndPart]:
        batches = self._plan.epoch_batches(self._epoch)
        if self._epoch == self._plan.epochs_done + 1:
            batches = batches[self._skipped :]
        return _shards(batches, self._processes, self._epoch)

    def __len__(self) -> int:
        return len(self._batches())

    def __iter__(self) -> Iterator[EpochAndPart]:
        return iter(self._batches())


def _shards(batches: list[NDArray], processes: ProcessGroup, epoch: int) -> Sequence[EpochAndPart]:
    if processes.size == 1:
        return [(epoch, batch) for batch in batches]
    return [(epoch, shard) for shard in shard_batches(batches, processes.rank, processes.size)]


class _PrefetchingLoader(DataLoader):
    """A DataLoader without processes, whose next `ahead` batches a thread gathers during a step."""

    def __init__(self, dataset: Dataset, *, ahead: int, **settings: Any) -> None:
        super().__init__(dataset, **settings)
        self._ahead = ahead

    def __iter__(self) -> Iterator[TensorBatch]:  # type: ignore[override]
        return prefetch.ahead(super().__iter__(), self._ahead)


class PtychoDataModule(lightning.LightningDataModule):
    """Training and validation batches of a `TrainingPlan`; for several processes, the shards of one."""

    def __init__(
        self, plan: TrainingPlan, execution: ExecutionConfig, processes: ProcessGroup | None = None
    ) -> None:
        super().__init__()
        self._processes = processes or ProcessGroup()
        self.plan = plan
        self.execution = execution

    def _pins_memory(self) -> bool:
        """A GPU gets batches of pinned memory without a wait for the step before; the thread that gathers pins them."""
        on_gpu = self.execution.device_kind in ("auto", "cuda", "gpu") and torch.cuda.is_available()
        return self.execution.pin_memory or on_gpu

    def _loader(self, sampler: object) -> DataLoader:
        run = self.execution
        dataset = _GroupBatches(self.plan)
        settings: dict[str, Any] = {"sampler": sampler, "batch_size": None, "pin_memory": self._pins_memory()}
        # a loader draws a number for its workers: not from the program's generator
        settings["generator"] = torch.Generator()
        if run.num_workers == 0:
            return _PrefetchingLoader(
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
        sampler = _EpochBatches(self.plan, self._processes)
        if self.trainer is not None:
            sampler.set_epoch(self.trainer.current_epoch)
        return self._loader(sampler)

    def val_dataloader(self) -> DataLoader | list:
        batches = self.plan.validation_batches()
        return self._loader(_shards(batches, self._processes, epoch=0)) if batches else []
