"""Coarse scores to full-size results: upsampled, labelled or scored, by the fastest implementation that applies.

`FULLYCONV_REFERENCE=1` in the environment forces the plain implementation, here and wherever else there is a fast one.
"""

import os
from types import ModuleType
from typing import Literal

import torch
from jaxtyping import Float, Integer, Shaped
from torch import Tensor

from fullyconv.geometry import Grid
from fullyconv.kernels import graph, reference

__all__ = ["reference_forced", "upsample", "upsample_argmax", "upsample_cross_entropy"]


def upsample(
    scores: Float[Tensor, "n k h w"], size: tuple[int, int], *, grid: Grid | None = None
) -> Float[Tensor, "n k height width"]:
    """The scores at every pixel, bilinear between the cells and constant beyond the outermost ones.

    Args:
        scores: Coarse scores.
        size: Height and width of the result in pixels.
        grid: Where the cells lie: pixel p reads position `(p - grid.start) / grid.stride`, along both axes. If left
            out, the cells are spread evenly as by `F.interpolate(mode="bilinear", align_corners=False)`.

    Returns:
        Logits in float32, or in float64 for float64 scores. A cell of weight zero is not read, so an infinity stays
        within one cell of its own. The gradient is deterministic on every device.
    """
    if torch.compiler.is_exporting():
        return graph.upsample(scores, size, grid=grid)
    _refuse_impossible(scores, size)
    return reference.upsample(scores, size, grid=grid)


def upsample_argmax(
    scores: Float[Tensor, "n k h w"], size: tuple[int, int], *, grid: Grid | None = None
) -> Shaped[Tensor, "n height width"]:
    """The class with the highest upsampled score at every pixel: `upsample(scores, size, grid=grid).argmax(1)`.

    Args:
        scores: Coarse scores of at most 65536 classes.
        size: Height and width of the result in pixels.
        grid: Where the cells lie; as in `upsample`.

    Returns:
        Class indices, uint8, or uint16 for more than 256 classes. A tie goes to the lowest index, and the first NaN
        wins over any number, as in `torch.argmax`.
    """
    _refuse_impossible(scores, size)
    if scores.shape[1] > 65536:
        raise ValueError(f"a label map holds at most 65536 classes (uint16), got scores of {scores.shape[1]}")
    return _implementation(scores).upsample_argmax(scores, size, grid=grid)  # type: ignore[no-any-return]


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
    """The cross-entropy of the upsampled scores, differentiable with respect to the coarse ones.

    Equal to `F.cross_entropy(upsample(scores, target.shape[1:], grid=grid), target, ...)`, except that a target in
    which every pixel is ignored gives loss 0 and gradient 0 instead of NaN. On the CPU the full-size logits are never
    stored, and the result does not depend on the number of threads.

    Args:
        scores: Coarse scores; half-precision scores are computed with in float32.
        target: Class indices or `ignore_index` at full size; this fixes the size.
        weight: The weight of each class.
        ignore_index: The target value of pixels that do not count.
        reduction: `mean` divides by the summed weight of the pixels that count, `sum` does not.
        label_smoothing: The share of the target that is spread evenly over all classes, in [0, 1].
        grid: Where the cells lie; as in `upsample`.

    Raises:
        FullyconvError: SEG-T030 if the target holds a value that is neither a class nor `ignore_index` (on the CPU).
    """
    height, width = target.shape[1:]
    _refuse_impossible(scores, (height, width))
    if len(target) != len(scores):
        raise ValueError(f"expected one target per image, got {len(target)} targets for {len(scores)} score maps")
    if weight is not None and weight.shape != scores.shape[1:2]:
        raise ValueError(f"expected one weight per class, shape ({scores.shape[1]},), got {tuple(weight.shape)}")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must lie in [0, 1], got {label_smoothing}")
    loss: Tensor = _implementation(scores).upsample_cross_entropy(
        scores,
        target,
        weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
        grid=grid,
    )
    return loss


def reference_forced() -> bool:
    """Whether `FULLYCONV_REFERENCE=1` is set: then everything that has a plain form and a fast one takes the plain one.

    It is read at every call, so that a comparison may set it half-way.
    """
    return os.environ.get("FULLYCONV_REFERENCE", "0") not in ("", "0")


def _implementation(scores: Tensor) -> ModuleType:
    """The module whose functions work on these scores: the CPU's if it can, the reference otherwise."""
    if reference_forced() or torch.compiler.is_compiling():
        return reference
    if scores.device.type != "cpu" or scores.dtype == torch.float64:
        return reference
    from fullyconv.kernels import cpu  # imports numba: a third of a second that only those who need it pay

    return cpu


def _refuse_impossible(scores: Tensor, size: tuple[int, int]) -> None:
    if scores.ndim != 4 or 0 in scores.shape[1:]:
        raise ValueError(f"expected scores of shape (N, K, h, w) without an empty axis, got {tuple(scores.shape)}")
    if min(size) < 1:
        raise ValueError(f"expected a size of at least 1x1 pixels, got {size[0]}x{size[1]}")
