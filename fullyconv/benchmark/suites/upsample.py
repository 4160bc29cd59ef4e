"""Label maps from coarse scores."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from fullyconv.benchmark.comparing import Sides, Target, Work
from fullyconv.benchmark.inputs import Size, mask, noise_scores, smooth_scores
from fullyconv.benchmark.machine import Cost
from fullyconv.kernels import upsample_argmax, upsample_confusion

KINDS = {
    "smooth": (smooth_scores, Target(50, 100, memory=1 / 50)),
    "white noise": (noise_scores, Target(12, 20, memory=1 / 50)),
}


def works(quick: bool) -> list[Work]:
    """Label maps from coarse scores, which networks end with.

    Smooth scores are blobs of 16 cells and a little noise; in white noise every class may win anywhere. The limit is
    one look at the scores and one write of the labels.
    """
    size = (64, 128) if quick else (1024, 2048)
    label_maps = [
        Work(
            f"label map, K={classes}, {size[0]}x{size[1]}, {kind}",
            "torch interpolate, argmax",
            partial(_label_map, make, classes, size),
            target=target,
        )
        for classes in (21, 150)
        for kind, (make, target) in KINDS.items()
    ]
    counts = [
        Work(
            f"confusion matrix of the label map, K=21, {size[0]}x{size[1]}, {kind}",
            "torch interpolate, argmax, bincount",
            partial(_confusion, make, 21, size),
        )
        for kind, (make, _) in KINDS.items()
    ]
    return label_maps + counts


def _label_map(make: Callable[..., Tensor], classes: int, size: Size) -> Sides:
    scores = make(1, classes, size[0] // 8, size[1] // 8)
    return Sides(
        partial(upsample_argmax, scores, size),
        partial(interpolated_argmax, scores, size),
        Cost(bytes=scores.nbytes + size[0] * size[1]),
    )


def _confusion(make: Callable[..., Tensor], classes: int, size: Size) -> Sides:
    scores = make(1, classes, size[0] // 8, size[1] // 8)
    target = mask(classes, size)[None]
    return Sides(
        partial(upsample_confusion, scores, target),
        partial(_bincount, scores, target.long()),
        Cost(bytes=scores.nbytes + target.nbytes),
    )


def _bincount(scores: Tensor, target: Tensor) -> Tensor:
    classes, counted = scores.shape[1], target != 255
    pred = interpolated_argmax(scores, (target.shape[1], target.shape[2]))
    pairs = classes * target[counted] + pred[counted]
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


def interpolated_argmax(scores: Tensor, size: Size) -> Tensor:
    """The label map as everybody makes it."""
    return F.interpolate(scores, size=size, mode="bilinear").argmax(1)
