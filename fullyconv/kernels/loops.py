"""The inner loops of the cross-entropy on the CPU.

A *slab* is the band of pixel rows between two rows of coarse cells; a *block* is `LANES` neighbouring columns of it.
The two coarse rows are expanded to the block's columns once; then every pixel row is a blend of the two, over
contiguous lanes that LLVM turns into vector instructions. No slab shares an output with another, so slabs run in any
order on any number of threads and the result has the same bits.

All arrays are C-contiguous; float32 unless a docstring says otherwise. `K` classes, `h x w` cells, `H x W` pixels.
"""

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types

from fullyconv.kernels.compiling import Array, compiled, compiled_once, instruction

LANES = 64
"""Columns of a block. 32, 64 and 128 are as fast for 11, 21 and 150 classes; 16 takes twice the time."""

ZERO, ONE = np.float32(0), np.float32(1)


# Exponential and logarithm from multiplications and additions only, so that the loops around them vectorise: numba
# finds a vector library (SVML) on few machines. Coefficients: least squares on Chebyshev nodes.


@instruction
def _times_power_of_two(context: Any, number: Any, shifted: Any) -> Any:
    """`number * 2**n`, where `shifted` is `n + 1.5 * 2**23`, so that n stands in the lowest bits of its mantissa."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integer = ir.IntType(32)
        bits, power = (builder.bitcast(argument, integer) for argument in arguments)
        return builder.bitcast(builder.add(bits, builder.shl(power, ir.Constant(integer, 23))), ir.FloatType())

    return types.float32(types.float32, types.float32), generate


_SQRT_HALF_BITS = 0x3F3504F3


@instruction
def _exponent(context: Any, number: Any) -> Any:
    """The n for which `number / 2**n` lies in [sqrt(1/2), sqrt(2))."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integer = ir.IntType(32)
        bits = builder.sub(builder.bitcast(arguments[0], integer), ir.Constant(integer, _SQRT_HALF_BITS))
        return builder.sitofp(builder.ashr(bits, ir.Constant(integer, 23)), ir.FloatType())

    return types.float32(types.float32), generate


