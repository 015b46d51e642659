"""The result of a verb, and its page."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptycho_backends.images.metrics import Metrics
from ptycho_backends.images.page import Contents, save_report
from ptycho_backends.training.interrupts import Terminated
from ptycho_backends.training.run_folder import FILES
from ptycho_backends.values import Reconstruction, Shown, TrainedModel


@dataclass(frozen=True, eq=False)
class RunResult(Shown):
    """Result of a verb: values, and the files that hold them.

    Attributes
    ----------
    backend : str
        Name of the backend that computed.
    output_dir : Path
    files : mapping of str to Path
        Files written, under the names of `FILES`; none by a process that is not the first of several.
    model : TrainedModel, optional
        None where an image was refined without one.
    reconstruction : Reconstruction, optional
    metrics : Metrics, optional
        None where nothing was reconstructed or written, or the object is not known.
    report : str
        The figures that matter, a line for each kind; empty where there are none.
    signal : int, optional
        That ended the work, other than Ctrl-C; the program is to end with 128 + signal.
    trained : bool
        True where this verb trained the model, and did not take it as it was.
    """

    shown_as = "run"

    backend: str
    output_dir: Path
    files: Mapping[str, Path]
    model: TrainedModel | None
    reconstruction: Reconstruction | None = None
    metrics: Metrics | None = None
    report: str = ""
    signal: int | None = None
    trained: bool = False

    @property
    def interrupted(self) -> bool:
        """True where Ctrl-C ended this work early; `train` or `refine` with `resume_from=output_dir` goes on."""
        return self.training_interrupted or (
            self.reconstruction is not None and self.reconstruction.interrupted
        )

    @property
    def training_interrupted(self) -> bool:
        """True where it was this verb's training that ended early; a model may come from such a one."""
        return self.trained and self.model is not None and self.model.interrupted

    def as_dict(self) -> dict[str, Any]:
        """Plain values: backend, interrupted, files, metrics."""
        return {
            "backend": self.backend,
            "interrupted": self.interrupted,
            "files": {name: str(path) for name, path in self.files.items()},
            "metrics": None if self.metrics is None else self.metrics.as_dict(),
        }


def result_or_signal(result: RunResult, ended: Terminated | None) -> RunResult:
    """`result`, written; or the signal that ended the work, with it."""
    if ended is None:
        return result
    ended.result = dataclasses.replace(result, signal=ended.signal)
    raise ended


def write_report(folder: Path, files: dict[str, Path], contents: Contents) -> None:
    """The page, with the settings that lie in the folder."""
    names = ("config", "inference_config", "refinement_config", "execution")
    settings = {FILES[name]: files[name].read_text() for name in names if name in files}
    files["report"] = save_report(dataclasses.replace(contents, settings=settings), folder / FILES["report"])
