"""Refinement of a measured size on TensorFlow."""

from ptycho_backends import RefinementConfig, compare, get_backend, load_scan


def test_the_fast_pace_reaches_what_ten_usual_passes_reach(shared):
    scan = load_scan(shared / "data" / "sim_n64_test.npz")
    usual, fast = (
        get_backend("tensorflow").refine(None, scan, config)
        for config in (RefinementConfig(passes=10), RefinementConfig(pace="fast"))
    )
    reached, found = (compare(image, scan).phase_correlation_ramp_removed for image in (usual, fast))
    assert found >= reached > 0.997
