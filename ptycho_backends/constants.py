"""Every number of the model, named, with its reason. Backends import them from here."""

# Patterns whose side the network has an architecture for.
SUPPORTED_N = (64, 128, 256)

# The network `unrolled` takes patterns of any even side from here on.
SMALLEST_SIDE = 16

# Filters per block for n_filters_scale = 1: encoder, decoder, border branch. The encoder always ends
# at 8 x 8 pixels; the decoder stops at N/2, the width of the padded object.
ENCODER_FILTERS = {64: (32, 64, 128), 128: (16, 32, 64, 128), 256: (8, 16, 32, 64, 128)}
DECODER_FILTERS = {64: (64, 32), 128: (128, 64, 32), 256: (256, 128, 64, 32)}
BORDER_FILTERS = {64: 32, 128: 16, 256: 8}

# Feature channels that `pad_object` sets aside for the border of the object in the network `cnn`.
BORDER_CHANNELS = 4

# CBAM (Woo et al. 2018): the channels' perceptron is this much narrower than the image is deep, but no
# narrower than four: with one hidden ReLU, half of all first weights would be dead. Side of the kernel
# that looks over pixels.
CBAM_REDUCTION = 16
CBAM_SMALLEST_WIDTH = 4
CBAM_SPATIAL_SIDE = 7

# Batch normalisation: added to the variance; and the fraction of a running value that each batch replaces.
BATCH_NORM_EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.1

# Added to the overlap count of a group's patches. It is as large as 1e-3 because trained models know
# it: the uncovered border of the canvas is divided by this alone.
OVERLAP_FLOOR = 1e-3

# Lower bound of the predicted intensity inside the logarithm of the Poisson likelihood.
INTENSITY_FLOOR = 1e-12

# Default room, in pixels, that the canvas of a group leaves around one patch.
DEFAULT_OFFSET_PX = 4
DEFAULT_MAX_POSITION_JITTER_PX = 10

# Added to the number of patches over a pixel when stitching, so that bare pixels come out as zero.
STITCHING_FLOOR = 1e-9

# Side of the central square of a patch that stitching uses.
DEFAULT_STITCHING_SIZE = 20

# Default probe: half-maximum disk of a Gaussian window, edge smoothed by one pixel, nowhere zero.
DEFAULT_PROBE_SCALE = 0.7
DEFAULT_PROBE_EDGE_PX = 1.0
DEFAULT_PROBE_FLOOR = 1e-9

# Adam, as Kingma and Ba state it (Algorithm 1), with the legacy package's epsilon.
ADAM_BETA1 = 0.9
ADAM_BETA2 = 0.999
ADAM_EPSILON = 1e-7

# --- refinement (docs/refinement.md); one set of numbers, chosen on simulated and real scans

# Nesterov's momentum of object and probe.
REFINEMENT_MOMENTUM = 0.8
PROBE_MOMENTUM = 0.8

# Damping of the illumination's metric, over its maximum.
OBJECT_DAMPING = 0.1

# Damping of the object's intensity in the probe's metric, and length of the probe's steps.
PROBE_DAMPING = 0.2
PROBE_STEP = 0.7

# Added to predicted amplitudes, in roots of counts, and to predicted counts before dividing by them. The phase of a
# fainter amplitude is rounding: float32 leaves 1e-5 where a focused probe's far field is exactly dark.
MODULUS_FLOOR = 1e-3
POISSON_FLOOR = 0.1

# Amplitudes whose counts are many enough for their root to have the variance 1/4.
BRIGHT_AMPLITUDE = 2.0

# Differences of neighbouring pixels beyond this are edges, which the smoothness prior does not flatten.
EDGE = 0.1

# Strength of the smoothness prior, times the root of the photons per object pixel.
SMOOTHNESS = 3.0

# The metric of slow phases: its strength and its largest gain; the photons per object pixel below which it weakens;
# the light and the object's intensity below which it fades.
SLOW_STRENGTH = 2.5
SLOW_GAIN_LIMIT = 30.0
SLOW_DOSE = 20.0
LOW_LIGHT = 0.05
DARK_OBJECT = 0.1

# Damping and slow metric of the fast pace, learned on scans that train networks (benchmarks/pace.py);
# and the positions below which they overshoot.
FAST_OBJECT_DAMPING = 0.05
FAST_SLOW_STRENGTH = 40.0
FAST_SLOW_GAIN_LIMIT = 200.0
FAST_FROM_POSITIONS = 250

# Keeps sums that may be empty from being divided by zero.
REFINEMENT_FLOOR = 1e-6

# Slow phases are trusted less where the model does not fit: where bright pixels leave more than this fraction of the
# energy beyond the Poisson floor, or more than this over that floor; with this power.
TRUSTED_EXCESS = 0.0015
TRUSTED_MISFIT = 0.35
TRUST_POWER = 4.0

# Positions: damping of their normal equations; length of their steps, which is above 1 because residuals of amplitudes
# carry about half of the exit wave's curvature; and their longest step in pixels.
POSITION_DAMPING = 0.1
POSITION_STEP = 1.5
POSITION_STEP_LIMIT_PX = 0.5

# --- the network `unrolled` (docs/model.md, section 4); chosen on simulated and real scans

# Of the steps on a group's canvas: Nesterov's momentum; damping of the metric, over the brightest pixel; strength of
# the metric of slow phases, and its largest gain. Stronger than for a whole scan, because there are few steps.
GROUP_MOMENTUM = 0.9
GROUP_DAMPING = 0.05
GROUP_SLOW_STRENGTH = 10.0
GROUP_SLOW_GAIN_LIMIT = 200.0

# Steps of every round but the first.
LATER_STEPS = 2

# Views end at least so many pixels before the canvas does: the pixel after the last one is interpolated with.
CANVAS_RIM = 1.001

# Smallest share of a pattern's energy that is taken for valid, where pixels are masked.
LEAST_SHARE = 0.01

# The network sees log(1 + 10 x) of the light x over the brightest, because faint light differs most in quality.
LIGHT_CONTRAST = 10.0

# Side of the tiles in which a whole scan's canvas is corrected, and pixels around each that its result depends on; both
# multiples of 4.
TILE_PX = 512
TILE_MARGIN_PX = 24

# Filters of the correction's levels for n_filters_scale = 1.
UNET_FILTERS = (8, 16, 32)
