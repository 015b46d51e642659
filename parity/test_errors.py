"""The same mistake is refused by every backend, by the same error with the same text."""

import dataclasses

import pytest

from ptycho_backends.errors import ArchiveError
from ptycho_backends.testing.contract import BAD_CONFIGURATIONS, SCANS, changed
from ptycho_backends.testing.measurements import SINGLE

BAD_EXECUTIONS = (
    {"accelerator": "tpu"},
    {"precision": "8-true"},
    {"learning_rate": -1.0},
    {"accum_steps": 0},
)


def refusal(function, *arguments, **options):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - that they are the same is the point
        function(*arguments, **options)
    return type(caught.value), str(caught.value)


def assert_refused_alike(refusals):
    (kind, text), *others = refusals
    assert issubclass(kind, ValueError), kind
    assert all(other == (kind, text) for other in others), refusals


@pytest.mark.parametrize("changes", BAD_CONFIGURATIONS, ids=repr)
def test_bad_configuration(backends, changes):
    scan, config = SCANS[0].scan(), changed(SCANS[0].config, changes)
    assert_refused_alike([refusal(b.complete_config, config, scan) for b in backends.values()])
    assert_refused_alike([refusal(b.train, scan, config, execution=SINGLE) for b in backends.values()])


@pytest.mark.parametrize("changes", BAD_EXECUTIONS, ids=repr)
def test_bad_execution(backends, changes):
    execution = dataclasses.replace(SINGLE)
    for name, value in changes.items():
        setattr(execution, name, value)
    scan, config = SCANS[0].scan(), SCANS[0].config
    assert_refused_alike([refusal(b.train, scan, config, execution=execution) for b in backends.values()])


def test_missing_truth(backends):
    scan = dataclasses.replace(SCANS[1].scan(), object_guess=None, object_mask=None)
    assert_refused_alike(
        [refusal(b.train, scan, SCANS[1].config, execution=SINGLE) for b in backends.values()]
    )


def test_too_few_positions(backends):
    config = changed(SCANS[0].config, {"n_groups": 500})
    scan = SCANS[0].scan()
    assert_refused_alike([refusal(b.train, scan, config, execution=SINGLE) for b in backends.values()])


def test_not_an_archive(backends, tmp_path):
    path = tmp_path / "wts.h5.zip"
    path.write_bytes(b"not a zip")
    refusals = [refusal(b.load, path) for b in backends.values()]
    assert_refused_alike(refusals)
    assert refusals[0][0] is ArchiveError


def test_resuming_another_model(backends):
    scan = SCANS[0].scan()
    short = dataclasses.replace(SCANS[0].config, nepochs=1)
    first = next(iter(backends.values()))
    model = first.train(scan, short, execution=SINGLE)
    other = changed(short, {"model.amp_activation": "relu", "nepochs": 2})
    assert_refused_alike(
        [refusal(b.train, scan, other, execution=SINGLE, resume_from=model) for b in backends.values()]
    )
