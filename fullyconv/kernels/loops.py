"""The inner loops of the cross-entropy on the CPU.

A *slab* is the band of pixel rows between two rows of coarse cells; a *block* is `LANES` neighbouring columns of it.
The two coarse rows are expanded to the block's columns once; then every pixel row is a blend of the two, over
contiguous lanes that LLVM turns into vector instructions. No slab shares an output with another, so slabs run in any
order on any number of threads and the result has the same bits.

All arrays are C-contiguous; float32 unless a docstring says otherwise. `K` classes, `h x w` cells, `H x W` pixels.
"""

from typing import Any, NamedTuple

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


class Criterion(NamedTuple):
    """Which pixels count, and how much.

    Args:
        weight: The weight of each class, `(K,)`.
        ignore_index: The target value of pixels that do not count.
        smoothing: Label smoothing in [0, 1], float32.
    """

    weight: Array
    ignore_index: int
    smoothing: Any


class Layout(NamedTuple):
    """Where pixels lie between coarse scores.

    Args:
        starts: The first pixel row of each slab, `(h + 1,)` int64.
        row_shares, column_shares: The share of the lower and the right cell in each pixel row and column.
        left, right: The cells that each pixel column reads, uint32.
        read_shares: As `column_shares`, but a half where both cells are one: a pixel on a cell reads it twice, for an
            infinite neighbour times zero would be NaN.
    """

    starts: Array
    row_shares: Array
    column_shares: Array
    left: Array
    right: Array
    read_shares: Array


class Results(NamedTuple):
    """What the loops fill.

    Args:
        gradients: Zeros; becomes what each slab gives to its upper and lower coarse row, `(2, N, K, h, w)`; their sum
            is the gradient. Without images, `(2, 0, K, h, w)`, no gradient is computed.
        pixel_losses: Zeros; becomes the loss of each pixel, `(N, H, W)`. Without images, nobody asked for it.
        losses, masses: Zeros; become the summed loss and class weight of each slab, float64.
        illegal: Zeros; becomes the number of pixels of each slab that are neither a class nor ignored, int64.
    """

    gradients: Array
    pixel_losses: Array
    losses: Array
    masses: Array
    illegal: Array


class Block(NamedTuple):
    """The pixel columns `start` ... `stop - 1` of a slab, which lies between the coarse rows `row` and `below`."""

    image: int
    row: int
    below: int
    start: int
    stop: int


class Smoothing(NamedTuple):
    """What label smoothing takes from a pixel's own class and gives to all.

    Args:
        keep: The share of the target that it leaves to the own class.
        weight: The weight that it gives to each class, `(K,)`.
        spread: Their sum.
        wanted: Whether there is any.
    """

    keep: Any
    weight: Array
    spread: Any
    wanted: bool


class Rows(NamedTuple):
    """The scores or gradients of a block's pixel columns in each of its two coarse rows, `(K, LANES)`."""

    upper: Array
    lower: Array


class Pixels(NamedTuple):
    """What a row of a block's pixels asks for, lane by lane.

    Args:
        own: The class of each, uint32; 0 where it does not count.
        hot: The weight of that class.
        total: The weight of the pixel.
    """

    own: Array
    hot: Array
    total: Array


# The loops over classes stand inside the functions: slicing a class out of an array costs as much as 64 lanes of work.


@compiled
def expand(scores: Array, block: Block, layout: Layout, expanded: Rows) -> None:
    """Fills `expanded` with the scores of the two coarse rows, read at a block's pixels; lanes beyond become zero."""
    image, row, below, start, width = block.image, block.row, block.below, block.start, block.stop - block.start
    upper, lower, left, right, share = expanded.upper, expanded.lower, layout.left, layout.right, layout.read_shares
    for k in range(len(upper)):
        # Unsigned indices: signed ones would be tested for counting from the end, which takes as long as all the rest.
        source = np.uint32(k)
        for lane in range(width):
            x = np.uint32(start + lane)
            t = share[x]
            near, far = scores[image, source, row, left[x]], scores[image, source, row, right[x]]
            upper[k, lane] = near * (ONE - t) + far * t
            near, far = scores[image, source, below, left[x]], scores[image, source, below, right[x]]
            lower[k, lane] = near * (ONE - t) + far * t
        for lane in range(width, LANES):
            upper[k, lane] = lower[k, lane] = ZERO


