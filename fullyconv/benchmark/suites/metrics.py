"""Confusion matrices of masks."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fullyconv.benchmark.comparing import Sides, Target, Work
from fullyconv.benchmark.inputs import Size, mask
from fullyconv.benchmark.machine import Cost
from fullyconv.metrics import confusion_matrix

WRONG = 0.1  # of the predicted pixels, in patches


def works(quick: bool) -> list[Work]:
    """Confusion matrices, which every score is read off.

    Ours counts masks of bytes, as `evaluate` has them, the peers masks of int64, as their users have them. The limit is
    one look at both masks of bytes.
    """
    sizes = {21: (60, 60)} if quick else {21: (500, 500), 19: (1024, 2048)}
    peers: list[tuple[str, Callable[..., Any], tuple[str, ...], Target]] = [
        ("numpy bincount of int64 masks, as in pytorch-fcn", _by_numpy, (), Target(5, 20)),
        ("torchmetrics, int64 masks", _by_torchmetrics, ("torchmetrics",), Target(35, 100)),
    ]
    return [
        Work(
            f"confusion matrix, K={classes}, {size[0]}x{size[1]}",
            name,
            partial(_matrix, count, classes, size),
            needs=needs,
            target=target,
        )
        for classes, size in sizes.items()
        for name, count, needs, target in peers
    ]


def _matrix(count: Callable[..., Any], classes: int, size: Size) -> Sides:
    target = mask(classes, size)
    patches = torch.rand(size[0] // 8 + 1, size[1] // 8 + 1).repeat_interleave(8, 0).repeat_interleave(8, 1) < WRONG
    pred = torch.where(patches[: size[0], : size[1]] | (target == 255), classes - 1, target)
    return Sides(
        partial(confusion_matrix, target, pred, classes),
        partial(count, target.long(), pred.long(), classes),
        Cost(bytes=target.nbytes + pred.nbytes),
    )


def _by_numpy(target: Tensor, pred: Tensor, classes: int) -> Any:
    true, found = target.numpy(), pred.numpy()
    legal = (true >= 0) & (true < classes)
    return np.bincount(classes * true[legal] + found[legal], minlength=classes**2).reshape(classes, classes)


def _by_torchmetrics(target: Tensor, pred: Tensor, classes: int) -> Tensor:
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    return multiclass_confusion_matrix(pred, target, num_classes=classes, ignore_index=255)
