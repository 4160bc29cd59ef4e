"""The kernels on the CPU: numba's loops on as many threads as torch uses."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, Integer, Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable

from fullyconv.geometry import Grid
from fullyconv.kernels import counting, labelling, loops
from fullyconv.kernels.criterion import Criterion
from fullyconv.kernels.reference import label_dtype, refuse_illegal
from fullyconv.kernels.taps import Taps, taps
from fullyconv.kernels.vectors import LANES, ROWS

CHUNKS_PER_THREAD = 4
"""Slabs differ in work (ignored pixels, clamped borders); smaller chunks even that out."""

BAND_PIXELS = 1 << 18
"""Pixels that are counted at a time: few enough for the cache, and too few to be worth waking another thread."""


def upsample_argmax(
    scores: Float[Tensor, "n k h w"], size: tuple[int, int], *, grid: Grid | None = None
) -> Shaped[Tensor, "n height width"]:
    """See `fullyconv.kernels.upsample_argmax`; rules out, cell by cell, the classes that cannot win."""
    batch, classes, cell_rows = scores.shape[:3]
    mask = torch.empty((batch, *size), dtype=label_dtype(classes))
    cells, layout, pixels = _array(scores, torch.float32), _layout(scores, size, grid), mask.numpy()
    in_parallel(lambda first, last: labelling.argmax_slabs(first, last, cells, layout, pixels), batch * cell_rows)
    return mask


def upsample_confusion(
    scores: Float[Tensor, "n k h w"],
    target: Integer[Tensor, "n height width"],
    *,
    ignore_index: int,
    grid: Grid | None = None,
) -> Int64[Tensor, "k_and_2 k_and_1"]:
    """The `count_pairs` of the target and the label map, of which each thread holds one band of rows at a time."""
    (batch, classes, cell_rows), (height, width) = scores.shape[:3], target.shape[1:]
    layout = _layout(scores, (height, width), grid)
    slabs = max(1, BAND_PIXELS * cell_rows // (height * width))
    bands = -(-cell_rows // slabs)
    coarse, label = _array(scores, torch.float32), label_dtype(classes)

    def work(first: int, last: int) -> None:
        for image, band in (divmod(task, bands) for task in range(first, last)):
            begin, end = band * slabs, min(band * slabs + slabs, cell_rows)
            top, bottom = layout.starts[[begin, end]].tolist()
            mask = torch.empty((1, bottom - top, width), dtype=label)
            labelling.argmax_slabs(begin, end, coarse[image : image + 1], layout.from_row(top), mask.numpy())
            parts.append(_counted(target[image, top:bottom], mask[0], classes, ignore_index))

    parts = [np.zeros((classes + 2, classes + 1), np.int64)]
    in_parallel(work, batch * bands)
    return torch.from_numpy(np.sum(parts, axis=0))


def count_pairs(
    target: Integer[Tensor, "..."], pred: Integer[Tensor, "..."], classes: int, ignore_index: int
) -> Int64[Tensor, "k_and_2 k_and_1"]:
    """See `fullyconv.kernels.count_pairs`."""
    target, pred = target.reshape(-1), pred.reshape(-1)

    def work(first: int, last: int) -> None:
        part = slice(first * BAND_PIXELS, last * BAND_PIXELS)
        parts.append(_counted(target[part], pred[part], classes, ignore_index))

    parts: list[np.ndarray[Any, Any]] = []
    in_parallel(work, -(-len(target) // BAND_PIXELS))
    return torch.from_numpy(sum(parts[1:], parts[0]))


def _counted(target: Tensor, pred: Tensor, classes: int, ignore_index: int) -> np.ndarray[Any, Any]:
    counts = np.zeros((classes + 2, classes + 1), np.int64)
    dtype = torch.uint8 if target.dtype == pred.dtype == torch.uint8 else torch.int64
    if target.numel():
        true, given = (_array(mask, dtype).reshape(-1) for mask in (target, pred))
        counting.count_pairs(true, given, classes, ignore_index, counts.reshape(-1))
    return counts


def summed_cross_entropy(
    scores: Float[Tensor, "n k h w"],
    target: Integer[Tensor, "n height width"],
    criterion: Criterion,
    grid: Grid | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The summed loss and the mass, as of `reference`; the gradient is computed with the loss, in one pass."""
    wanted = scores.requires_grad and torch.is_grad_enabled()
    total, mass = _CrossEntropy.apply(scores.float(), target, criterion, grid, wanted)
    return total, mass


def pixel_losses(
    scores: Float[Tensor, "n k h w"],
    target: Integer[Tensor, "n height width"],
    criterion: Criterion,
    grid: Grid | None = None,
) -> Float[Tensor, "n height width"]:
    """The cross-entropy of each pixel, 0 where it is ignored; without a gradient."""
    losses = torch.zeros(target.shape)
    _cross_entropy(scores, target, criterion, grid, torch.zeros(2, 0, 1, 1, 1), losses)
    return losses


