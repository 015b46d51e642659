"""The floor of a step: the time of the network's convolutions alone, one by one, in the same library, precision,
layout and number of threads. A step cannot be faster, and whatever it takes beyond is overhead."""

import contextlib
import functools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptycho_backends.config import ExecutionConfig
from ptycho_backends.training.plan import TrainingPlan
from ptycho_backends.values import Batch

MIB = 2**20


@dataclass(frozen=True)
class Convolution:
    """One layer of the network: forward alone, and forward with its gradients; floating-point operations."""

    forward: Callable[[], Any]
    both: Callable[[], Any]
    forward_flop: float
    both_flop: float


class Case:
    """A model with its batch, ready to train and to infer; a subclass for each backend.

    Attributes
    ----------
    step, infer : callables
        One training step; one inference, network and merging.
    convolutions : list of Convolution
    device : str
        Where it computes.
    """

    device: str
    step: Callable[[], float]
    infer: Callable[[], Any]
    convolutions: list[Convolution]

    def timed(self, work: Callable[[], Any]) -> float:
        """Seconds that `work` takes, on the device if it is one."""
        return seconds_of(work)

    def forget_peak(self) -> None:
        """Count the memory's peak from now on."""
        with contextlib.suppress(OSError):  # only Linux can
            Path("/proc/self/clear_refs").write_text("5")

    def peak_mib(self) -> float | None:
        """Most memory used since: of the device, or of this whole process; None where nobody knows."""
        with contextlib.suppress(OSError, StopIteration):
            lines = Path("/proc/self/status").read_text().splitlines()
            return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
        return None


def make_case(backend: str, plan: TrainingPlan, execution: ExecutionConfig) -> Case:
    """The first batch of `plan` on `backend`."""
    batch = plan.gather(plan.epoch_batches(1)[0])
    return {"torch": torch_case, "tensorflow": tensorflow_case}[backend](plan, batch, execution)