@instruction
def _mantissa(context: Any, number: Any) -> Any:
    """`number / 2**_exponent(number)`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integer = ir.IntType(32)
        bits = builder.bitcast(arguments[0], integer)
        power = builder.sub(bits, ir.Constant(integer, _SQRT_HALF_BITS))
        power = builder.and_(power, ir.Constant(integer, -(1 << 23)))
        return builder.bitcast(builder.sub(bits, power), ir.FloatType())

    return types.float32(types.float32), generate


LOG2_E, LN_2 = np.float32(1 / np.log(2)), np.float32(np.log(2))
ROUND = np.float32(1.5 * 2**23)
LOWEST = np.float32(-87)
E2, E3, E4, E5, E6 = np.array([0.49999991, 0.16666421, 0.04166836, 0.0083747711, 0.0013829421], np.float32)
L1, L2, L3, L4 = np.array([-0.50000376, 0.3333455, -0.24968781, 0.19915003], np.float32)
L5, L6, L7 = np.array([-0.17281653, 0.16114168, -0.098687857], np.float32)


@compiled
def exponential(x: Any) -> Any:
    """e**x for x <= 0, to a relative 2e-7 above -20 and 4e-7 below; constant below -87. NaN stays NaN."""
    x = LOWEST if x < LOWEST else x
    shifted = x * LOG2_E + ROUND
    rest = x - (shifted - ROUND) * LN_2
    series = (((((E6 * rest + E5) * rest + E4) * rest + E3) * rest + E2) * rest + ONE) * rest + ONE
    return _times_power_of_two(series, shifted)


@compiled
def logarithm(x: Any) -> Any:
    """ln x for finite x >= 1, within 2e-7 of the value or of 1, whichever is larger. NaN stays NaN."""
    f = _mantissa(x) - ONE
    series = ((((((L7 * f + L6) * f + L5) * f + L4) * f + L3) * f + L2) * f + L1) * f + ONE
    return series * f + _exponent(x) * LN_2 + (x - x)


# The loops over classes stand inside the functions: slicing a class out of an array costs as much as 64 lanes of work.


@compiled
def expand(
    scores: Array,
    image: int,
    row: int,
    classes: Array,
    left: Array,
    right: Array,
    share: Array,
    start: int,
    stop: int,
    expanded: Array,
) -> None:
    """Fills the first rows of `expanded` `(K, LANES)` with a coarse row of some classes, read at a block's pixels.

    Args:
        scores: `(N, K, h, w)`.
        image, row: Which coarse row.
        classes: Which classes, one for each row of `expanded` that is filled.
        left, right, share: The cells that each pixel column reads, and the share of the right one.
        start, stop: The block's first pixel column and the one after its last; lanes beyond become zero.
    """
    for k in range(len(classes)):
        # Unsigned indices: signed ones would be tested for counting from the end, which takes as long as all the rest.
        source = np.uint32(classes[k])
        for lane in range(stop - start):
            x = np.uint32(start + lane)
            t = share[x]
            near, far = scores[image, source, row, left[x]], scores[image, source, row, right[x]]
            expanded[k, lane] = near * (ONE - t) + far * t
        for lane in range(stop - start, LANES):
            expanded[k, lane] = ZERO


@compiled
def blend(upper: Array, lower: Array, t: Any, blended: Array) -> None:
    """Fills `blended` with the pixel row at share `t` of the way from `upper` to `lower`, all `(K, LANES)`."""
    s = ONE - t
    for k in range(len(blended)):
        if t == ZERO:
            for lane in range(LANES):
                blended[k, lane] = upper[k, lane]
        else:
            for lane in range(LANES):
                blended[k, lane] = s * upper[k, lane] + t * lower[k, lane]


@compiled
def read_target(
    target: Array, ignore_index: int, weight: Array, keep: Any, spread: Any, classes: Array, hot: Array, total: Array
) -> tuple[float, int, int]:
    """What a row of target pixels asks for, lane by lane; changes the last three arguments.

    Args:
        target: Up to LANES int64 values.
        weight: The weight of each class.
        keep: The share of the target that label smoothing leaves to the pixel's own class.
        spread: The weight that label smoothing gives to all classes together.
        classes: Becomes the class of each lane, uint32; 0 for a lane that does not count.
        hot: Becomes the weight of the lane's own class.
        total: Becomes the weight of the lane.

    Returns:
        The summed class weight, how many pixels count, and how many are neither a class nor ignored.
    """
    mass, counted, illegal = 0.0, 0, 0
    for lane in range(LANES):
        classes[lane] = 0
        hot[lane] = total[lane] = ZERO
    for lane in range(len(target)):
        value = target[lane]
        if value == ignore_index:
            continue
        if value < 0 or value >= len(weight):
            illegal += 1
            continue
        classes[lane] = value
        hot[lane] = keep * weight[value]
        total[lane] = hot[lane] + spread
        mass += weight[value]
        counted += 1
    return mass, counted, illegal


@compiled
def softmax_loss(
    logits: Array, classes: Array, hot: Array, total: Array, smooth: Array, smoothed: bool, loss: Array, scale: Array
) -> None:
    """Adds the loss of a row of pixels to `loss`, and turns `logits` into probabilities up to `scale`.

    Args:
        logits: `(K, LANES)`; becomes `total * softmax(logits) / scale`.
        classes, hot, total: From `read_target`.
        smooth: The weight that label smoothing gives to each class.
        smoothed: Whether any of them is not zero.
        loss: The loss of each lane so far.
        scale: Becomes the factor of each lane.
    """
    highest, own = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    for lane in range(LANES):
        highest[lane] = logits[0, lane]
    for k in range(1, len(logits)):
        for lane in range(LANES):
            highest[lane] = logits[k, lane] if logits[k, lane] > highest[lane] else highest[lane]
    for lane in range(LANES):
        own[lane] = logits[classes[lane], lane] if hot[lane] > ZERO else highest[lane]
    if smoothed:
        for k in range(len(logits)):
            for lane in range(LANES):
                loss[lane] += (highest[lane] - logits[k, lane]) * smooth[k] if total[lane] > ZERO else ZERO
    for lane in range(LANES):
        scale[lane] = ZERO
    for k in range(len(logits)):
        for lane in range(LANES):
            power = exponential(logits[k, lane] - highest[lane])
            logits[k, lane] = power
            scale[lane] += power
    for lane in range(LANES):
        value = total[lane] * logarithm(scale[lane]) + hot[lane] * (highest[lane] - own[lane])
        loss[lane] += value if total[lane] > ZERO else ZERO
        scale[lane] = total[lane] / scale[lane]


@compiled
def add_gradient(
    powers: Array,
    scale: Array,
    t: Any,
    classes: Array,
    hot: Array,
    total: Array,
    smooth: Array,
    smoothed: bool,
    upper: Array,
    lower: Array,
) -> None:
    """Adds a pixel row's gradient to those of the two expanded coarse rows, `upper` and `lower`, `(K, LANES)`."""
    s = ONE - t
    for k in range(len(powers)):
        for lane in range(LANES):
            gradient = powers[k, lane] * scale[lane]
            upper[k, lane] += s * gradient
            lower[k, lane] += t * gradient
    for lane in range(LANES):
        upper[classes[lane], lane] -= s * hot[lane]
        lower[classes[lane], lane] -= t * hot[lane]
    if smoothed:
        for k in range(len(powers)):
            for lane in range(LANES):
                gradient = smooth[k] if total[lane] > ZERO else ZERO
                upper[k, lane] -= s * gradient
                lower[k, lane] -= t * gradient


