"""Compare the newest stored run of the benchmarks with an earlier one of the same machine.

    python benchmarks/compare.py                     # with the one before it
    python benchmarks/compare.py --old FILE.json     # with another

Exit code 0: nothing got slower beyond the noise; 1: something did, and is named; 2: there is nothing to compare.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stored import STORAGE, Measurement, Run, StoredRunError, differences, read_run, stored_runs

# The compared number if both runs have it; else seconds. The two times of a ratio are measured in turn, and another
# job on the machine makes both longer.
RATIO = "ratio_to_floor"

# Standard errors of the medians' difference that are noise. Of a hundred benchmarks with seven rounds each, more
# than three of these happen to one in every other comparison, more than five once in sixty (Student's t).
STANDARD_ERRORS = 5.0

# Noise that the rounds of one process cannot show: memory lies elsewhere and libraries choose other kernels in the
# next. Seconds have more of it, because the machine's clock and its other jobs change as well.
LEAST_NOISE_OF_RATIO = 0.10
LEAST_NOISE_OF_SECONDS = 0.20

# The floor is others' code: if it took longer than in the old run, the machine was busier, by so much. The ratio
# follows it in part, because caches and threads help the one more than the other. Half was
# observed between runs whose floors differed by a factor of two to nine.
SHARE_OF_DRIFT = 0.5

# Quartiles of fewer rounds do not measure noise.
FEWEST_ROUNDS = 3


class NoEarlierRunError(StoredRunError):
    """The newest run is the first on its machine."""


@dataclass(frozen=True)
class Change:
    """A benchmark in both runs; `old` and `new` are in `unit`, and less is better.

    `allowed` is the largest `new / old` that may be noise; infinite where noise was not measured.
    """

    name: str
    unit: str
    old: float
    new: float
    allowed: float

    @property
    def ratio(self) -> float:
        return self.new / self.old

    @property
    def verdict(self) -> str:
        if math.isinf(self.allowed):
            return "not judged"
        if self.ratio > self.allowed:
            return "slower"
        return "faster" if self.ratio < 1 / self.allowed else "same"


def standard_error(quartile_range: float, rounds: int) -> float:
    """Of a median of normal values, estimated from the range between their quartiles, which outliers leave alone."""
    if rounds < FEWEST_ROUNDS:
        return math.inf
    deviation = quartile_range / 1.349
    return math.sqrt(math.pi / 2) * deviation / math.sqrt(rounds)


def drift(old: Measurement, new: Measurement) -> float | None:
    """Change of the floor itself, as the logarithm of a ratio; None without a floor."""
    floors = [float(one.extra.get("floor_milliseconds") or 0) for one in (old, new)]
    return abs(math.log(floors[1] / floors[0])) if min(floors) > 0 else None


def changed(old: Measurement, new: Measurement, usual_drift: float) -> Change | None:
    """Change of a benchmark, None if a number is missing or NaN; `usual_drift` is that of the other floors."""
    by_floor = RATIO in old.extra and RATIO in new.extra
    medians, errors = [], []
    for one in (old, new):
        if by_floor:
            medians.append(float(one.extra[RATIO]))
            rounds = one.extra.get(f"{RATIO}_rounds") or []
            low, _, high = statistics.quantiles(rounds, method="inclusive") if len(rounds) > 1 else (0, 0, 0)
            errors.append(standard_error(high - low, len(rounds)))
        else:
            medians.append(one.seconds * 1e3)
            errors.append(standard_error(one.iqr_seconds * 1e3, one.rounds))
    if not all(math.isfinite(median) and median > 0 for median in medians):
        return None
    measured = STANDARD_ERRORS * math.hypot(*(error / m for error, m in zip(errors, medians, strict=True)))
    if by_floor:
        own = drift(old, new)
        machine = SHARE_OF_DRIFT * (usual_drift if own is None else own)
        return Change(new.name, "floors", *medians, 1 + max(measured, LEAST_NOISE_OF_RATIO) + machine)
    return Change(new.name, "ms", *medians, 1 + max(measured, LEAST_NOISE_OF_SECONDS) + usual_drift)


def changes(old: Run, new: Run) -> list[Change]:
    """Of all benchmarks in both, the worst first.

    Raises
    ------
    StoredRunError
        If the machines differ, or no benchmark is in both.
    """
    if different := differences(old.machine, new.machine):
        raise StoredRunError(
            f"{old.path} and {new.path}: measured on different machines, want one and the same; "
            + "; ".join(different)
        )
    both = [
        (old.measurements[name], one) for name, one in new.measurements.items() if name in old.measurements
    ]
    if not both:
        raise StoredRunError(
            f"{old.path} and {new.path}: no benchmark is in both; name another run with --old, "
            "or measure the same part again"
        )
    drifts = [value for pair in both if (value := drift(*pair)) is not None]
    # upper quartile, above most of the floors
    usual = statistics.quantiles(drifts, method="inclusive")[2] if len(drifts) > 1 else sum(drifts)
    found = [change for pair in both if (change := changed(*pair, usual)) is not None]
    return sorted(found, key=lambda change: -change.ratio / min(change.allowed, 1e9))


def run_before(new: Run, runs: Sequence[Run]) -> Run:
    """The newest earlier run of the same machine that shares a benchmark with `new`.

    Raises
    ------
    NoEarlierRunError
        If there is none.
    """
    earlier = [run for run in runs if run.when < new.when]
    same = [run for run in earlier if run.machine == new.machine]
    for run in reversed(same):
        if run.measurements.keys() & new.measurements.keys():
            return run
    others = f"; {len(earlier) - len(same)} of other machines" if len(earlier) > len(same) else ""
    parts = f"; {len(same)} of this machine, with no benchmark in common" if same else ""
    raise NoEarlierRunError(
        f"{new.path}: no earlier run to compare with{others}{parts}; measure again, or name one with --old"
    )


def report(old: Run, new: Run, found: Sequence[Change], everything: bool) -> str:
    lines = [f"old: {old.label}, {old.path}", f"new: {new.label}, {new.path}"]
    lines += [f"not the same: {one}" for one in differences(old.settings, new.settings)]
    verdicts = [change.verdict for change in found]
    only_old, only_new = (
        len(a.measurements.keys() - b.measurements.keys()) for a, b in ((old, new), (new, old))
    )
    counts = [f"{verdicts.count(kind)} {kind}" for kind in ("slower", "faster", "same", "not judged")]
    lines.append(f"{', '.join(counts)}; {only_old} only in the old run, {only_new} only in the new one")
    shown = [change for change in found if everything or change.verdict in ("slower", "faster")]
    if shown:
        width = max(len(change.name) for change in shown)
        lines += ["", f"{'benchmark':{width}}  {'old':>9} {'new':>9} unit   new/old allowed"]
        lines += [
            f"{one.name:{width}}  {one.old:9.4g} {one.new:9.4g} {one.unit:6} {one.ratio:7.2f} "
            f"{one.allowed:7.2f} {one.verdict}"
            for one in shown
        ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--old", type=Path, help="a stored run; default: the one before, of the same machine")
    parser.add_argument("--new", type=Path, help="a stored run; default: the newest")
    parser.add_argument("--storage", type=Path, default=STORAGE, help="folder of the stored runs")
    parser.add_argument("--all", action="store_true", help="show also what stayed the same")
    parser.add_argument("--first", action="store_true", help="a machine's first run is no error: exit code 0")
    options = parser.parse_args(arguments)
    try:
        runs = stored_runs(options.storage) if options.old is None or options.new is None else []
        new = runs[-1] if options.new is None else read_run(options.new)
        old = run_before(new, runs) if options.old is None else read_run(options.old)
        found = changes(old, new)
    except StoredRunError as error:
        first = options.first and isinstance(error, NoEarlierRunError)
        (sys.stdout if first else sys.stderr).write(f"{error}\n")
        return 0 if first else 2
    sys.stdout.write(report(old, new, found, options.all) + "\n")
    return int(any(change.verdict == "slower" for change in found))


if __name__ == "__main__":
    sys.exit(main())