@compiled
def blend(scores: Rows, t: Any, logits: Array) -> None:
    """Fills `logits` `(K, LANES)` with the pixel row at share `t` of the way from the upper row to the lower."""
    upper, lower, s = scores.upper, scores.lower, ONE - t
    for k in range(len(logits)):
        if t == ZERO:
            for lane in range(LANES):
                logits[k, lane] = upper[k, lane]
        else:
            for lane in range(LANES):
                logits[k, lane] = s * upper[k, lane] + t * lower[k, lane]


@compiled
def read_target(target: Array, criterion: Criterion, smoothing: Smoothing, pixels: Pixels) -> tuple[float, int, int]:
    """Fills `pixels` from up to LANES target values.

    Returns:
        The summed class weight, how many pixels count, and how many are neither a class nor ignored.
    """
    weight, ignore_index = criterion.weight, criterion.ignore_index
    keep, spread = smoothing.keep, smoothing.spread
    own, hot, total = pixels.own, pixels.hot, pixels.total
    mass, counted, illegal = 0.0, 0, 0
    for lane in range(LANES):
        own[lane] = 0
        hot[lane] = total[lane] = ZERO
    for lane in range(len(target)):
        value = target[lane]
        if value == ignore_index:
            continue
        if value < 0 or value >= len(weight):
            illegal += 1
            continue
        own[lane] = value
        hot[lane] = keep * weight[value]
        total[lane] = hot[lane] + spread
        mass += weight[value]
        counted += 1
    return mass, counted, illegal


@compiled
def softmax_loss(logits: Array, pixels: Pixels, smoothing: Smoothing, loss: Array, scale: Array) -> None:
    """Fills `loss` with the loss of a row of pixels, and turns `logits` into probabilities up to `scale`.

    Args:
        logits: `(K, LANES)`; becomes `total * softmax(logits) / scale`.
        pixels: From `read_target`.
        smoothing: Of the target.
        loss: Becomes the loss of each lane.
        scale: Becomes the factor of each lane.
    """
    own, hot, total = pixels.own, pixels.hot, pixels.total
    smooth, smoothed = smoothing.weight, smoothing.wanted
    highest, score = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    for lane in range(LANES):
        highest[lane] = logits[0, lane]
    for k in range(1, len(logits)):
        for lane in range(LANES):
            highest[lane] = logits[k, lane] if logits[k, lane] > highest[lane] else highest[lane]
    for lane in range(LANES):
        score[lane] = logits[own[lane], lane] if hot[lane] > ZERO else highest[lane]
    for lane in range(LANES):
        loss[lane] = scale[lane] = ZERO
    if smoothed:
        for k in range(len(logits)):
            for lane in range(LANES):
                loss[lane] += (highest[lane] - logits[k, lane]) * smooth[k] if total[lane] > ZERO else ZERO
    for k in range(len(logits)):
        for lane in range(LANES):
            power = exponential(logits[k, lane] - highest[lane])
            logits[k, lane] = power
            scale[lane] += power
    for lane in range(LANES):
        value = total[lane] * logarithm(scale[lane]) + hot[lane] * (highest[lane] - score[lane])
        loss[lane] += value if total[lane] > ZERO else ZERO
        scale[lane] = total[lane] / scale[lane]


