"""The verb `watch`: an image while the scan runs, and the image of the whole scan at its end."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_backends import workflows
from ptycho_backends.config import ExecutionConfig, RefinementConfig
from ptycho_backends.errors import ConfigError, OutputError, ScanError
from ptycho_backends.files.output import output_directory
from ptycho_backends.images.quick_picture import save_quick_picture
from ptycho_backends.images.results import save_json, save_reconstruction
from ptycho_backends.live.figures import LiveFigures
from ptycho_backends.live.frames import PATIENCE_S
from ptycho_backends.live.live_image import LiveImage
from ptycho_backends.live.page import served_page
from ptycho_backends.live.refining import LiveRefinement
from ptycho_backends.live.stream import Stream
from ptycho_backends.protocol import Backend
from ptycho_backends.refinement.refine import ByItself
from ptycho_backends.registry import get_backend
from ptycho_backends.scans.scan_options import NO_OPTIONS, ScanOptions
from ptycho_backends.training.interrupts import Interrupts, TrainingInterrupted
from ptycho_backends.training.run_folder import FILES, IMAGE_FILES, one_writer, remove_earlier, require_free
from ptycho_backends.values import PassCallback, Reconstruction, TrainedModel

log = logging.getLogger(__name__)

AnyPath = str | os.PathLike[str]

FIGURES_FILE, LIVE_FILE = "live.json", "live.npz"

EVERY_S = 2.0
"""Seconds between two images on the disk."""

# Frames that are taken at once, and the pause where there are none.
MOST_FRAMES, PAUSE_S = 512, 0.02
# Seconds between two lines of figures, and a delay that is worth a warning.
LINE_S, LAG_S = 5.0, 1.0
# The next image is written after so many times the duration of writing one, at least.
WRITING_PAUSE = 3.0


@dataclass(frozen=True, eq=False)
class LiveResult:
    """Result of `watch`.

    Attributes
    ----------
    output_dir : Path
    frames : int
        In the image.
    figures : dict
        Content of `live.json`.
    image : Reconstruction
        The live image, as it was at the end of the scan.
    run : RunResult, optional
        Of the whole scan; None where it was not wanted, or Ctrl-C ended it.
    """

    output_dir: Path
    frames: int
    figures: dict[str, Any]
    image: Reconstruction
    run: workflows.RunResult | None = None


def watch(
    model: TrainedModel | AnyPath,
    path: AnyPath,
    output_dir: AnyPath,
    *,
    backend: str | Backend | None = None,
    execution: ExecutionConfig | None = None,
    options: ScanOptions = NO_OPTIONS,
    measurement: str = "auto",
    valid_pixels: ArrayLike | None = None,
    stitching_size: int | None = None,
    agree_on_phase: bool | None = None,
    refine: RefinementConfig | None = None,
    on_pass: PassCallback | None = None,
    until: int | None = None,
    idle_s: float | None = None,
    every_s: float = EVERY_S,
    port: int | None = None,
    final: bool = True,
    overwrite: bool = True,
    patience_s: float = PATIENCE_S,
    say: Callable[[str], None] | None = None,
) -> LiveResult:
    """Reconstruct a scan while it is written; at its end, write what `workflows.infer` writes.

    Frames are predicted in batches as they come and added to the image, which is written every few seconds
    (`reconstruction.npz`, `reconstruction.png`) with the figures (`live.json`). Ctrl-C ends the scan; a second one
    leaves the live image in the place of that of the whole scan.

    Parameters
    ----------
    model : TrainedModel or path
    path : path
        A folder of TIFF or NPY files, or an HDF5 file; it need not exist yet.
    output_dir : path
    backend : str or Backend, optional
    execution : ExecutionConfig, optional
        For one device.
    options, measurement, valid_pixels
        As `load_scan` takes them.
    stitching_size, agree_on_phase
        As in `infer`.
    refine : RefinementConfig, optional
        Refine the image in between, while no frame waits, and at the end as `infer` does. Default: not.
    on_pass : callable, optional
        Called with each `RefinementRecord` of the refinement at the end.
    until : int, optional
        End with so many frames. Default: with Ctrl-C.
    idle_s : float, optional
        End after so many seconds without a new frame, once there was one.
    every_s : float
        Seconds between two images on the disk, at least.
    port : int, optional
        Of a page on 127.0.0.1 that shows the picture; 0 takes a free one. Default: no page.
    final : bool
        False leaves the live image.
    overwrite : bool
        Replace an earlier image in the folder; False refuses the folder.
    patience_s : float
        A file that cannot be read is given up when it has not changed for so long.
    say : callable, optional
        Gets lines of text: the address of the page, figures every few seconds, and names of lost files.

    Returns
    -------
    LiveResult

    Raises
    ------
    PtychoBackendsError
        For bad settings; where the first frames do not fit them or the model; where no frame came.
    """
    for name, value in (("until", until), ("idle_s", idle_s), ("every_s", every_s)):
        if value is not None and not value > 0:
            raise ConfigError(f"{name}: got {value}, want a number > 0")
    chosen = get_backend(backend) if backend is None or isinstance(backend, str) else backend
    execution = ExecutionConfig() if execution is None else execution
    if execution.devices not in (1, "auto"):
        raise ConfigError(f"devices: got {execution.devices}, want 1: a live image is made by one device")
    trained = model if isinstance(model, TrainedModel) else chosen.load(model)
    if not overwrite:
        require_free(output_dir, (*IMAGE_FILES, FIGURES_FILE, LIVE_FILE), "an earlier image")
    folder = output_directory(output_dir)
    remove_earlier(folder, (*IMAGE_FILES, FIGURES_FILE, LIVE_FILE))
    stream = Stream(
        Path(path), options, measurement=measurement, valid_pixels=valid_pixels, patience_s=patience_s
    )
    image = LiveImage(trained, chosen, execution, stitching_size, agree_on_phase)
    refinement = None if refine is None else LiveRefinement(chosen, trained, refine, execution)
    page = nullcontext() if port is None else served_page(folder, port)
    with one_writer(folder), page as address:
        say = _nothing if say is None else say
        if address is not None:
            say(f"the image is shown at {address}")
        loop = _Loop(stream, image, refinement, folder, every_s, say)
        at_once = loop.run(until, idle_s)
        shown = loop.shown()
        run = None
        if final and not at_once:
            say(f"the image of the whole scan: {image.frames} frames")
            # it stays, also where the program is killed before the other one is there
            save_reconstruction(shown, folder / LIVE_FILE)
            with _live_image_kept(loop):
                run = workflows.infer(
                    trained, stream.whole_scan(np.array(image.strays, np.int64)), folder,
                    backend=chosen, execution=execution, stitching_size=stitching_size,
                    agree_on_phase=agree_on_phase, refine=refine, on_pass=on_pass,
                )  # fmt: skip
        return LiveResult(folder, image.frames, loop.save_figures(ended=True), shown, run)


def _nothing(text: str) -> None:
    pass


class _Loop:
    """Takes frames, adds them to the image, and writes it now and then."""

    def __init__(
        self,
        stream: Stream,
        image: LiveImage,
        refinement: LiveRefinement | None,
        folder: Path,
        every_s: float,
        say: Callable[[str], None],
    ) -> None:
        self._stream, self._image, self._refinement = stream, image, refinement
        self._folder, self._every_s, self._say = folder, every_s, say
        self._figures = LiveFigures()
        self._written_s: list[NDArray[np.float64]] = []
        self._writing: Future[float] | None = None
        self._next_image_s = self._next_line_s = 0.0
        self._frames_on_disk = 0
        self._named: set[str] = set()
        self._until: int | None = None

    def run(self, until: int | None, idle_s: float | None) -> bool:
        """Follow the scan to its end; True where two Ctrl-C ask for an end at once.

        Raises
        ------
        PtychoBackendsError
            Where the first frames do not fit, or none came.
        """
        self._until = until
        at_once = False
        with ThreadPoolExecutor(1, "ptycho-live") as writer, Interrupts(ByItself()).listening() as interrupts:
            try:
                self._follow(writer, interrupts, idle_s)
            except TrainingInterrupted:
                at_once = True
            if self._writing is not None:
                self._writing.result()
        self._name_left_out()
        if self._image.frames == 0:
            reason = (
                "; ".join((*self._left_out, self._stream.trouble)) if self._left_out else self._stream.trouble
            )
            raise ScanError(f"{self._stream.path}: no image: {reason}")
        self.save(self.shown())
        return at_once

    def _follow(self, writer: ThreadPoolExecutor, interrupts: Interrupts, idle_s: float | None) -> None:
        seen, last_s = 0, time.monotonic()
        waited_for, self._next_line_s = last_s, last_s + LINE_S
        while not interrupts.requested:
            self._poll()
            done = self._step()
            now = time.monotonic()
            if done or self._stream.frames.seen != seen:
                seen, last_s = self._stream.frames.seen, now
            elif not self._refine(interrupts):
                time.sleep(PAUSE_S)
            self._write(writer)
            self._print()
            if self._until is not None and self._figures.frames >= self._until:
                return
            has_begun = self._image.frames > 0 or self._stream.waits_to_begin or seen > 0
            if idle_s is not None and has_begun and now - last_s >= idle_s:
                break
            if not has_begun and now - waited_for >= LINE_S:
                self._say(f"waiting for frames: {self._stream.trouble}")
                waited_for = now + 60.0
        # what waited for a next frame, or for a change, is taken or given up
        self._poll(ended=True)
        while self._step(ended=True) and not interrupts.requested:
            self._write(writer)
            self._print()

    def _poll(self, ended: bool = False) -> None:
        self._stream.poll(ended)
        waiting = self._stream.without_position
        self._figures.saw(self._stream.frames.seen - waiting - len(self._left_out))

    @property
    def _left_out(self) -> list[str]:
        return [*self._stream.given_up, *self._image.left_out]

    def _step(self, ended: bool = False) -> bool:
        """Add a batch of frames to the image; False where none was ready."""
        most = MOST_FRAMES if self._until is None else min(MOST_FRAMES, self._until - self._figures.frames)
        taken = self._stream.take(most, ended) if most > 0 else None
        if taken is None:
            return False
        scan, written_s = taken
        self._written_s.append(written_s)
        if count := self._image.add(scan):
            self._figures.added(np.concatenate(self._written_s)[:count])
            self._written_s = []
        return True

    def _refine(self, interrupts: Interrupts) -> bool:
        """Refine the image so far if it is time; False where it is not."""
        refinement = self._refinement
        if refinement is None or not refinement.is_due(self._image.frames):
            return False

        def between_passes() -> None:
            self._poll()
            while self._step() and not interrupts.requested:
                self._poll()

        strays = np.array(self._image.strays, np.int64)
        refinement.run(self._stream.whole_scan(strays, as_live=True), self._image.image(), between_passes)
        # its own handler took the signal
        interrupts.requested |= refinement.interrupted
        return True

    def shown(self) -> Reconstruction:
        """The image so far, the refined one in its place where there is one."""
        image = self._image.image()
        return image if self._refinement is None else self._refinement.shown(image)

    def _write(self, writer: ThreadPoolExecutor) -> None:
        """Write image, picture and figures beside the work, if it is time."""
        now = time.monotonic()
        if now < self._next_image_s or self._image.frames == 0:
            return
        if self._writing is not None:
            if not self._writing.done():
                return
            took = self._writing.result()
            self._writing = None
            self._next_image_s = now + max(0.0, WRITING_PAUSE * took - self._every_s)
            if now < self._next_image_s:
                return
        self._next_image_s = now + self._every_s
        # figures alone where nothing is new
        image = self.shown() if self._frames_on_disk != self._state() else None
        self._frames_on_disk = self._state()
        self._writing = writer.submit(self._timed, image, self.figures())

    def _state(self) -> int:
        return self._image.frames + (0 if self._refinement is None else self._refinement.passes)

    def _timed(self, image: Reconstruction | None, figures: dict[str, Any]) -> float:
        started = time.perf_counter()
        try:
            if image is not None:
                self.save(image)
            save_json(figures, self._folder / FIGURES_FILE)
        except OutputError as error:
            # a full disk may have room again for the next one
            log.warning("%s", error)
        return time.perf_counter() - started

    def save(self, image: Reconstruction) -> None:
        """Write the image and its picture, each whole or not at all.

        Raises
        ------
        OutputError
        """
        save_reconstruction(image, self._folder / FILES["reconstruction"])
        save_quick_picture(image, self._folder / FILES["reconstruction_figure"])

    def restore(self) -> None:
        """Write the live image where there is none any more."""
        if not (self._folder / FILES["reconstruction"]).exists():
            self.save(self.shown())

    def figures(self, ended: bool = False) -> dict[str, Any]:
        """Content of `live.json`."""
        refinement = self._refinement
        return {
            **self._figures.as_dict(),
            "without_position": self._stream.without_position,
            "left_out": self._left_out,
            "refinement_passes": 0 if refinement is None else refinement.passes,
            "refined_frames": 0 if refinement is None else refinement.frames,
            "message": self._message(),
            "ended": ended,
        }

    def save_figures(self, ended: bool) -> dict[str, Any]:
        """Write `live.json`, and return its content."""
        figures = self.figures(ended)
        save_json(figures, self._folder / FIGURES_FILE)
        return figures

    def _message(self) -> str:
        """One sentence where the detector is ahead, or frames wait for positions; else ''."""
        lines = []
        behind_s = self._figures.behind_s
        if behind_s is not None and behind_s >= LAG_S:
            lines.append(
                f"slower than the detector: {self._figures.behind} frames behind ({behind_s:.1f} s); none is lost"
            )
        if (waiting := self._stream.without_position) > 0:
            lines.append(f"{waiting} frames wait for their positions")
        return "; ".join(lines)

    def _print(self) -> None:
        now = time.monotonic()
        self._name_left_out()
        if now < self._next_line_s or self._image.frames == 0:
            return
        self._next_line_s = now + LINE_S
        self._say(self._figures.line())
        if message := self._message():
            self._say(message)

    def _name_left_out(self) -> None:
        for line in self._left_out:
            if line not in self._named:
                self._named.add(line)
                self._say(f"left out: {line}")


@contextmanager
def _live_image_kept(loop: _Loop) -> Iterator[None]:
    """Put the live image back where Ctrl-C or an error ends the work on that of the whole scan before it is there."""
    try:
        yield
    except KeyboardInterrupt:
        log.warning("interrupted; the live image is kept")
        loop.restore()
    except BaseException:
        loop.restore()
        raise
