"""Losses on full-size logits, sampling of pixels, class weights. `kernels` has the cross-entropy of coarse scores."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer
from torch import Tensor

WeightScheme = Literal["none", "log", "median", "inverse"]


def cross_entropy(
    logits: Float[Tensor, "n k h w"],
    target: Integer[Tensor, "n h w"],
    *,
    weight: Float[Tensor, " k"] | None = None,
    ignore_index: int = 255,
    reduction: Literal["mean", "sum", "batch"] = "mean",
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Cross-entropy of softmax(logits); 0 if every pixel is ignored.

    Args:
        logits: Computed with in float32, or float64 if they are.
        target: Class indices or `ignore_index`.
        weight: The weight of each class.
        ignore_index: The target value of pixels that do not count.
        reduction: `mean` divides by the summed weight of the pixels that count; `sum` does not divide; `batch` divides
            by the number of images, as Caffe's softmax loss with `normalize: false` does, on which the learning rates
            of the paper's "heavy" recipe rest.
        label_smoothing: The share of the target that is spread evenly over all classes, in [0, 1].
    """
    logits = _at_least_float32(logits)
    weight = None if weight is None else weight.to(logits)
    total = F.cross_entropy(
        logits,
        target.long(),
        weight,
        ignore_index=ignore_index,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    if reduction == "sum":
        return total
    if reduction == "batch":
        return total / max(1, len(logits))
    return _mean(total, _pixel_weights(logits, target, weight, ignore_index).sum())


def focal(
    logits: Float[Tensor, "n k h w"],
    target: Integer[Tensor, "n h w"],
    *,
    gamma: float = 2.0,
    weight: Float[Tensor, " k"] | None = None,
    ignore_index: int = 255,
) -> Float[Tensor, ""]:
    """Cross-entropy in which a pixel of probability p counts `(1 - p) ** gamma`; 0 if every pixel is ignored.

    Args:
        logits: Computed with in float32, or float64 if they are.
        target: Class indices or `ignore_index`.
        gamma: 0 gives the mean cross-entropy; larger values look more at the pixels that are still wrong.
        weight: The weight of each class (the paper's alpha). The sum is divided by the summed weight.
        ignore_index: The target value of pixels that do not count.

    Source: Lin, Goyal, Girshick, He and Dollár 2017, "Focal loss for dense object detection", section 3.
    """
    logits = _at_least_float32(logits)
    pixel_weights = _pixel_weights(logits, target, weight, ignore_index)
    own = F.log_softmax(logits, 1).gather(1, _class_or_zero(target, ignore_index)[:, None])[:, 0]
    # An exact 0 to a power below 1 would have an infinite gradient.
    missed = -torch.expm1(own).clamp(max=-torch.finfo(own.dtype).tiny)
    losses = torch.where(target != ignore_index, missed**gamma * -own, 0)
    return _mean((pixel_weights * losses).sum(), pixel_weights.sum())


def dice(
    logits: Float[Tensor, "n k h w"],
    target: Integer[Tensor, "n h w"],
    *,
    weight: Float[Tensor, " k"] | None = None,
    ignore_index: int = 255,
    smooth: float = 1.0,
) -> Float[Tensor, ""]:
    """One minus the Dice overlap of softmax(logits) with the target, averaged over the classes in the target.

    The overlap of a class, `(2 * sum(p * t) + smooth) / (sum(p) + sum(t) + smooth)`, is taken over the whole batch, so
    that an image without the class does not decide it.

    Args:
        logits: Computed with in float32, or float64 if they are.
        target: Class indices or `ignore_index`. If every pixel is ignored, the loss is 0.
        weight: The weight of each class in the average.
        ignore_index: The target value of pixels that do not count.
        smooth: Pixels added to both sides of the ratio, so that a class of few pixels is not all or nothing.

    Source: Milletari, Navab and Ahmadi 2016, "V-Net", with plain sums below the line as in Drozdzal et al. 2016.
    """
    logits = _at_least_float32(logits)
    counted = (target != ignore_index)[:, None]
    probabilities = torch.where(counted, logits.softmax(1), 0)
    classes = torch.arange(logits.shape[1], device=logits.device)[:, None, None]
    truth: Bool[Tensor, "n k h w"] = counted & (target[:, None] == classes)
    pixels = truth.sum((0, 2, 3))
    shared = torch.where(truth, probabilities, 0).sum((0, 2, 3))
    overlap = (2 * shared + smooth) / (probabilities.sum((0, 2, 3)) + pixels + smooth)
    importance = (pixels > 0).to(overlap) if weight is None else (pixels > 0) * weight.to(overlap)
    # `where`, because a class outside the target has overlap 0/0 if `smooth` is 0.
    return _mean((importance * torch.where(pixels > 0, 1 - overlap, 0)).sum(), importance.sum())


def sampled(
    target: Integer[Tensor, "n h w"], keep: float, generator: torch.Generator, *, ignore_index: int = 255
) -> Integer[Tensor, "n h w"]:
    """The target in which each pixel is kept with probability `keep`, on its own, and ignored otherwise.

    Whole-image training is patchwise training on all receptive fields at once, so to drop pixels from the loss is to
    sample patches. A summed loss shrinks by `keep` in expectation: take `1 / keep` times as many images per batch, as
    the paper does, or divide the loss by `keep`.

    Args:
        target: Class indices or `ignore_index`; what is ignored stays so.
        keep: In (0, 1].
        generator: The only source of chance.
        ignore_index: The target value of pixels that do not count.

    Source: Long, Shelhamer and Darrell 2015, sections 3.4 and 4.3.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep must be a probability above 0 and at most 1, got {keep}")
    drawn = torch.rand(target.shape, generator=generator, device=generator.device)
    return target.masked_fill((drawn >= keep).to(target.device), ignore_index)


def class_weights(pixel_counts: Integer[Tensor, "*images k"], scheme: WeightScheme) -> Float[Tensor, " k"]:
    """One loss weight per class, larger for rarer classes.

    With the share p of a class among all counted pixels:

    * `none`: 1.
    * `log`: `1 / log(1.02 + p)`, scaled to mean 1: rare classes count up to about 35 times as much as a class that
      fills the images (Paszke, Chaurasia, Kim and Culurciello 2016, "ENet", section 5).
    * `median`: `median(f) / f`, where f is the class's share of the pixels of the images that hold it (Eigen and Fergus
      2015, "Predicting depth, surface normals and semantic labels", section 6.2.1). From counts of a whole data set,
      which do not say which images hold what, f is p.
    * `inverse`: `1 / p`, scaled to mean 1.

    Args:
        pixel_counts: Pixels of each class, over the data set or image by image.
        scheme: One of the above.

    Returns:
        float32. A class without pixels weighs 1, and does not enter the mean or the median.
    """
    counts = pixel_counts.double().reshape(-1, pixel_counts.shape[-1])
    totals = counts.sum(0)
    present = totals > 0
    if not present.any():
        raise ValueError("class weights need at least one labelled pixel, got counts of 0 for every class")
    share = totals / totals.sum()
    if scheme == "none":
        raw = torch.ones_like(share)
    elif scheme == "log":
        raw = _mean_of_one(1 / torch.log(1.02 + share), present)
    elif scheme == "median":
        frequency = totals / ((counts > 0) * counts.sum(1, keepdim=True)).sum(0)
        raw = frequency[present].quantile(0.5) / frequency
    elif scheme == "inverse":
        raw = _mean_of_one(1 / share, present)
    else:
        raise ValueError(f"scheme must be 'none', 'log', 'median' or 'inverse', got {scheme!r}")
    return torch.where(present, raw, 1).float()


def _mean_of_one(weights: Float[Tensor, " k"], present: Bool[Tensor, " k"]) -> Float[Tensor, " k"]:
    return weights / weights[present].mean()


def _mean(total: Float[Tensor, ""], mass: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """`total / mass`, and 0 without mass; `total` is 0 then."""
    return total / torch.where(mass > 0, mass, 1)


def _pixel_weights(
    logits: Float[Tensor, "n k h w"],
    target: Integer[Tensor, "n h w"],
    weight: Float[Tensor, " k"] | None,
    ignore_index: int,
) -> Float[Tensor, "n h w"]:
    """The weight of each pixel's class; 0 where it is ignored."""
    counted = (target != ignore_index).to(logits)
    return counted if weight is None else counted * weight.to(logits)[_class_or_zero(target, ignore_index)]


def _class_or_zero(target: Integer[Tensor, "n h w"], ignore_index: int) -> Integer[Tensor, "n h w"]:
    """The target as an index; ignored pixels point to class 0."""
    return target.long().masked_fill(target == ignore_index, 0)


def _at_least_float32(logits: Float[Tensor, "n k h w"]) -> Float[Tensor, "n k h w"]:
    return logits if logits.dtype == torch.float64 else logits.float()