@compiled
def add_gradient(powers: Array, scale: Array, t: Any, pixels: Pixels, smoothing: Smoothing, gradients: Rows) -> None:
    """Adds the gradient of the pixel row at share `t` to those of the two coarse rows; see `softmax_loss`."""
    upper, lower, s = gradients.upper, gradients.lower, ONE - t
    own, hot, total = pixels.own, pixels.hot, pixels.total
    smooth, smoothed = smoothing.weight, smoothing.wanted
    for k in range(len(powers)):
        for lane in range(LANES):
            gradient = powers[k, lane] * scale[lane]
            upper[k, lane] += s * gradient
            lower[k, lane] += t * gradient
    for lane in range(LANES):
        upper[own[lane], lane] -= s * hot[lane]
        lower[own[lane], lane] -= t * hot[lane]
    if smoothed:
        for k in range(len(powers)):
            for lane in range(LANES):
                gradient = smooth[k] if total[lane] > ZERO else ZERO
                upper[k, lane] -= s * gradient
                lower[k, lane] -= t * gradient


@compiled
def collect(rows: Rows, block: Block, layout: Layout, gradients: Array) -> None:
    """Adds the gradients of the two coarse rows at a block's pixels to those of their cells."""
    upper, lower, left, share = rows.upper, rows.lower, layout.left, layout.column_shares
    image, row, below, start, width = block.image, block.row, block.below, block.start, block.stop - block.start
    last = gradients.shape[4] - 1
    for k in range(len(upper)):
        lane = 0
        while lane < width:
            cell = left[start + lane]
            upper_near, upper_far, lower_near, lower_far = ZERO, ZERO, ZERO, ZERO
            while lane < width and left[start + lane] == cell:
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
    first: int, last: int, scores: Array, target: Array, criterion: Criterion, layout: Layout, results: Results
) -> None:
    """Fills the results of slabs first ... last - 1: the summed loss and its gradient.

    Slab i lies below coarse row `i % h` of image `i // h`.

    Args:
        scores: `(N, K, h, w)`.
        target: `(N, H, W)` int64.
        criterion: Of all pixels.
        layout: Of the slabs of one image.
        results: Of all slabs.
    """
    classes, cell_rows = scores.shape[1:3]
    width, shape = target.shape[2], (classes, LANES)
    gradients, pixel_losses, losses, masses, illegal = results
    wanted, kept = gradients.shape[1] > 0, len(pixel_losses) > 0
    smooth = criterion.weight * (criterion.smoothing / np.float32(classes))
    smoothing = Smoothing(ONE - criterion.smoothing, smooth, spread=smooth.sum(), wanted=criterion.smoothing > ZERO)
    expanded = Rows(np.empty(shape, np.float32), np.empty(shape, np.float32))
    to_expanded = Rows(np.empty(shape, np.float32), np.empty(shape, np.float32))
    pixels = Pixels(np.empty(LANES, np.uint32), hot=np.empty(LANES, np.float32), total=np.empty(LANES, np.float32))
    logits, scale = np.empty(shape, np.float32), np.empty(LANES, np.float32)
    loss, row_loss = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    for slab in range(first, last):
        image, row = slab // cell_rows, slab % cell_rows
        for start in range(0, width, LANES):
            block = Block(image, row, min(row + 1, cell_rows - 1), start, stop=min(start + LANES, width))
            expand(scores, block, layout, expanded)
            to_expanded.upper.fill(ZERO)
            to_expanded.lower.fill(ZERO)
            loss.fill(ZERO)
            for y in range(layout.starts[row], layout.starts[row + 1]):
                mass, counted, unknown = read_target(target[image, y, start : block.stop], criterion, smoothing, pixels)
                masses[slab] += mass
                illegal[slab] += unknown
                if counted == 0:
                    continue
                t = layout.row_shares[y]
                blend(expanded, t, logits)
                softmax_loss(logits, pixels, smoothing, row_loss, scale)
                for lane in range(LANES):
                    loss[lane] += row_loss[lane]
                if kept:
                    for x in range(start, block.stop):
                        pixel_losses[image, y, x] = row_loss[x - start]
                if wanted:
                    add_gradient(logits, scale, t, pixels, smoothing, to_expanded)
            for lane in range(LANES):
                losses[slab] += loss[lane]
            if wanted:
                collect(to_expanded, block, layout, gradients)
