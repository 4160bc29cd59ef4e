"""The kernels on the CPU: numba's loops on as many threads as torch uses."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Integer, Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable

from fullyconv.geometry import Grid
from fullyconv.kernels import labelling, loops
from fullyconv.kernels.reference import label_dtype, refuse_illegal
from fullyconv.kernels.taps import Taps, taps
from fullyconv.kernels.vectors import LANES, ROWS

CHUNKS_PER_THREAD = 4
"""Slabs differ in work (ignored pixels, clamped borders); smaller chunks even that out."""


def upsample_argmax(
    scores: Float[Tensor, "n k h w"], size: tuple[int, int], *, grid: Grid | None = None
) -> Shaped[Tensor, "n height width"]:
    """See `fullyconv.kernels.upsample_argmax`; rules out, cell by cell, the classes that cannot win."""
    (batch, classes, cell_rows, cell_columns), (height, width) = scores.shape, size
    rows, columns = taps(cell_rows, height, grid), taps(cell_columns, width, grid)
    mask = torch.empty((batch, height, width), dtype=label_dtype(classes))
    constants: tuple[Any, ...] = (
        _array(scores, torch.float32),
        _slab_starts(rows, cell_rows),
        np.pad(rows.weight.astype(np.float32), (0, ROWS)),
        *_pieces(columns),
        mask.numpy(),
    )
    in_parallel(lambda first, last: labelling.argmax_slabs(first, last, *constants), batch * cell_rows)
    return mask


def upsample_cross_entropy(
    scores: Float[Tensor, "n k h w"],
    target: Integer[Tensor, "n height width"],
    *,
    weight: Float[Tensor, " k"] | None = None,
    ignore_index: int = 255,
    reduction: Literal["mean", "sum"] = "mean",
    label_smoothing: float = 0.0,
    grid: Grid | None = None,
) -> Float[Tensor, ""]:
    """See `fullyconv.kernels.upsample_cross_entropy`; the gradient is computed with the loss, in one pass."""
    weight = torch.ones(scores.shape[1]) if weight is None else weight
    wanted = scores.requires_grad and torch.is_grad_enabled()
    loss: Tensor = _CrossEntropy.apply(
        scores.float(), target, weight, ignore_index, reduction, label_smoothing, grid, wanted
    )
    return loss


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        scores: Tensor,
        target: Tensor,
        weight: Tensor,
        ignore_index: int,
        reduction: str,
        label_smoothing: float,
        grid: Grid | None,
        wanted: bool,
    ) -> Tensor:
        (batch, classes, cell_rows, cell_columns), (height, width) = scores.shape, target.shape[1:]
        rows, columns = taps(cell_rows, height, grid), taps(cell_columns, width, grid)
        slabs = batch * cell_rows
        gradients = torch.zeros(2, batch if wanted else 0, classes, cell_rows, cell_columns)
        losses, masses, illegal = np.zeros(slabs), np.zeros(slabs), np.zeros(slabs, np.int64)
        constants: tuple[Any, ...] = (
            _array(scores, torch.float32),
            _array(target, torch.int64),
            _array(weight, torch.float32),
            ignore_index,
            np.float32(label_smoothing),
            *_geometry(rows, columns, cell_rows),
            columns.weight.astype(np.float32),
            gradients.numpy(),
            losses,
            masses,
            illegal,
        )
        in_parallel(lambda first, last: loops.cross_entropy_slabs(first, last, *constants), slabs)
        if illegal.any():
            refuse_illegal(target, classes, ignore_index)
        divisor = (masses.sum() or 1.0) if reduction == "mean" else 1.0
        if wanted:
            ctx.save_for_backward(gradients.sum(0).div_(divisor))
        return torch.tensor(losses.sum() / divisor, dtype=torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * scale, None, None, None, None, None, None, None


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


def _geometry(rows: Taps, columns: Taps, cell_rows: int) -> tuple[np.ndarray[Any, Any], ...]:
    """What the loss needs: slab starts, row shares, left and right cells, and the share to read of the right one."""
    left, right = columns.left.astype(np.uint32), columns.right.astype(np.uint32)
    read_shares = np.where(right > left, columns.weight, 0.5).astype(np.float32)
    return _slab_starts(rows, cell_rows), rows.weight.astype(np.float32), left, right, read_shares


def _slab_starts(rows: Taps, cell_rows: int) -> np.ndarray[Any, Any]:
    """The first pixel row below each coarse row, and the end."""
    return np.searchsorted(rows.left, np.arange(cell_rows + 1)).astype(np.int64)


def _pieces(columns: Taps) -> tuple[np.ndarray[Any, Any], ...]:
    """The column shares, pieces and left cells that `labelling.argmax_slabs` asks for."""
    into_cell = np.arange(len(columns.left)) - np.searchsorted(columns.left, columns.left)
    pieces = np.append(np.flatnonzero(into_cell % LANES == 0), len(columns.left))
    return np.pad(columns.weight.astype(np.float32), (0, LANES)), pieces, columns.left


def _array(tensor: Tensor, dtype: torch.dtype) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = tensor.detach().to(dtype).contiguous().numpy()
    return array