def seconds_of(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_turn(
    benchmark: Any,
    work: Callable[[], Any],
    floors: Sequence[Callable[[], Any]],
    *,
    rounds: int = 7,
    timed: Callable[[Callable[[], Any]], float] = seconds_of,
    share: float = 1.0,
) -> float | None:
    """Run `work` and its floor in turn, so that both see the same machine; the figures go to `extra_info`.

    Parameters
    ----------
    floors : callables
        Parts of the floor, whose times are added.
    share : float
        The floors do this part of the least that `work` has to do.

    Returns
    -------
    float or None
        Median of the seconds; None if benchmarks are not enabled, and then `work` ran once.
    """
    if not benchmark.enabled:
        benchmark(work)
        return None
    seconds: list[float] = []
    beside: list[float] = []
    benchmark.pedantic(
        lambda: seconds.append(timed(work)),
        setup=lambda: beside.append(sum(map(timed, floors)) / share),
        rounds=rounds,
    )
    record_ratios(benchmark, seconds, beside)
    return statistics.median(seconds)


def record_ratios(benchmark: Any, seconds: Sequence[float], floors: Sequence[float]) -> None:
    """To `extra_info`: medians, and the ratio of every round, whose spread is the noise that `compare.py` allows."""
    ratios = [one / floor for one, floor in zip(seconds, floors, strict=True)]
    benchmark.extra_info.update(
        milliseconds=1e3 * statistics.median(seconds),
        floor_milliseconds=1e3 * statistics.median(floors),
        ratio_to_floor=statistics.median(ratios),
        ratio_to_floor_rounds=ratios,
    )


def measured(benchmark: Any, case: Case, *, training: bool, groups: int) -> dict[str, float] | None:
    """Run a step, or an inference, and its floor in turn.

    `extra_info` also gets groups/s, FLOP/s of the convolutions, and the peak of the memory. Returns it; None if
    benchmarks are not enabled.
    """
    work = case.step if training else case.infer
    layers = [layer.both if training else layer.forward for layer in case.convolutions]
    flop = sum(layer.both_flop if training else layer.forward_flop for layer in case.convolutions)
    if benchmark.enabled:
        work()
        case.forget_peak()
        work()
        if (peak := case.peak_mib()) is not None:
            benchmark.extra_info["peak_mib"] = peak
        for layer in layers:
            layer()
    median = in_turn(benchmark, work, layers, timed=case.timed)
    if median is None:
        return None
    benchmark.extra_info.update(
        groups_per_second=groups / median, gflop_per_second=flop / median / 1e9, device=case.device
    )
    return benchmark.extra_info


def torch_case(plan: TrainingPlan, batch: Batch, execution: ExecutionConfig) -> Case:
    import torch
    import torch.nn.functional as F

    from ptycho_torch.backend import device as devices
    from ptycho_torch.backend.arrays import tensors_from_batch
    from ptycho_torch.backend.model import PtychoModel, adam

    where = devices.device(execution)
    config, scale = plan.config, plan.start.intensity_scale
    dtype, compiled = devices.compute_dtype(execution), execution.compile_network
    model = PtychoModel(config.model, plan.start.weights, dtype, compiled=compiled).to(where)
    model.freeze(config)
    optimizer = adam(model, execution.learning_rate)
    tensors = {name: tensor.to(where) for name, tensor in tensors_from_batch(batch).items()}
    kinds = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
    kind = kinds.get(execution.precision)

    @contextlib.contextmanager
    def computing() -> Iterator[None]:
        with devices.computing(execution), torch.autocast(where.type, kind, enabled=kind is not None):
            yield

    class TorchCase(Case):
        def step(self) -> float:
            with computing():
                total = model.loss_terms(config, tensors, scale, {})["total"]
            total.backward()
            optimizer.step()
            optimizer.zero_grad()
            return total.detach()

        def infer(self) -> Any:
            with computing(), torch.inference_mode():
                return model.object(scale * tensors["diffraction"], tensors["offsets"])

        def timed(self, work: Callable[[], Any]) -> float:
            if where.type != "cuda":
                return super().timed(work)
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            end.synchronize()
            return start.elapsed_time(end) / 1e3

        def forget_peak(self) -> None:
            torch.cuda.reset_peak_memory_stats() if where.type == "cuda" else super().forget_peak()

        def peak_mib(self) -> float | None:
            return torch.cuda.max_memory_allocated() / MIB if where.type == "cuda" else super().peak_mib()

    seen: list[tuple] = []
    convolve = F.conv2d

    def recorded(image: Any, kernel: Any, bias: Any = None, *places: Any, **names: Any) -> Any:
        seen.append((image, kernel, bias, functools.partial(_of_first_three, convolve, *places, **names)))
        return convolve(image, kernel, bias, *places, **names)

    F.conv2d = recorded
    try:
        with computing():
            model.object(scale * tensors["diffraction"], tensors["offsets"])
    finally:
        F.conv2d = convolve

    def layer(image: Any, kernel: Any, bias: Any, convolve: Callable[..., Any]) -> Convolution:
        image, kernel = (
            given.detach().to(kind or given.dtype).clone().requires_grad_(given.requires_grad)
            for given in (image, kernel)
        )
        bias = torch.zeros(len(kernel), dtype=kernel.dtype, device=where) if bias is None else bias
        bias = bias.detach().to(kind or bias.dtype).clone().requires_grad_(kernel.requires_grad)
        # as it is in a step
        image, kernel = (
            given.detach().clone(memory_format=torch.channels_last).requires_grad_(given.requires_grad)
            for given in (image, kernel)
        )
        with torch.no_grad():
            result = convolve(image, kernel, bias)
        gradient = torch.ones_like(result)
        wanted = [given for given in (image, kernel, bias) if given.requires_grad]

        def forward() -> Any:
            with torch.inference_mode():
                return convolve(image, kernel, bias)

        def both() -> Any:
            return torch.autograd.grad(convolve(image, kernel, bias), wanted, gradient)

        flop = 2.0 * result.numel() * kernel[0].numel()
        return Convolution(forward, both, flop, flop * (3 if image.requires_grad else 2))

    case = TorchCase()
    case.device = where.type
    case.convolutions = [layer(*one) for one in seen]
    return case


def _of_first_three(function: Callable[..., Any], *places: Any, **names: Any) -> Any:
    """`function` of its first three arguments, which come last here."""
    *others, image, kernel, bias = places
    return function(image, kernel, bias, *others, **names)


def tensorflow_case(plan: TrainingPlan, batch: Batch, execution: ExecutionConfig) -> Case:
    import tensorflow as tf

    from ptycho_backends.tensorflow import device as devices
    from ptycho_backends.tensorflow.arrays import batch_signature, tensors_from_batch
    from ptycho_backends.tensorflow.module import PtychoModule

    config, where = plan.config, devices.device(execution)
    dtype, kind = devices.compute_dtype(execution), devices.network_dtype(execution)
    with devices.computing(execution):
        module = PtychoModule(plan, execution, dtype, kind)
        tensors = tensors_from_batch(batch)

    @tf.function(input_signature=[batch_signature(config.model, with_truth=False)])
    def image_of(given: dict) -> tf.Tensor:
        fed = tf.cast(module.intensity_scale * given["diffraction"], dtype)
        return module.model.object(fed, given["offsets"])

    class TensorFlowCase(Case):
        def step(self) -> float:
            with devices.computing(execution):
                # waits for the device
                return module.training_step(tensors, last_of_epoch=False).numpy()

        def infer(self) -> Any:
            with devices.computing(execution):
                return image_of(tensors).numpy()

        def forget_peak(self) -> None:
            if where == "/GPU:0":
                tf.config.experimental.reset_memory_stats("GPU:0")
            else:
                super().forget_peak()

        def peak_mib(self) -> float | None:
            if where == "/GPU:0":
                return tf.config.experimental.get_memory_info("GPU:0")["peak"] / MIB
            return super().peak_mib()

    seen: list[tuple] = []
    convolutions = {"conv2d": tf.nn.conv2d, "conv2d_transpose": tf.nn.conv2d_transpose}

    def recording(function: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(image: Any, kernel: Any, *places: Any, **names: Any) -> Any:
            def convolve(image: Any, kernel: Any) -> Any:
                return function(image, kernel, *places, **names)

            seen.append((tf.cast(image, kernel.dtype), tf.identity(kernel), convolve))
            return convolve(image, kernel)

        return recorded

    for name, function in convolutions.items():
        setattr(tf.nn, name, recording(function))
    try:
        with devices.computing(execution):
            fed = tf.cast(module.intensity_scale * tensors["diffraction"], dtype)
            module.model.object(fed, tensors["offsets"])
    finally:
        for name, function in convolutions.items():
            setattr(tf.nn, name, function)

    def layer(image: tf.Tensor, kernel: tf.Tensor, convolve: Callable[..., Any]) -> Convolution:
        size = convolve(image, kernel).shape
        bias = tf.zeros(size[-1], kernel.dtype)

        def convolved(image: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
            return tf.nn.bias_add(convolve(image, kernel), bias)

        @tf.function
        def forward(image: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
            return convolved(image, kernel, bias)

        @tf.function
        def both(image: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, gradient: tf.Tensor) -> list:
            given = [image, kernel, bias]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(given)
                result = convolved(*given)
            # the result, too: unused values would not be computed
            return [result, *tape.gradient(result, given, gradient)]

        def waiting(work: Callable, *given: tf.Tensor) -> Callable[[], Any]:
            def done() -> None:
                with devices.computing(execution):
                    results = work(*given)
                    # a number, so that the device is waited for without a copy of all
                    tf.nest.map_structure(lambda result: tf.reshape(result, [-1])[0].numpy(), results)

            return done

        result = forward(image, kernel, bias)
        # each weight meets the pixels of the smaller image, of what is given or of what results
        pixels = min(image.shape[1] * image.shape[2], size[1] * size[2])
        flop = 2.0 * float(image.shape[0] * pixels) * float(tf.size(kernel))
        return Convolution(
            waiting(forward, image, kernel, bias),
            waiting(both, image, kernel, bias, tf.ones_like(result)),
            flop,
            3 * flop,
        )

    case = TensorFlowCase()
    case.device = where
    case.convolutions = [layer(*one) for one in seen]
    return case
