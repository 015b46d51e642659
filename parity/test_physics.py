"""Every function of `physics` on each framework against the reference, in both precisions; and its laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptycho_backends.config import ModelConfig
from ptycho_backends.reference import physics as reference
from ptycho_backends.reference.probe import orthogonal_modes
from ptycho_backends.testing.agreement import assert_agrees
from ptycho_backends.testing.strategies import complex_arrays, images, model_configs, offsets, real_arrays

PRECISIONS = pytest.mark.parametrize("precision", ["float64", "float32"])


def compare(adapter, stage, precision, *arguments):
    want = getattr(reference, stage)(*arguments)
    got = adapter.call(f"physics.{stage}", *arguments, precision=precision)
    pairs = zip(got, want, strict=True) if isinstance(want, tuple) else [(got, want)]
    for number, (one, other) in enumerate(pairs):
        assert_agrees(f"{adapter.name}: {stage}, result {number}", one, other, f"stages, {precision}")


@PRECISIONS
@given(image=images((2,)), offset=offsets((2,)))
def test_translate(adapter, precision, image, offset):
    compare(adapter, "translate", precision, image, offset)
    compare(adapter, "translate", precision, image.real.copy(), offset)


@PRECISIONS
@given(image=images(), more=st.integers(0, 5))
def test_pad_and_crop(adapter, precision, image, more):
    compare(adapter, "pad_centre", precision, image, image.shape[-1] + more)
    compare(adapter, "crop_centre", precision, image, max(1, image.shape[-1] - more))


@PRECISIONS
@given(data=st.data(), count=st.sampled_from([1, 4, 9]), more=st.integers(0, 7))
def test_merge_patches(adapter, precision, data, count, more):
    patches = data.draw(images((2, count), sides=(4, 8)))
    offset = data.draw(offsets((2, count), largest_px=4))
    compare(adapter, "merge_patches", precision, patches, offset, patches.shape[-1] + more)


@PRECISIONS
@given(data=st.data(), count=st.sampled_from([1, 4]), less=st.integers(0, 5))
def test_canvas_views(adapter, precision, data, count, less):
    canvas = data.draw(images((2,), sides=(8, 9)))
    offset = data.draw(offsets((2, count)))
    compare(adapter, "canvas_views", precision, canvas, offset, canvas.shape[-1] - less)


@PRECISIONS
@given(wave=images((2,)), sigma=st.sampled_from([0.3, 0.5, 1.0, 2.5]))
def test_smooth_exit_wave(adapter, precision, wave, sigma):
    compare(adapter, "smooth_exit_wave", precision, wave, sigma)


@PRECISIONS
@given(wave=images((2,)))
def test_diffraction_amplitude(adapter, precision, wave):
    compare(adapter, "diffraction_amplitude", precision, wave)


def small(config: ModelConfig) -> ModelConfig:
    """The same switches on patterns of 8 pixels, which the physics does not mind and networks would."""
    config.N = 8
    return config


@PRECISIONS
@given(data=st.data(), config=model_configs(N=64))
def test_exit_waves(adapter, precision, data, config):
    views, probe = data.draw(complex_arrays((2, 3, 8, 8))), data.draw(complex_arrays((8, 8)))
    compare(adapter, "exit_waves", precision, views, probe, small(config))


@PRECISIONS
@given(data=st.data(), config=model_configs(N=64), leading=st.sampled_from([(1,), (3,), (2, 2)]))
def test_exit_waves_of_modes(adapter, precision, data, config, leading):
    views, probe = data.draw(complex_arrays((2, 3, 8, 8))), data.draw(complex_arrays((*leading, 8, 8)))
    compare(adapter, "exit_waves", precision, views, probe, small(config))


@PRECISIONS
@given(probe=complex_arrays((3, 2, 8, 8)), index=st.lists(st.integers(0, 2), min_size=1, max_size=5))
def test_chosen_probe(adapter, precision, probe, index):
    for several in (probe, probe[0], probe[0, 0]):
        compare(adapter, "chosen_probe", precision, several, np.array(index, np.int32))
        compare(adapter, "chosen_probe", precision, several, None)


@PRECISIONS
@given(amplitudes=real_arrays((2, 3, 2, 4, 4)))
def test_summed_amplitude(adapter, precision, amplitudes):
    compare(adapter, "summed_amplitude", precision, np.abs(amplitudes))


@PRECISIONS
@given(data=st.data(), config=model_configs(N=64, gridsize=2), shape=st.sampled_from([(2,), (3, 1), (2, 3)]))
def test_predict_diffraction_of_modes_and_probes(adapter, precision, data, config, shape):
    patches = data.draw(complex_arrays((2, config.patch_channels, 8, 8)))
    offset = data.draw(offsets((2, 4), largest_px=5))
    probe, log_scale = data.draw(complex_arrays((*shape, 8, 8))), data.draw(real_arrays(()))
    index = np.array([1, 0], np.int32) if len(shape) > 1 else None
    arguments = (patches, offset, probe, log_scale, small(config), index)
    compare(adapter, "predict_diffraction", precision, *arguments)


@PRECISIONS
@given(data=st.data(), config=model_configs(N=64, gridsize=2))
def test_predict_diffraction(adapter, precision, data, config):
    patches = data.draw(complex_arrays((2, config.patch_channels, 8, 8)))
    offset = data.draw(offsets((2, 4), largest_px=5))
    probe, log_scale = data.draw(complex_arrays((8, 8))), data.draw(real_arrays(()))
    compare(adapter, "predict_diffraction", precision, patches, offset, probe, log_scale, small(config))


# --- laws: true whoever computes it


@given(data=st.data())
def test_unitary_mixing_of_modes_changes_nothing(adapter, data):
    views, modes = data.draw(complex_arrays((1, 2, 8, 8))), data.draw(complex_arrays((3, 8, 8)))
    config = small(ModelConfig(N=64))

    def amplitude(probe):
        waves = adapter.call("physics.exit_waves", views, probe, config)
        return adapter.call("physics.summed_amplitude", adapter.call("physics.diffraction_amplitude", waves))

    mixed = orthogonal_modes(modes)
    assert_agrees("amplitude", amplitude(mixed), amplitude(modes), "laws, float64")


@given(wave=images((2,)))
def test_diffraction_keeps_the_energy(adapter, wave):
    amplitude = adapter.call("physics.diffraction_amplitude", wave)
    assert_agrees("energy", (amplitude**2).sum(), (np.abs(wave) ** 2).sum(), "laws, float64")


@given(wave=images(sides=(6, 10)), shift=st.integers(-3, 3))
def test_diffraction_ignores_where_the_wave_is(adapter, wave, shift):
    moved = adapter.call("physics.diffraction_amplitude", np.roll(wave, shift, axis=(0, 1)))
    assert_agrees("amplitude", moved, adapter.call("physics.diffraction_amplitude", wave), "laws, float64")


@given(data=st.data(), offset=offsets((2,)))
def test_translation_back_is_the_adjoint(adapter, data, offset):
    image = data.draw(images((2,), sides=(6,)))
    other = data.draw(images((2,), sides=(6,)))
    there = np.vdot(other, adapter.call("physics.translate", image, offset))
    back = np.vdot(adapter.call("physics.translate", other, -offset), image)
    scale = np.linalg.norm(image) * np.linalg.norm(other) or 1.0
    assert abs(there - back) <= 1e-13 * scale


@given(image=images(sides=(6,)), shift=st.tuples(st.integers(-7, 7), st.integers(-7, 7)))
def test_whole_pixels_are_moved_unchanged(adapter, image, shift):
    right, down = shift
    want = np.zeros((20, 20), complex)
    want[7 + down : 13 + down, 7 + right : 13 + right] = image
    got = adapter.call("physics.translate", image, np.array([right, down], float))
    np.testing.assert_array_equal(got, want[7:13, 7:13])


@given(data=st.data(), offset=offsets((1, 4), largest_px=1))
def test_patches_of_one_object_merge_to_that_object(adapter, data, offset):
    """Cut from a smooth object at the group's positions and merged, patches give the object again."""
    N, S = 16, 24
    centred = offset - offset.mean(axis=1, keepdims=True)
    y, x = np.mgrid[:S, :S] - (S - 1) / 2
    slopes = data.draw(real_arrays((3,)))
    plane = slopes[0] + slopes[1] * x + slopes[2] * y + 0j  # bilinear sampling of a plane is exact
    views = adapter.call("physics.canvas_views", plane[None], centred, N)
    box = reference.central_box(N)
    merged = adapter.call("physics.merge_patches", views * box, centred, S)
    overlap = reference.translate(reference.pad_centre(box, S), -centred).sum(axis=1)
    inside = np.zeros((1, S, S), bool)
    inside[:, S // 2 - 2 : S // 2 + 2, S // 2 - 2 : S // 2 + 2] = True
    want = plane * overlap / (overlap + 1e-3)
    error = np.abs(np.where(inside, merged - want, 0)).max()
    assert error <= 1e-12 * max(np.abs(plane).max(), 1.0)
