"""The kernels in plain torch: what the fast ones are tested against, and what runs where there is no fast one."""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Integer, Shaped
from torch import Tensor

from fullyconv.errors import FullyconvError
from fullyconv.geometry import Grid
from fullyconv.kernels.criterion import Criterion
from fullyconv.kernels.taps import matrix, taps
from fullyconv.wording import counted

Size = tuple[int, int]

BAND_VALUES = 1 << 24
"""Logits that `upsample_argmax` holds at a time: 64 MB in float32."""


def upsample(
    scores: Float[Tensor, "n k h w"], size: Size, *, grid: Grid | None = None
) -> Float[Tensor, "n k height width"]:
    """See `fullyconv.kernels.upsample`."""
    scores = _at_least_float32(scores)
    if torch.compiler.is_compiling():
        return _by_matrices(scores, size, grid)
    upsampled: Tensor = _Upsample.apply(scores, size, grid)
    return upsampled


def upsample_argmax(
    scores: Float[Tensor, "n k h w"], size: Size, *, grid: Grid | None = None
) -> Shaped[Tensor, "n height width"]:
    """See `fullyconv.kernels.upsample_argmax`; works through bands of rows, so memory stays bounded."""
    scores = _at_least_float32(scores.detach())
    (batch, classes), (height, width) = scores.shape[:2], size
    mask = torch.empty((batch, height, width), dtype=label_dtype(classes), device=scores.device)
    rows = max(1, BAND_VALUES // max(1, batch * classes * width))
    for top in range(0, height, rows):
        band = slice(top, min(top + rows, height))
        mask[:, band] = _interpolate(scores, size, grid, band).argmax(1).to(mask.dtype)
    return mask


def count_pairs(
    target: Integer[Tensor, "..."], pred: Integer[Tensor, "..."], classes: int, ignore_index: int
) -> Int64[Tensor, "k_and_2 k_and_1"]:
    """See `fullyconv.kernels.count_pairs`."""
    target, pred = target.flatten().long(), pred.flatten().long()
    rows = torch.where((target < 0) | (target >= classes), classes + 1, target).masked_fill(
        target == ignore_index, classes
    )
    columns = torch.where((pred < 0) | (pred >= classes), classes, pred)
    shape = classes + 2, classes + 1
    return torch.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).view(shape)


def upsample_confusion(
    scores: Float[Tensor, "n k h w"],
    target: Integer[Tensor, "n height width"],
    *,
    ignore_index: int,
    grid: Grid | None = None,
) -> Int64[Tensor, "k_and_2 k_and_1"]:
    """The `count_pairs` of the target and the label map."""
    labels = upsample_argmax(scores, (target.shape[1], target.shape[2]), grid=grid)
    return count_pairs(target.to(labels.device), labels, scores.shape[1], ignore_index)


def summed_cross_entropy(
    scores: Float[Tensor, "n k h w"],
    target: Integer[Tensor, "n height width"],
    criterion: Criterion,
    grid: Grid | None = None,
) -> tuple[Float[Tensor, ""], Shaped[Tensor, ""]]:
    """The summed loss of all pixels, differentiable with respect to the scores, and the mass of the target."""
    return pixel_losses(scores, target, criterion, grid).sum(), criterion.mass(target)


def pixel_losses(
    scores: Float[Tensor, "n k h w"],
    target: Integer[Tensor, "n height width"],
    criterion: Criterion,
    grid: Grid | None = None,
) -> Float[Tensor, "n height width"]:
    """The cross-entropy of each pixel, 0 where it is ignored."""
    target = _legal(target, scores.shape[1], criterion.ignore_index)
    logits = upsample(scores, (target.shape[1], target.shape[2]), grid=grid)
    return F.cross_entropy(
        logits,
        target,
        None if criterion.weight is None else criterion.weight.to(logits.dtype),
        ignore_index=criterion.ignore_index,
        reduction="none",
        label_smoothing=criterion.label_smoothing,
    )


def hard_pixels(
    losses: Float[Tensor, "n height width"],
    target: Integer[Tensor, "n height width"],
    share: float,
    ignore_index: int,
) -> Integer[Tensor, "n height width"]:
    """The target in which only the pixels of the highest losses count.

    Args:
        losses: Of each pixel.
        target: Class indices or `ignore_index`.
        share: Of each image's pixels that count, the hardest of which go on counting, rounded up. Pixels as hard as
            the last of them count as well, so the choice depends on no order.
        ignore_index: The target value of pixels that do not count.
    """
    least = torch.stack([_least(loss[kept], share) for loss, kept in zip(losses, target != ignore_index, strict=True)])
    return target.masked_fill(losses < least.view(-1, 1, 1), ignore_index)


def _least(losses: Float[Tensor, " n"], share: float) -> Float[Tensor, ""]:
    """The loss that a share of all losses reaches; NaN is above any number."""
    if len(losses) == 0:
        return losses.new_zeros(())
    below = len(losses) - math.ceil(share * len(losses))
    if losses.device.type != "cpu":
        return losses.kthvalue(below + 1).values
    return torch.tensor(np.partition(losses.numpy(), below)[below])  # kthvalue takes ten times as long


