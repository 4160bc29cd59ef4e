"""Cross-entropy of coarse scores at full size, with its gradient."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from fullyconv.benchmark.comparing import Sides, Target, Work
from fullyconv.benchmark.inputs import mask, smooth_scores
from fullyconv.benchmark.machine import Cost
from fullyconv.kernels import upsample_cross_entropy

# Of each class at each pixel: the score 2, its exponential 16 (range reduction 4, a polynomial of degree five 10, the
# power of two 2), their sum 1, the gradient 2, and what it adds to two rows of cells 4.
OPERATIONS = 25
TARGETS = {(11, 8): 3.0, (21, 8): 3.5, (150, 2): 4.5}


def works(quick: bool) -> list[Work]:
    """Cross-entropy and its gradient from coarse scores, which training ends with.

    The limit counts 25 operations of each class at each pixel, most of them for the exponential.
    """
    size = (40, 48) if quick else (360, 480)
    return [
        Work(
            f"loss and gradient, K={classes}, {batch}x{size[0]}x{size[1]}",
            "torch interpolate, cross_entropy",
            partial(_loss, classes, batch, size),
            target=Target(least, 8, memory=1 / 40),
        )
        for (classes, batch), least in TARGETS.items()
    ]


def _loss(classes: int, batch: int, size: tuple[int, int]) -> Sides:
    scores = smooth_scores(batch, classes, size[0] // 8, size[1] // 8).requires_grad_()
    target = torch.stack([mask(classes, size)] * batch).long()
    return Sides(
        partial(_ours, scores, target),
        partial(_peer, scores, target),
        Cost(OPERATIONS * target.numel() * classes, target.nbytes + 2 * scores.nbytes),
    )


def _ours(scores: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    loss = upsample_cross_entropy(scores, target)
    return loss, *torch.autograd.grad(loss, scores)


def _peer(scores: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    logits = F.interpolate(scores, size=target.shape[1:], mode="bilinear")
    loss = F.cross_entropy(logits, target, ignore_index=255)
    return loss, *torch.autograd.grad(loss, scores)
