"""Mirror of `ptycho_backends.reference.refinement`: the steps of accelerated projections on a whole scan."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_backends import constants
from ptycho_backends.config import ExecutionConfig
from ptycho_backends.refinement.plan import RefinementPlan
from ptycho_backends.refinement.refine import Refinement
from ptycho_backends.training.prefetch import DEFAULT_PREFETCH, ahead
from ptycho_backends.values import (
    REFINEMENT_CHUNK,
    ChunkSums,
    PassCallback,
    PassSettings,
    Reconstruction,
    RefinementProblem,
)
from ptycho_torch.backend import process_group
from ptycho_torch.backend.arrays import tensors_from_weights
from ptycho_torch.backend.correction import corrected_scan
from ptycho_torch.backend.device import compute_dtype, computing, device, on_device

# Positions that are computed at once on a GPU, for N = 64: its cores are many, its launches slow.
GPU_CHUNK = 4096
# Measured amplitudes stay on the device if they take at most this fraction of its free memory.
RESIDENT_FRACTION = 0.5
RESIDENT_BYTES_ON_HOST = 1 << 30


def views(canvas: Tensor, corners: Tensor, fractions: Tensor, N: int) -> Tensor:
    """Mirror of `reference.refinement.views`."""
    right, down = _weights(fractions, canvas.dtype)
    window = _windows(canvas, corners, N)
    across = torch.lerp(window[..., :-1], window[..., 1:], right)
    return torch.lerp(across[:, :-1], across[:, 1:], down)


def view_slopes(canvas: Tensor, corners: Tensor, fractions: Tensor, N: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mirror of `reference.refinement.view_slopes`."""
    right, down = _weights(fractions, canvas.dtype)
    window = _windows(canvas, corners, N)
    across = torch.lerp(window[..., :-1], window[..., 1:], right)
    change = window[..., 1:] - window[..., :-1]
    seen = torch.lerp(across[:, :-1], across[:, 1:], down)
    by_x = torch.lerp(change[:, :-1], change[:, 1:], down)
    return seen, by_x, across[:, 1:] - across[:, :-1]


def _windows(canvas: Tensor, corners: Tensor, N: int) -> Tensor:
    """(n, N + 1, N + 1) pixels from each corner on."""
    return canvas.unfold(0, N + 1, 1).unfold(1, N + 1, 1)[corners[:, 1], corners[:, 0]]


