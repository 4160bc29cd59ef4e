"""The kernels on a GPU, in Triton. Tested in Triton's interpreter on the CPU; never yet timed, or run, on a GPU.

As on the CPU, full-size logits are never stored, and every result has the same bits each time: no sum of floating-point
numbers depends on an order. The loss keeps two numbers per pixel for the gradient, which each coarse cell then gathers
from the pixels that read it, computing their logits again.
"""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int64, Integer, Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable

from fullyconv.geometry import Grid
from fullyconv.kernels.criterion import Criterion
from fullyconv.kernels.reference import count_pairs, label_dtype
from fullyconv.kernels.taps import Taps, taps

__all__ = ["count_pairs", "pixel_losses", "summed_cross_entropy", "upsample_argmax", "upsample_confusion"]

PIXELS = 128
"""Neighbouring pixels that one program of a forward kernel works on."""

COLUMNS, CLASSES = 32, 16
"""Pixel columns and classes that a program of the gradient's kernel works on at a time."""


def kernel(function: Callable[..., Any]) -> Any:
    """The function as a Triton kernel, without the run-time type checks that the tests wrap around it."""
    return triton.jit(inspect.unwrap(function))


# Pointers and offsets, as Triton writes them: `scores` (N, K, h, w) float32; for each pixel row, `tops` and `bottoms`
# are the cells that it reads, int32, and `row_shares` the shares of the lower one, float32; for each pixel column
# `lefts`, `rights` and `column_shares`. Offsets within a plane of scores fit into int32; those between planes need not.


@kernel
def _weigh(near, far, share):  # type: ignore[no-untyped-def]
    return near * (1 - share) + far * share


@kernel
def _blend(plane, top, bottom, row_share, left, right, column_share, width, counted):  # type: ignore[no-untyped-def]
    """The scores of one class at some pixels."""
    upper_left = tl.load(plane + top * width + left, mask=counted, other=0.0)
    upper_right = tl.load(plane + top * width + right, mask=counted, other=0.0)
    lower_left = tl.load(plane + bottom * width + left, mask=counted, other=0.0)
    lower_right = tl.load(plane + bottom * width + right, mask=counted, other=0.0)
    near, far = _weigh(upper_left, lower_left, row_share), _weigh(upper_right, lower_right, row_share)
    return _weigh(near, far, column_share)


@kernel
def _read(nears, fars, shares, at, inside):  # type: ignore[no-untyped-def]
    """What some pixel rows or columns read."""
    near = tl.load(nears + at, mask=inside, other=0)
    far = tl.load(fars + at, mask=inside, other=0)
    return near, far, tl.load(shares + at, mask=inside, other=0.0)


