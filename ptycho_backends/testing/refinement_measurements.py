"""Measurements of a backend's refinement: single stages on random arrays, and whole scans against the reference."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.config import ExecutionConfig, RefinementConfig
from ptycho_backends.protocol import Backend
from ptycho_backends.reference import refinement as reference
from ptycho_backends.refinement.plan import plan_refinement
from ptycho_backends.refinement.refine import Refinement
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.testing.agreement import deviation
from ptycho_backends.testing.measurements import DOUBLE, Measurement
from ptycho_backends.values import Reconstruction


class StageArrays:
    """Random arrays of one chunk, in float64: `reference.refinement` documents them by their names.

    A sixth of the pixels is not valid, and the canvas is not square. `waves` are (count, modes, side, side).
    """

    def __init__(
        self, seed: int, side: int = 16, modes: int = 2, count: int = 3, *, held_out: bool = True
    ) -> None:
        self._text = f"StageArrays({seed}, {side}, {modes}, {count}, held_out={held_out})"
        self._draw = draw = np.random.default_rng(seed)
        self.side, self.count = side, count
        shape = side + 7 + seed % 2, side + 12
        self.canvas = 1 + 0.3 * self._complex(*shape)
        self.probe = self._complex(modes, side, side) / np.arange(1, modes + 1)[:, None, None]
        self.valid = (draw.random((side, side)) > 1 / 6).astype(np.float64)
        self.measured = 2 * np.abs(self._complex(count, side, side)) * self.valid
        self.classes = draw.integers(4, size=(side, side)) if held_out else None
        self.class_count = 4 if held_out else 0
        self.numbers = draw.permutation(2 * count)[:count]
        self.corners = np.stack([draw.integers(0, size - side, count) for size in shape[::-1]], axis=-1)
        self.fractions = draw.random((count, 2))
        self.waves = self._complex(count, modes, side, side)

    def _complex(self, *shape: int) -> NDArray[np.complex128]:
        return self._draw.normal(size=shape) + 1j * self._draw.normal(size=shape)

    def __repr__(self) -> str:
        return self._text

    @property
    def weights(self) -> tuple[NDArray, NDArray]:
        """Weights of the pixels that move the object, and of those held out."""
        return reference.pixel_weights(self.valid, self.classes, self.numbers, self.class_count)


@dataclass(frozen=True)
class RefinementCase:
    """A small simulated scan and a refinement of it.

    `masked` marks pixels as not valid, `moved` gives positions that are wrong by up to a pixel. With `modes`
    the probe is refined from pass 2 on, with `moved` the positions from pass 3 on.
    """

    N: int = 32
    positions: int = 20
    passes: int = 6
    modes: int = 1
    masked: bool = False
    moved: bool = False
    likelihood: str = "amplitude"
    seed: int = 0

    def scan(self) -> Scan:
        """The scan, with 1e5 photons a pattern."""
        scan = simulate_star(self.N, self.positions, n_photons=1e5, seed=self.seed)
        if self.moved:
            x, y = np.random.default_rng(self.seed).uniform(-1, 1, (2, self.positions))
            scan = dataclasses.replace(scan, xcoords=scan.xcoords + x, ycoords=scan.ycoords + y)
        if self.masked:
            valid = np.ones((self.N, self.N), bool)
            valid[self.N // 2 + 2 : self.N // 2 + 5, 3 : self.N // 2] = False
            scan = dataclasses.replace(scan, valid_pixels=valid)
        return scan

    @property
    def config(self) -> RefinementConfig:
        return RefinementConfig(
            passes=self.passes,
            likelihood=self.likelihood,
            n_probe_modes=self.modes,
            refine_probe=self.modes > 1,
            refine_positions=self.moved,
            positions_from=3,
            held_out_fraction=1 / 16,
            seed=self.seed,
        )


REFINEMENTS = (
    RefinementCase(seed=1),
    RefinementCase(modes=2, masked=True, moved=True, seed=2),
    RefinementCase(likelihood="poisson", masked=True, passes=3, seed=3),
)
"""Every part of a refinement at least once."""


def reference_refinement(case: RefinementCase) -> Reconstruction:
    """The image of `case` as NumPy makes it, in float64."""
    plan = plan_refinement(None, case.scan(), case.config)
    return Refinement(
        plan, reference.Refiner(plan.problem, plan.state.canvas, plan.state.probe), "reference"
    ).run()


def compared(got: Reconstruction, want: Reconstruction) -> Iterator[tuple[str, float]]:
    """Names and deviations of everything that a refinement moves, and of its errors."""
    yield "object", deviation(got.object, want.object)
    for name in ("coverage", "probe_modes", "positions_px", "origin_px"):
        yield name, deviation(getattr(got, name), getattr(want, name))
    errors = [
        np.array([(row.error, row.r_factor, row.held_out_error or 0.0) for row in image.passes])
        for image in (got, want)
    ]
    yield "errors of the passes", deviation(*errors)


def measure_refinement(
    case: RefinementCase, backends: Mapping[str, Backend], execution: ExecutionConfig = DOUBLE
) -> Iterator[Measurement]:
    """The refinement of `case` by each backend against the reference's."""
    want = reference_refinement(case)
    allowance = "refined image, float64" if execution.precision == "64-true" else "refined image, float32"
    for name, backend in backends.items():
        got = backend.refine(None, case.scan(), case.config, execution=execution)
        for quantity, error in compared(got, want):
            yield Measurement(f"refinement: {quantity}", allowance, name, error, repr(case))
