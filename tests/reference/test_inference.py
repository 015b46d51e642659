"""The reference's `infer` against the stitching that all backends share."""

import numpy as np
import pytest

from ptycho_backends.images.phase_agreement import agreed_phases
from ptycho_backends.images.reconstruct import reconstruct
from ptycho_backends.reference.inference import infer, object_patches
from ptycho_backends.testing.measurements import DOUBLE
from ptycho_backends.testing.verb_cases import VerbCase
from ptycho_backends.training.plan import inference_groups, plan_training

CASE = VerbCase(seed=1)


@pytest.mark.parametrize("agrees", [False, True])
def test_all_at_once_as_batch_after_batch(agrees):
    model = plan_training(CASE.data(), CASE.config, "torch", DOUBLE).start
    groups = inference_groups(model, CASE.shown_scan())
    patches = object_patches(model, groups.batch(intensity_scale=model.intensity_scale))
    assert patches.shape == (len(groups), CASE.N, CASE.N, 1)
    image, coverage, origin = infer(
        patches, groups.group_centres_px, 12, phases=agreed_phases if agrees else None
    )
    parts = [slice(0, 4), slice(4, 8), slice(8, len(groups))]
    fed = ((part, patches[part].astype(np.complex64)) for part in parts)
    want = reconstruct(fed, groups, CASE.N, 12, "torch", agree_on_phase=agrees)
    assert np.linalg.norm(image - want.object) < 1e-6 * np.linalg.norm(want.object)
    np.testing.assert_allclose(coverage, want.coverage, atol=1e-6)
    np.testing.assert_array_equal(origin, want.origin_px)