def _weights(fractions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    weights = fractions[:, :, None, None].to(dtype)
    return weights[:, 0], weights[:, 1]


def spread(images: Tensor, corners: Tensor, fractions: Tensor, canvas: Tensor) -> Tensor:
    """Mirror of `reference.refinement.spread`; changes `canvas`."""
    # a real product of the parts of complex numbers is half of a complex one
    parts = torch.view_as_real(images.resolve_conj()) if images.is_complex() else images[..., None]
    right, down = fractions[:, 0, None, None, None], fractions[:, 1, None, None, None]
    N = parts.shape[1]
    rows = _shared_out(parts, down, dim=1)
    window = _shared_out(rows, right, dim=2)
    window = torch.view_as_complex(window) if images.is_complex() else window[..., 0]
    steps = torch.arange(N + 1, dtype=torch.int64, device=images.device)
    index = (corners[:, 1, None] + steps)[:, :, None] * canvas.shape[1] + (corners[:, 0, None] + steps)[
        :, None
    ]
    canvas.view(-1).scatter_add_(0, index.reshape(-1), window.reshape(-1))
    return canvas


def _shared_out(values: Tensor, later: Tensor, dim: int) -> Tensor:
    """`values` between the pixels of one more along `dim`: the fraction `later` to the next, the rest to the first."""
    n = values.shape[dim]
    shape = list(values.shape)
    shape[dim] += 1
    shared = values.new_zeros(shape)
    moved = values * later
    shared.narrow(dim, 1, n).copy_(moved)
    shared.narrow(dim, 0, n).add_(values).sub_(moved)
    return shared


def illumination(corners: Tensor, fractions: Tensor, probe: Tensor, shape: tuple[int, int]) -> Tensor:
    """Mirror of `reference.refinement.illumination`."""
    right, down = fractions[:, 0], fractions[:, 1]
    points = torch.zeros(shape, dtype=fractions.dtype, device=fractions.device)
    first = corners[:, 1] * shape[1] + corners[:, 0]
    index = torch.cat([first, first + 1, first + shape[1], first + shape[1] + 1])
    weight = torch.cat([(1 - right) * (1 - down), right * (1 - down), (1 - right) * down, right * down])
    points.view(-1).index_add_(0, index, weight)
    kernel = torch.zeros_like(points)
    N = probe.shape[-1]
    kernel[:N, :N] = _power(probe).sum(dim=0)
    light = torch.fft.irfft2(torch.fft.rfft2(points) * torch.fft.rfft2(kernel), s=shape)
    return light.clamp(min=0.0)


def _power(waves: Tensor) -> Tensor:
    """Squared modulus, without the root that `abs` takes."""
    return waves.real.square() + waves.imag.square()


def _over_modes(values: Tensor) -> Tensor:
    """Sum over the second axis; without a copy where it has one mode."""
    return values[:, 0] if values.shape[1] == 1 else values.sum(dim=1)


def pixel_weights(
    valid: Tensor, classes: Tensor | None, numbers: Tensor, class_count: int
) -> tuple[Tensor, Tensor]:
    """Mirror of `reference.refinement.pixel_weights`."""
    if classes is None:
        return valid[None], torch.zeros_like(valid)[None]
    held_out = valid * (classes == (numbers % class_count)[:, None, None])
    return valid - held_out, held_out


def modulus_change(
    waves: Tensor, measured: Tensor, weights: Tensor, likelihood: str
) -> tuple[Tensor, Tensor]:
    """Mirror of `reference.refinement.modulus_change`."""
    # one scaling of real numbers in the place of two of complex ones
    N = waves.shape[-1]
    far = torch.fft.fft2(waves)
    intensity = _over_modes(_power(far)) / N**2
    amplitude = intensity.sqrt()
    if likelihood == "poisson":
        factor = 0.5 * (measured.square() / (intensity + constants.POISSON_FLOOR) - 1.0)
    else:
        factor = measured / (amplitude + constants.MODULUS_FLOOR) - 1.0
    change = torch.fft.ifft2(far * (factor * weights / N**2)[:, None], norm="forward")
    return change, amplitude


def residual_sums(measured: Tensor, amplitude: Tensor, weights: Tensor, held_out: Tensor) -> Tensor:
    """Mirror of `reference.refinement.residual_sums`."""
    residual = measured - amplitude
    squared, power = residual.square(), measured.square()
    bright = weights * (amplitude > constants.BRIGHT_AMPLITUDE)
    sums = (
        (squared * weights).sum(),
        (power * weights).sum(),
        (squared * bright).sum(),
        bright.sum(),
        (residual.abs() * weights).sum(),
        (measured * weights).sum(),
        (squared * held_out).sum(),
        (power * held_out).sum(),
    )
    return torch.stack(sums).double()


def chunk_sums(
    canvas: Tensor,
    probe: Tensor,
    measured: Tensor,
    weights: Tensor,
    held_out: Tensor,
    corners: Tensor,
    fractions: Tensor,
    numerator: Tensor,
    likelihood: str,
    *,
    with_probe: bool,
    with_positions: bool,
) -> ChunkSums:
    """Mirror of `reference.refinement.chunk_sums`."""
    N = probe.shape[-1]
    if with_positions:
        seen, by_x, by_y = view_slopes(canvas, corners, fractions, N)
    else:
        seen = views(canvas, corners, fractions, N)
    change, amplitude = modulus_change(probe * seen[:, None], measured, weights, likelihood)
    towards = _over_modes(probe.conj().resolve_conj() * change)
    found: dict[str, Tensor] = {}
    if with_probe:
        found["probe_numerator"] = (seen.conj()[:, None] * change).sum(dim=0)
        found["probe_denominator"] = _power(seen).sum(dim=0)
    if with_positions:
        lit = _power(probe).sum(dim=0)
        equations = (
            (by_x.conj() * towards).real,
            (by_y.conj() * towards).real,
            lit * _power(by_x),
            lit * (by_x.conj() * by_y).real,
            lit * _power(by_y),
        )
        found["position_sums"] = torch.stack([term.sum(dim=(1, 2)) for term in equations], dim=-1)
    return ChunkSums(
        residual_sums(measured, amplitude, weights, held_out),
        spread(towards, corners, fractions, numerator),
        **found,
    )


def differences(canvas: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror of `reference.refinement.differences`."""
    by_x, by_y = torch.zeros_like(canvas), torch.zeros_like(canvas)
    by_x[:, :-1] = canvas[:, 1:] - canvas[:, :-1]
    by_y[:-1] = canvas[1:] - canvas[:-1]
    return by_x, by_y


def differences_adjoint(by_x: Tensor, by_y: Tensor) -> Tensor:
    """Mirror of `reference.refinement.differences_adjoint`."""
    canvas = -by_x - by_y
    canvas[:, 1:] += by_x[:, :-1]
    canvas[1:] += by_y[:-1]
    return canvas


def roughness(canvas: Tensor, edge: float) -> Tensor:
    """Mirror of `reference.refinement.roughness`."""
    by_x, by_y = differences(canvas)
    weight = torch.rsqrt(1.0 + (_power(by_x) + _power(by_y)) / edge**2)
    return differences_adjoint(weight * by_x, weight * by_y)


def slow_gain(shape: tuple[int, int], width_px: float, strength: float, floor: float) -> Tensor:
    """Mirror of `reference.refinement.slow_gain`, in float64."""
    rows = torch.fft.fftfreq(shape[0], dtype=torch.float64, device="cpu")
    columns = torch.fft.rfftfreq(shape[1], dtype=torch.float64, device="cpu")
    squared = (2 * np.pi * width_px) ** 2 * (rows[:, None].square() + columns.square())
    gain = strength / (squared + floor)
    gain[0, 0] = 0.0
    return gain


def object_step(
    canvas: Tensor,
    numerator: Tensor,
    light: Tensor,
    gain: Tensor | None,
    fraction: float,
    settings: PassSettings,
) -> Tensor:
    """Mirror of `reference.refinement.object_step`."""
    brightest = light.max()
    smoothness = settings.smoothness * fraction
    towards = numerator - smoothness * roughness(canvas, constants.EDGE)
    # 8 is the largest eigenvalue of the differences' normal matrix
    change = settings.step * towards / (light + settings.damping * brightest + 8.0 * smoothness)
    moved = canvas + change
    if gain is None:
        return moved
    trusted = light / (light + constants.LOW_LIGHT * brightest)
    turn = (change * canvas.conj()).imag / (_power(canvas) + constants.DARK_OBJECT) * trusted
    slow = torch.fft.irfft2(torch.fft.rfft2(turn) * gain, s=turn.shape)
    return moved * torch.polar(torch.ones_like(slow), slow)


def probe_step(probe: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    """Mirror of `reference.refinement.probe_step`."""
    metric = denominator + constants.PROBE_DAMPING * denominator.max()
    return probe + constants.PROBE_STEP * numerator / metric


class Refiner:
    """Mirror of `reference.refinement.Refiner` on the device and in the precision of `execution`.

    Measured amplitudes are on the device if they fit, else gathered chunk by chunk during the computation of
    the one before.
    """

    def __init__(
        self,
        problem: RefinementProblem,
        canvas: NDArray,
        probe: NDArray,
        execution: ExecutionConfig,
        processes: process_group.ProcessGroup | None = None,
    ) -> None:
        self._problem, self._execution = problem, execution
        self._processes = processes or process_group.ProcessGroup()
        self._device, self._dtype = device(execution), compute_dtype(execution)
        self._complex = torch.complex128 if self._dtype == torch.float64 else torch.complex64
        self._canvas, self._probe = self._waves(canvas), self._waves(probe)
        self._velocity, self._probe_velocity = torch.zeros_like(self._canvas), torch.zeros_like(self._probe)
        on_host = self._device.type == "cpu"
        self._chunk = REFINEMENT_CHUNK if on_host else max(1, GPU_CHUNK * 64**2 // problem.side**2)
        self._valid = torch.from_numpy(problem.valid).to(self._device, self._dtype)
        self._classes = (
            None if problem.classes is None else torch.from_numpy(problem.classes).to(self._device)
        )
        self._measured = self._resident()
        self.keep()

    def _waves(self, array: NDArray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device, self._complex)

    def _resident(self) -> Tensor | None:
        """(M, N, N) amplitudes on the device, in float32; None if they take too much of its memory."""
        problem = self._problem
        allowed = RESIDENT_BYTES_ON_HOST
        if self._device.type == "cuda":
            allowed = int(RESIDENT_FRACTION * torch.cuda.mem_get_info(self._device)[0])
        if 4 * problem.count * problem.side**2 > allowed:
            return None
        measured = torch.empty(
            (problem.count, problem.side, problem.side), dtype=torch.float32, device=self._device
        )
        for part, amplitude in problem.chunks(np.arange(problem.count), 1024):
            measured[part[0] : part[-1] + 1] = torch.from_numpy(amplitude).to(self._device)
        return measured

    def _chunks(self, batch: NDArray) -> Iterator[tuple[NDArray, Tensor, Tensor]]:
        """Numbers of the positions of each chunk, as an array and as a tensor, and their measured amplitudes."""
        if self._measured is None:
            gathered = ahead(self._problem.chunks(batch, self._chunk), DEFAULT_PREFETCH)
            for part, amplitude in gathered:
                measured = on_device(torch.from_numpy(amplitude), self._device, self._dtype)
                yield part, on_device(torch.from_numpy(part), self._device), measured
            return
        everything = on_device(torch.from_numpy(batch), self._device)
        for start in range(0, len(batch), self._chunk):
            index = everything[start : start + self._chunk]
            yield batch[start : start + self._chunk], index, self._measured[index].to(self._dtype)

    def _weights(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        return pixel_weights(self._valid, self._classes, numbers, self._problem.class_count)

    def _own(self, batch: NDArray) -> NDArray:
        """The positions of `batch` that this process computes."""
        shard = self._processes.shard(len(batch))
        return batch[shard.start : shard.stop]

    def _of_all(self, sums: ChunkSums, settings: PassSettings) -> ChunkSums:
        """The sums of all processes."""
        if self._processes.size == 1:
            return sums
        # a shard without positions has no sums of the probe
        if settings.with_probe and sums.probe_numerator is None:
            empty = torch.zeros_like(self._probe)
            sums = dataclasses.replace(
                sums, probe_numerator=empty, probe_denominator=empty[0].real.contiguous()
            )
        found = {}
        for name in ("residuals", "numerator", "probe_numerator", "probe_denominator"):
            value = getattr(sums, name)
            if value is not None:
                real = torch.view_as_real(value) if value.is_complex() else value
                array = np.ascontiguousarray(real.cpu().numpy(), np.float64)
                self._processes.add_up(array)
                added = torch.from_numpy(array).to(self._device, real.dtype)
                found[name] = torch.view_as_complex(added) if value.is_complex() else added
        return dataclasses.replace(sums, **found)

    def place(self, corners: NDArray, fractions: NDArray) -> None:
        """As the mirrored method."""
        self._corners = on_device(torch.from_numpy(corners), self._device)
        self._fractions = on_device(torch.from_numpy(fractions), self._device, self._dtype)

    def keep(self) -> None:
        """As the mirrored method."""
        self._kept = self._canvas, self._probe

    def go_back(self) -> None:
        """As the mirrored method."""
        self._canvas, self._probe = self._kept
        self._velocity, self._probe_velocity = torch.zeros_like(self._canvas), torch.zeros_like(self._probe)

    def mark(self) -> None:
        """As the mirrored method."""
        self._marked = self._canvas, self._velocity, self._probe, self._probe_velocity

    def return_to_mark(self) -> None:
        """As the mirrored method."""
        self._canvas, self._velocity, self._probe, self._probe_velocity = self._marked

    def canvas(self) -> NDArray:
        """As the mirrored method."""
        return self._canvas.cpu().numpy()

    def velocities(self) -> tuple[NDArray, NDArray]:
        """As the mirrored method."""
        return self._velocity.cpu().numpy(), self._probe_velocity.cpu().numpy()

    def set_velocities(self, velocity: NDArray, probe_velocity: NDArray) -> None:
        """As the mirrored method."""
        self._velocity, self._probe_velocity = self._waves(velocity), self._waves(probe_velocity)

    def probe(self) -> NDArray:
        """As the mirrored method."""
        return self._probe.cpu().numpy()

    def set_probe(self, probe: NDArray, object_factor: float) -> None:
        """As the mirrored method."""
        self._probe = self._waves(probe)
        self._canvas = self._canvas * object_factor
        self._velocity = self._velocity * object_factor

    @torch.no_grad()
    def light(self) -> NDArray:
        """As the mirrored method."""
        return illumination(self._corners, self._fractions, self._probe, self._problem.shape).cpu().numpy()

    @torch.no_grad()
    def sweep(
        self,
        batches: Sequence[NDArray],
        gain: NDArray | None,
        settings: PassSettings,
        after_batch: Callable[[], None] | None = None,
    ) -> tuple[NDArray, NDArray | None]:
        """As the mirrored method."""
        problem = self._problem
        residuals = torch.zeros(8, dtype=torch.float64, device=self._device)
        position_sums = self._fractions.new_zeros(problem.count, 5) if settings.with_positions else None
        slow = None if gain is None else on_device(torch.from_numpy(gain), self._device, self._dtype)
        with computing(self._execution):
            for batch in batches:
                canvas = self._canvas + constants.REFINEMENT_MOMENTUM * self._velocity
                probe = self._probe
                if settings.with_probe:
                    probe = probe + constants.PROBE_MOMENTUM * self._probe_velocity
                total = ChunkSums(torch.zeros_like(residuals), torch.zeros_like(canvas))
                for _, index, measured in self._chunks(self._own(batch)):
                    sums = chunk_sums(
                        canvas, probe, measured, *self._weights(index), self._corners[index], self._fractions[index],
                        total.numerator, problem.likelihood, with_probe=settings.with_probe,
                        with_positions=settings.with_positions,
                    )  # fmt: skip
                    total = total.plus(sums)
                    if position_sums is not None:
                        position_sums[index] = sums.position_sums
                total = self._of_all(total, settings)
                residuals += total.residuals
                index = on_device(torch.from_numpy(batch), self._device)
                light = illumination(self._corners[index], self._fractions[index], self._probe, problem.shape)
                moved = object_step(
                    canvas, total.numerator, light, slow, len(batch) / problem.count, settings
                )
                self._velocity, self._canvas = moved - self._canvas, moved
                if settings.with_probe:
                    moved = probe_step(probe, total.probe_numerator, total.probe_denominator)
                    self._probe_velocity, self._probe = moved - self._probe, moved
                if after_batch is not None:
                    after_batch()
        equations = None
        if position_sums is not None:
            equations = position_sums.double().cpu().numpy()
            self._processes.add_up(equations)
        return residuals.cpu().numpy(), equations

    @torch.no_grad()
    def correct(self, weights: Mapping[str, NDArray]) -> None:
        """As the mirrored method."""
        found = tensors_from_weights(weights, self._dtype)
        there = {name: tensor.to(self._device) for name, tensor in found.items()}
        light = illumination(self._corners, self._fractions, self._probe, self._problem.shape)
        with computing(self._execution):
            self._canvas = corrected_scan(self._canvas, light, there)
        self._velocity = torch.zeros_like(self._canvas)

    @torch.no_grad()
    def evaluate(self) -> NDArray:
        """As the mirrored method."""
        problem = self._problem
        residuals = torch.zeros(8, dtype=torch.float64, device=self._device)
        with computing(self._execution):
            for _, index, measured in self._chunks(self._own(np.arange(problem.count))):
                seen = views(self._canvas, self._corners[index], self._fractions[index], problem.side)
                far = torch.fft.fft2(self._probe * seen[:, None], norm="ortho")
                residuals += residual_sums(measured, _power(far).sum(dim=1).sqrt(), *self._weights(index))
        found = residuals.cpu().numpy()
        self._processes.add_up(found)
        return found


def refine(
    plan: RefinementPlan,
    execution: ExecutionConfig,
    output_dir: str | os.PathLike[str] | None = None,
    on_pass: PassCallback | None = None,
) -> Reconstruction:
    """The refined image; several processes each compute their shard of every batch."""
    processes = process_group.process_group_of(execution)
    with process_group.working_together(processes, _refine_shard, plan, execution):
        return _refine_shard(processes, plan, execution, output_dir, on_pass)


def _refine_shard(
    processes: process_group.ProcessGroup,
    plan: RefinementPlan,
    execution: ExecutionConfig,
    output_dir: str | os.PathLike[str] | None = None,
    on_pass: PassCallback | None = None,
) -> Reconstruction:
    """The work of every process; each has the whole image afterwards."""
    steps = Refiner(plan.problem, plan.state.canvas, plan.state.probe, execution, processes)
    return Refinement(plan, steps, "torch", processes).run(output_dir, on_pass)