@compiled
def collect(
    upper: Array,
    lower: Array,
    left: Array,
    share: Array,
    start: int,
    stop: int,
    gradients: Array,
    image: int,
    row: int,
    below: int,
) -> None:
    """Adds the gradients of a block's pixels, `(K, LANES)`, to those of the coarse rows `row` and `below`."""
    last = gradients.shape[4] - 1
    for k in range(len(upper)):
        lane = 0
        while lane < stop - start:
            cell = left[start + lane]
            upper_near, upper_far, lower_near, lower_far = ZERO, ZERO, ZERO, ZERO
            while lane < stop - start and left[start + lane] == cell:
                t = share[start + lane]
                s = ONE - t
                upper_near += s * upper[k, lane]
                upper_far += t * upper[k, lane]
                lower_near += s * lower[k, lane]
                lower_far += t * lower[k, lane]
                lane += 1
            beside = min(cell + 1, last)
            gradients[0, image, k, row, cell] += upper_near
            gradients[0, image, k, row, beside] += upper_far
            if below > row:  # under the last row the shares are zero, and that row belongs to the slab above
                gradients[1, image, k, below, cell] += lower_near
                gradients[1, image, k, below, beside] += lower_far


@compiled_once
def cross_entropy_slabs(
    first: int,
    last: int,
    scores: Array,
    target: Array,
    weight: Array,
    ignore_index: int,
    smoothing: Any,
    slab_starts: Array,
    row_shares: Array,
    left: Array,
    right: Array,
    read_shares: Array,
    column_shares: Array,
    gradients: Array,
    pixel_losses: Array,
    losses: Array,
    masses: Array,
    illegal: Array,
) -> None:
    """The summed loss and its gradient of slabs first ... last - 1.

    Slab i lies below coarse row `i % h` of image `i // h`.

    Args:
        scores: `(N, K, h, w)`.
        target: `(N, H, W)` int64.
        weight: The weight of each class, `(K,)`.
        smoothing: Label smoothing in [0, 1], float32.
        slab_starts: The first pixel row of each slab, `(h + 1,)` int64.
        row_shares, column_shares: The share of the lower and the right cell in each pixel row and column.
        left, right: The cells that each pixel column reads, uint32.
        read_shares: As `column_shares`, but a half where both cells are one: a pixel on a cell reads it twice, for an
            infinite neighbour times zero would be NaN.
        gradients: Zeros; becomes what each slab gives to its upper and lower coarse row, `(2, N, K, h, w)`; their sum
            is the gradient. Without images, `(2, 0, K, h, w)`, no gradient is computed.
        pixel_losses: Zeros; becomes the loss of each pixel, `(N, H, W)`. Without images, nobody asked for it.
        losses, masses: Become the summed loss and class weight of each slab, float64.
        illegal: Becomes the number of pixels of each slab that are neither a class nor ignored, int64.
    """
    classes, cell_rows = scores.shape[1:3]
    width = target.shape[2]
    wanted, kept, smoothed = gradients.shape[1] > 0, len(pixel_losses) > 0, smoothing > ZERO
    smooth = weight * (smoothing / np.float32(classes))
    spread, keep = smooth.sum(), ONE - smoothing
    upper, lower = np.empty((classes, LANES), np.float32), np.empty((classes, LANES), np.float32)
    to_upper, to_lower = np.empty((classes, LANES), np.float32), np.empty((classes, LANES), np.float32)
    logits = np.empty((classes, LANES), np.float32)
    all_classes, own = np.arange(classes), np.empty(LANES, np.uint32)
    hot, total = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    loss, scale = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    row_loss = np.empty(LANES, np.float32)
    for slab in range(first, last):
        image, row = slab // cell_rows, slab % cell_rows
        below = min(row + 1, cell_rows - 1)
        for start in range(0, width, LANES):
            stop = min(start + LANES, width)
            expand(scores, image, row, all_classes, left, right, read_shares, start, stop, upper)
            expand(scores, image, below, all_classes, left, right, read_shares, start, stop, lower)
            to_upper.fill(ZERO)
            to_lower.fill(ZERO)
            loss.fill(ZERO)
            for y in range(slab_starts[row], slab_starts[row + 1]):
                pixels = target[image, y, start:stop]
                mass, counted, unknown = read_target(pixels, ignore_index, weight, keep, spread, own, hot, total)
                masses[slab] += mass
                illegal[slab] += unknown
                if counted == 0:
                    continue
                t = row_shares[y]
                blend(upper, lower, t, logits)
                row_loss.fill(ZERO)
                softmax_loss(logits, own, hot, total, smooth, smoothed, row_loss, scale)
                for lane in range(LANES):
                    loss[lane] += row_loss[lane]
                if kept:
                    for x in range(start, stop):
                        pixel_losses[image, y, x] = row_loss[x - start]
                if wanted:
                    add_gradient(logits, scale, t, own, hot, total, smooth, smoothed, to_upper, to_lower)
            for lane in range(LANES):
                losses[slab] += loss[lane]
            if wanted:
                collect(to_upper, to_lower, left, column_shares, start, stop, gradients, image, row, below)