@kernel
def _winner(  # type: ignore[no-untyped-def]
    scores, classes, h, w, width, pixels, tops, bottoms, row_shares, lefts, rights, column_shares,
    image, pixel, inside, block: tl.constexpr,
):  # fmt: skip
    """The class of the highest score at some pixels of an image; the first NaN is higher than any number."""
    top, bottom, row_share = _read(tops, bottoms, row_shares, pixel // width, inside)
    left, right, column_share = _read(lefts, rights, column_shares, pixel % width, inside)
    plane = scores + image.to(tl.int64) * classes * h * w
    best = _blend(plane, top, bottom, row_share, left, right, column_share, w, inside)
    winner = tl.zeros([block], tl.int32)
    for k in range(1, classes):
        plane += h * w
        score = _blend(plane, top, bottom, row_share, left, right, column_share, w, inside)
        higher = (score > best) | ((score != score) & (best == best))
        best = tl.where(higher, score, best)
        winner = tl.where(higher, k, winner)
    return winner


@kernel
def _argmax_kernel(  # type: ignore[no-untyped-def]
    scores, classes, h, w, width, pixels, tops, bottoms, row_shares, lefts, rights, column_shares,
    mask, block: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(1)
    pixel = tl.program_id(0) * block + tl.arange(0, block)
    inside = pixel < pixels
    winner = _winner(
        scores, classes, h, w, width, pixels, tops, bottoms, row_shares, lefts, rights, column_shares,
        image, pixel, inside, block,
    )  # fmt: skip
    tl.store(mask + image.to(tl.int64) * pixels + pixel, winner.to(mask.dtype.element_ty), mask=inside)


@kernel
def _confusion_kernel(  # type: ignore[no-untyped-def]
    scores, classes, h, w, width, pixels, tops, bottoms, row_shares, lefts, rights, column_shares,
    target, ignore_index, counts, block: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(1)
    pixel = tl.program_id(0) * block + tl.arange(0, block)
    inside = pixel < pixels
    winner = _winner(
        scores, classes, h, w, width, pixels, tops, bottoms, row_shares, lefts, rights, column_shares,
        image, pixel, inside, block,
    )  # fmt: skip
    true = tl.load(target + image.to(tl.int64) * pixels + pixel, mask=inside, other=0)
    row = tl.where((true < 0) | (true >= classes), classes + 1, true)
    row = tl.where(true == ignore_index, classes, row)
    tl.atomic_add(counts + row * (classes + 1) + winner, 1, mask=inside)


@kernel
def _loss_kernel(  # type: ignore[no-untyped-def]
    scores, classes, h, w, width, pixels, tops, bottoms, row_shares, lefts, rights, column_shares,
    target, weight, ignore_index, smoothing, losses, normalisers, block: tl.constexpr,
):  # fmt: skip
    """The loss of each pixel, and the logarithm of what its softmax is divided by."""
    image = tl.program_id(1)
    pixel = tl.program_id(0) * block + tl.arange(0, block)
    at = image.to(tl.int64) * pixels + pixel
    true = tl.load(target + at, mask=pixel < pixels, other=ignore_index)
    counted = (pixel < pixels) & (true != ignore_index)
    legal = (true >= 0) & (true < classes)
    top, bottom, row_share = _read(tops, bottoms, row_shares, pixel // width, counted)
    left, right, column_share = _read(lefts, rights, column_shares, pixel % width, counted)
    first = scores + image.to(tl.int64) * classes * h * w
    highest = _blend(first, top, bottom, row_share, left, right, column_share, w, counted)
    plane = first
    for _ in range(1, classes):
        plane += h * w
        score = _blend(plane, top, bottom, row_share, left, right, column_share, w, counted)
        highest = tl.where(score > highest, score, highest)
    total = tl.zeros([block], tl.float32)
    own = tl.zeros([block], tl.float32)
    spread = tl.zeros([block], tl.float32)
    mass = 0.0
    plane = first
    for k in range(classes):
        score = _blend(plane, top, bottom, row_share, left, right, column_share, w, counted)
        plane += h * w
        total += tl.exp(score - highest)
        own = tl.where(true == k, score, own)
        smooth = tl.load(weight + k) * smoothing / classes
        mass += smooth
        spread += tl.where(smooth > 0, smooth * (highest - score), 0.0)
    hot = tl.load(weight + true, mask=counted & legal, other=0.0) * (1 - smoothing)
    value = tl.log(total)
    loss = (hot + mass) * value + tl.where(hot > 0, hot * (highest - own), 0.0) + spread
    # What is neither a class nor ignored makes the loss NaN: to tell of it would make the CPU wait at every step.
    loss = tl.where(legal, loss, float("nan"))
    tl.store(losses + at, tl.where(counted, loss, 0.0), mask=pixel < pixels)
    tl.store(normalisers + at, highest + value, mask=pixel < pixels)


@kernel
def _gradient_kernel(  # type: ignore[no-untyped-def]
    scores, classes, h, w, width, pixels, tops, bottoms, row_shares, lefts, rights, column_shares,
    row_begin, row_end, column_begin, column_end,
    target, weight, ignore_index, smoothing, normalisers, gradient, columns: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """The gradient of the summed loss with respect to some classes of one cell, from all pixels that read it."""
    cell, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    i, j = cell // w, cell % w
    k = tl.program_id(2) * block + tl.arange(0, block)
    some = k < classes
    plane = scores + (image * classes + k[:, None]) * h * w
    smooth = tl.load(weight + k, mask=some, other=0.0) * smoothing / classes
    mass = 0.0
    for other in range(classes):
        mass += tl.load(weight + other) * smoothing / classes
    sums = tl.zeros([block, columns], tl.float32)
    for y in range(tl.load(row_begin + i), tl.load(row_end + i)):
        top, bottom, row_share = tl.load(tops + y), tl.load(bottoms + y), tl.load(row_shares + y)
        row_part = tl.where(top == i, 1 - row_share, 0.0) + tl.where(bottom == i, row_share, 0.0)
        for start in range(tl.load(column_begin + j), tl.load(column_end + j), columns):
            x = start + tl.arange(0, columns)
            inside = x < tl.load(column_end + j)
            at = image * pixels + y * width + x
            true = tl.load(target + at, mask=inside, other=ignore_index)
            counted = inside & (true != ignore_index)
            left, right, column_share = _read(lefts, rights, column_shares, x, counted)
            part = tl.where(left == j, 1 - column_share, 0.0) + tl.where(right == j, column_share, 0.0)
            both = some[:, None] & counted[None, :]
            score = _blend(plane, top, bottom, row_share, left[None, :], right[None, :], column_share[None, :], w, both)
            normaliser = tl.load(normalisers + at, mask=counted, other=0.0)
            hot = tl.load(weight + true, mask=counted & (true >= 0) & (true < classes), other=0.0) * (1 - smoothing)
            slope = (hot + mass)[None, :] * tl.exp(score - normaliser[None, :]) - smooth[:, None]
            slope -= tl.where(k[:, None] == true[None, :], hot[None, :], 0.0)
            sums += tl.where(both, slope * part[None, :] * row_part, 0.0)
    tl.store(gradient + (image * classes + k) * h * w + cell, tl.sum(sums, 1), mask=some)


def upsample_argmax(
    scores: Float[Tensor, "n k h w"], size: tuple[int, int], *, grid: Grid | None = None
) -> Shaped[Tensor, "n height width"]:
    """See `fullyconv.kernels.upsample_argmax`."""
    mask = torch.empty((len(scores), *size), dtype=label_dtype(scores.shape[1]), device=scores.device)
    _launch(_argmax_kernel, _programs(mask), scores, size, grid, mask, PIXELS)
    return mask


def upsample_confusion(
    scores: Float[Tensor, "n k h w"],
    target: Integer[Tensor, "n height width"],
    *,
    ignore_index: int,
    grid: Grid | None = None,
) -> Int64[Tensor, "k_and_2 k_and_1"]:
    """The `count_pairs` of the target and the label map, which is not stored; whole numbers may add up in any order."""
    classes = scores.shape[1]
    counts = torch.zeros((classes + 2, classes + 1), dtype=torch.int64, device=scores.device)
    target = target.to(scores.device, torch.int64).contiguous()
    size = (target.shape[1], target.shape[2])
    _launch(_confusion_kernel, _programs(target), scores, size, grid, target, ignore_index, counts, PIXELS)
    return counts


def summed_cross_entropy(
    scores: Float[Tensor, "n k h w"],
    target: Integer[Tensor, "n height width"],
    criterion: Criterion,
    grid: Grid | None = None,
) -> tuple[Float[Tensor, ""], Shaped[Tensor, ""]]:
    """The summed loss and the mass, as of `reference`; the loss is NaN for a target that holds an illegal value."""
    total: Tensor = _CrossEntropy.apply(scores.float(), target.long(), criterion, grid)
    return total, criterion.mass(target)


def pixel_losses(
    scores: Float[Tensor, "n k h w"],
    target: Integer[Tensor, "n height width"],
    criterion: Criterion,
    grid: Grid | None = None,
) -> Float[Tensor, "n height width"]:
    """The cross-entropy of each pixel, 0 where it is ignored; without a gradient."""
    return _losses(scores, target.long(), criterion, grid)[0]


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, target: Tensor, criterion: Criterion, grid: Grid | None) -> Tensor:
        losses, normalisers = _losses(scores, target, criterion, grid)
        ctx.save_for_backward(scores, target, normalisers)
        ctx.options = criterion, grid
        return losses.sum(dtype=torch.float64).float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        scores, target, normalisers = ctx.saved_tensors
        criterion, grid = ctx.options
        (batch, classes, *cells), size = scores.shape, (target.shape[1], target.shape[2])
        gradient = torch.empty(scores.shape, device=scores.device)
        windows = [
            torch.from_numpy(edge.astype(np.int32)).to(scores.device)
            for count, pixels in zip(cells, size, strict=True)
            for edge in _windows(taps(count, pixels, grid), count)
        ]
        programs = (cells[0] * cells[1], batch, triton.cdiv(classes, CLASSES))
        sought = _sought(scores, target, criterion)
        _launch(
            _gradient_kernel, programs, scores, size, grid, *windows, *sought, normalisers, gradient, COLUMNS, CLASSES
        )
        return gradient * scale, None, None, None


def _losses(scores: Tensor, target: Tensor, criterion: Criterion, grid: Grid | None) -> tuple[Tensor, Tensor]:
    losses, normalisers = torch.empty((2, *target.shape), device=scores.device)
    size, sought = (target.shape[1], target.shape[2]), _sought(scores, target, criterion)
    _launch(_loss_kernel, _programs(target), scores, size, grid, *sought, losses, normalisers, PIXELS)
    return losses, normalisers


def _launch(
    kernel: Any, programs: tuple[int, ...], scores: Tensor, size: tuple[int, int], grid: Grid | None, *further: Any
) -> None:
    """Runs a kernel where its scores lie: Triton by itself takes the current device, which may be another.

    Args:
        kernel: What runs.
        programs: How many of it, along up to three axes.
        scores: Coarse ones.
        size: Height and width in pixels.
        grid: Where the cells lie.
        further: What the kernel takes besides the description of these.
    """
    with torch.cuda.device_of(scores):  # type: ignore[no-untyped-call]
        kernel[programs](*_described(scores, size, grid), *further)


def _sought(scores: Tensor, target: Tensor, criterion: Criterion) -> tuple[Any, ...]:
    """The target, class weights, ignored value and smoothing that the kernels of the loss ask for."""
    weight = torch.ones(scores.shape[1]) if criterion.weight is None else criterion.weight
    weight = weight.to(scores.device, torch.float32).contiguous()
    return target.contiguous(), weight, criterion.ignore_index, criterion.label_smoothing


def _programs(mask: Tensor) -> tuple[int, int]:
    return triton.cdiv(mask.shape[1] * mask.shape[2], PIXELS), len(mask)


def _described(scores: Tensor, size: tuple[int, int], grid: Grid | None) -> tuple[Any, ...]:
    """What all kernels begin with: scores, numbers of classes, cells and pixels, and what rows and columns read."""
    scores = scores.detach().float().contiguous()
    axes = []
    for count, pixels in zip(scores.shape[2:], size, strict=True):
        axis = taps(count, pixels, grid)
        axes += [axis.left.astype(np.int32), axis.right.astype(np.int32), axis.read_share.astype(np.float32)]
    read = [torch.from_numpy(axis).to(scores.device) for axis in axes]
    return scores, *scores.shape[1:], size[1], size[0] * size[1], *read


def _windows(axis: Taps, cells: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The first pixel that reads each cell, and the one after the last."""
    cell = np.arange(cells)
    return np.searchsorted(axis.right, cell), np.searchsorted(axis.left, cell, side="right")