def label_dtype(classes: int) -> torch.dtype:
    """The smallest unsigned type that holds the indices of `classes` classes."""
    return torch.uint8 if classes <= 256 else torch.uint16


def refuse_illegal(target: Integer[Tensor, "..."], classes: int, ignore_index: int) -> None:
    """Raises SEG-T030 if the target holds a value that is neither one of `classes` classes nor ignored."""
    values = illegal_values(target, classes, ignore_index)
    if len(values) == 0:
        return
    raise FullyconvError(
        "SEG-T030",
        f"the target holds values outside 0 ... {classes - 1} that are not ignored ({ignore_index}): {listed(values)}; "
        "train a model of more classes, or map these values to a class or to ignore",
    )


def refuse_illegal_truth(target: Integer[Tensor, "..."], classes: int, ignore_index: int) -> None:
    """Raises SEG-E001 likewise, where a prediction is scored."""
    values = illegal_values(target, classes, ignore_index)
    if len(values) == 0:
        return
    raise FullyconvError(
        "SEG-E001",
        f"the truth holds values that are no class: {listed(values)}; "
        f"expected 0 to {classes - 1}, or {ignore_index} for pixels to ignore",
    )


def _legal(target: Tensor, classes: int, ignore_index: int) -> Tensor:
    """The target as int64, once it has been looked at where that costs no wait for a device."""
    if target.device.type == "cpu" and not torch.compiler.is_compiling():
        refuse_illegal(target, classes, ignore_index)
    return target.long()


def illegal_values(target: Integer[Tensor, "..."], classes: int, ignore_index: int) -> Integer[Tensor, " n"]:
    """What is neither a class nor ignored."""
    target = target.long()
    return target[((target < 0) | (target >= classes)) & (target != ignore_index)]


def listed(values: Integer[Tensor, " n"]) -> str:
    """The distinct values and their numbers of pixels, for a message."""
    distinct, counts = (column.tolist() for column in torch.unique(values, return_counts=True))
    shown = [f"{value} ({counted(count, 'pixel')})" for value, count in zip(distinct[:5], counts[:5], strict=True)]
    return ", ".join(shown) + (f" and {len(distinct) - 5} more" if len(distinct) > 5 else "")


class _Upsample(torch.autograd.Function):
    """Interpolation whose gradient is a product of matrices too: deterministic on every device, twice differentiable.

    Measured on 8x11x45x60 to 360x480, one thread: forward 39 ms, backward 13 ms; `F.interpolate` 66 and 92 ms.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, size: Size, grid: Grid | None) -> Tensor:
        ctx.cells, ctx.grid = scores.shape[2:], grid
        return _interpolate(scores, size, grid, slice(0, size[0]))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        rows, columns = _matrices(gradient, ctx.cells, (gradient.shape[2], gradient.shape[3]), ctx.grid)
        with torch.autocast(gradient.device.type, enabled=False):
            return rows.T @ (gradient @ columns), None, None


def _interpolate(scores: Tensor, size: Size, grid: Grid | None, band: slice) -> Tensor:
    """Pixel rows `band` of the upsampled scores."""
    if scores.device.type == "cpu" and bool(scores.isfinite().all()):
        return _by_matrices(scores, size, grid, band)
    return _by_index(scores, size, grid, band)


def _by_matrices(scores: Tensor, size: Size, grid: Grid | None, band: slice = slice(None)) -> Tensor:
    """Dense products: the fastest way in torch on a CPU, but an infinity times zero would be NaN."""
    rows, columns = _matrices(scores, (scores.shape[2], scores.shape[3]), size, grid)
    with torch.autocast(scores.device.type, enabled=False):
        return (rows[band] @ scores) @ columns.T


def _by_index(scores: Tensor, size: Size, grid: Grid | None, band: slice) -> Tensor:
    """Each pixel reads its two rows, then its two columns, and nothing else."""
    for axis, pixels in ((2, band), (3, slice(None))):
        cells = taps(scores.shape[axis], size[axis - 2], grid)
        left, right = (torch.from_numpy(side[pixels]).to(scores.device) for side in (cells.left, cells.right))
        share = torch.from_numpy(cells.read_share[pixels]).to(scores).view(-1, *(1,) * (3 - axis))
        scores = scores.index_select(axis, left) * (1 - share) + scores.index_select(axis, right) * share
    return scores


def _matrices(like: Tensor, cells: Size, size: Size, grid: Grid | None) -> tuple[Tensor, Tensor]:
    dtype = str(like.dtype).removeprefix("torch.")
    rows, columns = (
        torch.from_numpy(matrix(count, pixels, grid, dtype)).to(like.device)
        for count, pixels in zip(cells, size, strict=True)
    )
    return rows, columns


def _at_least_float32(scores: Tensor) -> Tensor:
    return scores if scores.dtype == torch.float64 else scores.float()
