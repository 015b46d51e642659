"""Figures of a live reconstruction: rates, latencies, and how far it is behind the detector."""

import time
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Rates are means over this time.
WINDOW_S = 5.0


class LiveFigures:
    """Counts frames on their way from the detector to the image.

    Attributes
    ----------
    frames : int
        In the image.
    seen : int
        Written so far, with their positions, and not given up.
    most_behind : int
        Most frames that were written and not in the image at once.
    """

    def __init__(self) -> None:
        self.frames = self.seen = self.most_behind = 0
        self._latencies: list[NDArray[np.float32]] = []
        self._marks: deque[tuple[float, int, int]] = deque()
        self._started = time.monotonic()
        self._first: float | None = None
        self._last = self._started

    def saw(self, seen: int) -> None:
        """Note the number of frames that could be in the image by now."""
        if seen > self.seen and self._first is None:
            self._first = time.monotonic()
        self.seen = max(seen, self.seen)
        self.most_behind = max(self.most_behind, self.behind)

    def added(self, written_s: NDArray[np.float64]) -> None:
        """Note frames that have come into the image, which were written at these seconds since 1970."""
        self._latencies.append(np.maximum(time.time() - written_s, 0).astype(np.float32))
        self.frames += len(written_s)
        self.seen = max(self.seen, self.frames)
        self._last = time.monotonic()

    @property
    def behind(self) -> int:
        """Frames that were written and are not in the image yet."""
        return self.seen - self.frames

    @property
    def behind_s(self) -> float | None:
        """Seconds until those are in the image, at the present rate; None where it is not known."""
        done = self.rates()[1]
        return self.behind / done if done > 0 else None

    def line(self) -> str:
        """Figures in a line of text."""
        written, done = self.rates()
        p50, p95 = (self.latency_s(percentile) or 0.0 for percentile in (50, 95))
        return (
            f"{self.frames} frames in the image, {done:.0f} a second (written: {written:.0f}); latency p50 {p50:.2f} s"
            f", p95 {p95:.2f} s"
        )

    def latency_s(self, percentile: float) -> float | None:
        """Percentile of the times from a frame's writing to its place in the image; None before the first."""
        if not self._latencies:
            return None
        return float(np.percentile(np.concatenate(self._latencies), percentile))

    def rates(self) -> tuple[float, float]:
        """Frames a second that are written and that come into the image, over the last seconds."""
        now = time.monotonic()
        self._marks.append((now, self.seen, self.frames))
        while len(self._marks) > 2 and now - self._marks[1][0] > WINDOW_S:
            self._marks.popleft()
        then, seen, frames = self._marks[0]
        passed = max(now - then, 1e-9)
        if len(self._marks) < 2 or passed < 0.1:
            return 0.0, 0.0
        return (self.seen - seen) / passed, (self.frames - frames) / passed

    def as_dict(self) -> dict[str, Any]:
        """Plain values for `live.json`; times in seconds, rates in frames a second."""
        written, done = self.rates()
        behind_s = self.behind / done if done > 0 else None
        spent = self._last - (self._started if self._first is None else self._first)
        return {
            "frames": self.frames,
            "written": self.seen,
            "behind": self.behind,
            "behind_s": _rounded(behind_s),
            "most_behind": self.most_behind,
            "rate_written": round(written, 1),
            "rate": round(done, 1),
            "mean_rate": round(self.frames / spent, 1) if spent > 0 else None,
            "latency_p50_s": _rounded(self.latency_s(50)),
            "latency_p95_s": _rounded(self.latency_s(95)),
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
