"""What follows a training, on any backend: progress, logger, live picture, and the caller's `on_epoch`."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ptycho_backends.config import ExecutionConfig
from ptycho_backends.training.live_picture import LivePicture, ObjectPatches
from ptycho_backends.training.plan import TrainingPlan
from ptycho_backends.training.progress import Progress
from ptycho_backends.training.schedule import schedule_of
from ptycho_backends.training.tracking import Tracked, tracked
from ptycho_backends.values import EpochCallback, EpochRecord, TrainedModel


class Follower:
    """The `on_epoch` that a backend gets: called with each `EpochRecord`, after the checkpoints are written.

    Attributes
    ----------
    model : TrainedModel or None
        To be set after training, for the logger.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        on_epoch: EpochCallback | None,
        progress: Progress | None = None,
        tracker: Tracked | None = None,
        picture: LivePicture | None = None,
        picture_every: int = 0,
    ) -> None:
        self._history = list(plan.start.history)
        self._on_epoch = on_epoch
        self._progress, self._tracker, self._picture = progress, tracker, picture
        self._picture_every = picture_every
        self.model: TrainedModel | None = None

    def __call__(self, record: EpochRecord) -> bool | None:
        self._history.append(record)
        if self._progress is not None:
            self._progress.finish(record.epoch, record.train_loss, record.val_loss, record.seconds)
        if self._tracker is not None:
            self._tracker.log(self._history)
        if self._picture is not None and record.epoch % self._picture_every == 0:
            drawn = self._picture.draw(record.epoch)
            if drawn is not None and self._tracker is not None:
                self._tracker.show(drawn, record.epoch)
        return None if self._on_epoch is None else self._on_epoch(record)

    def step(self, batch: int, batches: int, loss: Callable[[], float]) -> None:
        """Show a step, as `Progress.step`; a backend without it shows epochs alone."""
        if self._progress is not None:
            self._progress.step(batch, batches, loss)


@contextmanager
def followed(
    plan: TrainingPlan,
    execution: ExecutionConfig,
    folder: Path | None,
    on_epoch: EpochCallback | None,
    patches: ObjectPatches,
    *,
    is_first: bool = True,
) -> Iterator[Follower]:
    """The `Follower` of a training, closed at its end; one that is given as `on_epoch` already stays as it is.

    Parameters
    ----------
    plan : TrainingPlan
    execution : ExecutionConfig
    folder : Path, optional
        Of the run. None writes nothing.
    on_epoch : callable, optional
    patches : callable
        `BackendBase.object_patches`, for the live picture.
    is_first : bool
        False in the other ones of several processes: they show and write nothing.

    Raises
    ------
    BackendUnavailableError, ConfigError, OutputError
        If the logger's package is missing, the picture is impossible, or the logger begins no run.
    """
    if isinstance(on_epoch, Follower):
        yield on_epoch
        return
    epochs = plan.config.nepochs + execution.finetune_epochs
    if not is_first or schedule_of(plan.start, execution).should_stop:
        yield Follower(plan, on_epoch)
        return
    with ExitStack() as stack:
        picture = progress = None
        if folder is not None and execution.picture_every:
            picture = LivePicture(plan, execution, folder, patches)
        tracker = stack.enter_context(tracked(plan.config, execution, folder))
        if execution.enable_progress_bar:
            start = plan.start
            first_loss = start.history[0].train_loss if start.history else None
            progress = Progress(epochs, start.epochs_done, len(plan.train_indices), first_loss)
            stack.callback(progress.close)
        follower = Follower(plan, on_epoch, progress, tracker, picture, execution.picture_every)
        try:
            yield follower
        finally:
            if tracker is not None:
                tracker.model = follower.model