def _cross_entropy(
    scores: Tensor, target: Tensor, criterion: Criterion, grid: Grid | None, gradients: Tensor, pixel_losses: Tensor
) -> tuple[float, float]:
    """The summed loss and the summed class weight; fills the last two arguments as `loops.Results` says."""
    batch, classes, cell_rows = scores.shape[:3]
    slabs, weight = batch * cell_rows, torch.ones(classes) if criterion.weight is None else criterion.weight
    cells, mask, weights = _array(scores, torch.float32), _array(target, torch.int64), _array(weight, torch.float32)
    rules = loops.Criterion(weights, criterion.ignore_index, np.float32(criterion.label_smoothing))
    layout = _block_layout(scores, (target.shape[1], target.shape[2]), grid)
    results = loops.Results(
        gradients=gradients.numpy(),
        pixel_losses=pixel_losses.numpy(),
        losses=np.zeros(slabs),
        masses=np.zeros(slabs),
        illegal=np.zeros(slabs, np.int64),
    )
    in_parallel(lambda first, last: loops.cross_entropy_slabs(first, last, cells, mask, rules, layout, results), slabs)
    if results.illegal.any():
        refuse_illegal(target, classes, criterion.ignore_index)
    return float(results.losses.sum()), float(results.masses.sum())


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, target: Tensor, criterion: Criterion, grid: Grid | None, wanted: bool
    ) -> tuple[Tensor, Tensor]:
        batch, *shape = scores.shape
        gradients = torch.zeros(2, batch if wanted else 0, *shape)
        total, mass = _cross_entropy(scores, target, criterion, grid, gradients, torch.zeros(0, 1, 1))
        if wanted:
            ctx.save_for_backward(gradients.sum(0))
        return torch.tensor(total, dtype=torch.float32), torch.tensor(mass or 1.0, dtype=torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * scale, None, None, None, None


def in_parallel(work: Callable[[int, int], None], tasks: int) -> None:
    """Calls `work(first, last)` on consecutive parts of `range(tasks)`, on as many threads as torch uses.

    Plain threads, because the work releases the interpreter: unlike numba's own pools they survive a fork and calls
    from several threads at once. The calling thread works too, for to wake another costs tens of microseconds.
    """
    threads = min(torch.get_num_threads(), tasks)
    if threads < 2:
        work(0, tasks)
        return
    bounds = np.linspace(0, tasks, min(tasks, threads * CHUNKS_PER_THREAD) + 1).astype(int).tolist()
    parts = iter(list(pairwise(bounds)))

    def drain() -> None:
        for first, last in parts:
            work(first, last)

    others = [_pool(threads).submit(drain) for _ in range(threads - 1)]
    drain()
    for other in others:
        other.result()


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="fullyconv-kernels")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a child process inherits the pool without its threads


def _block_layout(scores: Tensor, size: tuple[int, int], grid: Grid | None) -> loops.Layout:
    cell_rows, cell_columns = scores.shape[2:]
    rows, columns = taps(cell_rows, size[0], grid), taps(cell_columns, size[1], grid)
    return loops.Layout(
        starts=_slab_starts(rows, cell_rows),
        row_shares=rows.weight.astype(np.float32),
        column_shares=columns.weight.astype(np.float32),
        left=columns.left.astype(np.uint32),
        right=columns.right.astype(np.uint32),
        read_shares=columns.read_share.astype(np.float32),
    )


def _slab_starts(rows: Taps, cell_rows: int) -> np.ndarray[Any, Any]:
    """The first pixel row below each coarse row, and the end."""
    return np.searchsorted(rows.left, np.arange(cell_rows + 1)).astype(np.int64)


def _layout(scores: Tensor, size: tuple[int, int], grid: Grid | None) -> labelling.Layout:
    cell_rows, cell_columns = scores.shape[2:]
    rows, columns = taps(cell_rows, size[0], grid), taps(cell_columns, size[1], grid)
    into_cell = np.arange(len(columns.left)) - np.searchsorted(columns.left, columns.left)
    return labelling.Layout(
        starts=_slab_starts(rows, cell_rows),
        row_shares=np.pad(rows.weight.astype(np.float32), (0, ROWS)),
        column_shares=np.pad(columns.weight.astype(np.float32), (0, LANES)),
        pieces=np.append(np.flatnonzero(into_cell % LANES == 0), len(columns.left)),
        left=columns.left,
    )


def _array(tensor: Tensor, dtype: torch.dtype) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = tensor.detach().to(dtype).contiguous().numpy()
    return array
