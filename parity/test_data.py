"""Training batches of each framework are those of the shared NumPy code: every bit, every batch, in order."""

import dataclasses

import numpy as np
from hypothesis import given, settings

from ptycho_backends.registry import get_backend
from ptycho_backends.testing.scan_measurements import ScanCase
from ptycho_backends.testing.strategies import groups
from ptycho_backends.training.plan import plan_training


def expected(plan):
    """The batches of the first epoch in the layout of `Side.batches`."""
    for indices in plan.epoch_batches(1):
        batch = plan.gather(indices)
        arrays = {
            "diffraction": batch.diffraction_amplitude,
            "offsets": np.moveaxis(batch.relative_offsets_px[:, 0], -1, 1),
        }
        if batch.object_patches is not None:
            arrays["patches_truth"] = np.moveaxis(batch.object_patches, -1, 1)
            arrays["object_truth"] = batch.object_at_centre[..., 0]
        arrays |= {
            name: getattr(batch, name)
            for name in ("valid_pixels", "probe_index")
            if getattr(batch, name) is not None
        }
        yield arrays


def assert_same_batches(adapter, data, config):
    plan = plan_training(data, config, adapter.name)
    got = adapter.batches(get_backend(adapter.name).prepare(plan.groups, config))
    want = list(expected(plan))
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        assert set(one) == set(other)
        for name, array in other.items():
            assert one[name].dtype == array.dtype, name
            np.testing.assert_array_equal(one[name], array, err_msg=name)


@settings(max_examples=max(4, settings.default.max_examples // 4))
@given(data=groups())
def test_batches_of_unlabelled_training(adapter, data):
    case = ScanCase(gridsize=data.gridsize, seed=3)
    assert_same_batches(adapter, data, case.config)


@settings(max_examples=max(3, settings.default.max_examples // 8))
@given(data=groups())
def test_batches_with_ground_truth(adapter, data):
    case = ScanCase(gridsize=data.gridsize, supervised=True, seed=3)
    assert_same_batches(adapter, data, case.config)


def test_masks_and_probes_of_several_scans(adapter):
    case = ScanCase(gridsize=2, positions=10, probes=2, seed=3)
    data = case.data()
    assert data.probe_count == 2
    assert data.is_masked
    assert_same_batches(adapter, data, case.config)


def test_groups_formed_from_a_scan(adapter):
    case = ScanCase(gridsize=2, positions=14, seed=5)
    config = dataclasses.replace(case.config, n_groups=20, enable_oversampling=True, neighbor_pool_size=6)
    assert_same_batches(adapter, case.scan(), config)
