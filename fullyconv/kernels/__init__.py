"""Coarse scores to full-size results: upsampled, labelled or scored, by the fastest implementation that applies.

`FULLYCONV_REFERENCE=1` in the environment forces the plain implementation, here and wherever else there is a fast one.
"""

import os
from importlib.util import find_spec
from types import ModuleType
from typing import Literal

import torch
from jaxtyping import Float, Int64, Integer, Shaped
from torch import Tensor

from fullyconv.geometry import Grid
from fullyconv.kernels import graph, reference
from fullyconv.kernels.criterion import Criterion

__all__ = [
    "count_pairs",
    "reference_forced",
    "upsample",
    "upsample_argmax",
    "upsample_confusion",
    "upsample_cross_entropy",
]


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
    _refuse_many(scores)
    return _implementation(scores).upsample_argmax(scores, size, grid=grid)  # type: ignore[no-any-return]


def upsample_confusion(
    scores: Float[Tensor, "n k h w"],
    target: Integer[Tensor, "n height width"],
    *,
    ignore_index: int = 255,
    grid: Grid | None = None,
) -> Int64[Tensor, "k k"]:
    """How many pixels of each true class have each class as their highest upsampled score: row target, column winner.

    Equal to the confusion matrix of the target and `upsample_argmax(scores, target.shape[1:], grid=grid)`, which is
    never stored whole on the CPU.

    Args:
        scores: Coarse scores.
        target: Class indices or `ignore_index` at full size; this fixes the size.
        ignore_index: The target value of pixels that do not count.
        grid: Where the cells lie; as in `upsample`.

    Raises:
        FullyconvError: SEG-E001 if the target holds a value that is neither a class nor `ignore_index`.
    """
    _refuse_impossible(scores, (target.shape[1], target.shape[2]))
    _refuse_many(scores)
    _refuse_unpaired(scores, target)
    counts = _implementation(scores).upsample_confusion(scores, target, ignore_index=ignore_index, grid=grid)
    if counts[-1].any():
        reference.refuse_illegal_truth(target, scores.shape[1], ignore_index)
    return counts[:-2, :-1].contiguous()  # type: ignore[no-any-return]


def count_pairs(
    target: Integer[Tensor, "..."], pred: Integer[Tensor, "..."], classes: int, ignore_index: int
) -> Int64[Tensor, "k_and_2 k_and_1"]:
    """How many pixels have each pair of values in two masks of one shape: row target, column pred.

    Args:
        target, pred: Masks of any integer type; uint8 on the CPU is the fastest.
        classes: How many classes K there are.
        ignore_index: The target value that is not counted; it goes before a class.

    Returns:
        `(K + 2, K + 1)`: row K holds the ignored pixels, row K + 1 those whose target is no class, column K those whose
        pred is no class. On the device of `target`.
    """
    counts: Tensor = _implementation(target).count_pairs(target, pred.to(target.device), classes, ignore_index)
    return counts


def upsample_cross_entropy(
    scores: Float[Tensor, "n k h w"],
    target: Integer[Tensor, "n height width"],
    *,
    weight: Float[Tensor, " k"] | None = None,
    ignore_index: int = 255,
    reduction: Literal["mean", "sum"] = "mean",
    label_smoothing: float = 0.0,
    hardest: float = 1.0,
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
        hardest: Which share of each image's pixels counts: those of the highest losses, and all that are as hard as the
            last of them; in (0, 1]. Also known as online hard example mining, or top-k pixels.
        grid: Where the cells lie; as in `upsample`.

    Raises:
        FullyconvError: SEG-T030 if the target holds a value that is neither a class nor `ignore_index` (on the CPU).

    Source: for `hardest`, Wu, Shen and van den Hengel 2016, "High-performance semantic segmentation using very deep
    fully convolutional networks", which calls it online bootstrapping.
    """
    height, width = target.shape[1:]
    _refuse_impossible(scores, (height, width))
    _refuse_unpaired(scores, target)
    if weight is not None and weight.shape != scores.shape[1:2]:
        raise ValueError(f"expected one weight per class, shape ({scores.shape[1]},), got {tuple(weight.shape)}")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must lie in [0, 1], got {label_smoothing}")
    if not 0 < hardest <= 1:
        raise ValueError(f"hardest must be a share above 0 and at most 1, got {hardest}")
    implementation, criterion = _implementation(scores), Criterion(weight, ignore_index, label_smoothing)
    if hardest < 1:
        losses = implementation.pixel_losses(scores.detach(), target, criterion, grid)
        target = reference.hard_pixels(losses, target, hardest, ignore_index)
    total, mass = implementation.summed_cross_entropy(scores, target, criterion, grid)
    return total / mass if reduction == "mean" else total  # type: ignore[no-any-return]


def reference_forced() -> bool:
    """Whether `FULLYCONV_REFERENCE=1` is set: then everything that has a plain form and a fast one takes the plain one.

    It is read at every call, so that a comparison may set it half-way.
    """
    return os.environ.get("FULLYCONV_REFERENCE", "0") not in ("", "0")


def _implementation(given: Tensor) -> ModuleType:
    """The module whose functions work on these scores or masks: that of their device, or else the reference."""
    if reference_forced() or torch.compiler.is_compiling() or given.dtype == torch.float64:
        return reference
    if given.device.type == "cpu":
        from fullyconv.kernels import cpu  # imports numba: a third of a second that only those who need it pay

        return cpu
    if given.device.type == "cuda" and find_spec("triton"):  # which comes with torch, but on Linux alone
        from fullyconv.kernels import gpu

        return gpu
    return reference


def _refuse_impossible(scores: Tensor, size: tuple[int, int]) -> None:
    if scores.ndim != 4 or 0 in scores.shape[1:]:
        raise ValueError(f"expected scores of shape (N, K, h, w) without an empty axis, got {tuple(scores.shape)}")
    if min(size) < 1:
        raise ValueError(f"expected a size of at least 1x1 pixels, got {size[0]}x{size[1]}")


def _refuse_many(scores: Tensor) -> None:
    if scores.shape[1] > 65536:
        raise ValueError(f"a label map holds at most 65536 classes (uint16), got scores of {scores.shape[1]}")


def _refuse_unpaired(scores: Tensor, target: Tensor) -> None:
    if len(target) != len(scores):
        raise ValueError(f"expected one target per image, got {len(target)} targets for {len(scores)} score maps")
