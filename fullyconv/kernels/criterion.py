"""What the loss of a pixel depends on besides its scores and its target."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer, Shaped
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Criterion:
    """Which pixels count in a cross-entropy, and how much.

    Args:
        weight: The weight of each class; without it, each weighs 1.
        ignore_index: The target value of pixels that do not count.
        label_smoothing: The share of the target that is spread evenly over all classes, in [0, 1].
    """

    weight: Float[Tensor, " k"] | None = None
    ignore_index: int = 255
    label_smoothing: float = 0.0

    def mass(self, target: Integer[Tensor, "n height width"]) -> Shaped[Tensor, ""]:
        """The summed weight of the pixels that count, which a mean divides by; 1 where none counts.

        An illegal value of the target, which no GPU refuses, is taken for the nearest class.
        """
        counted = target != self.ignore_index
        if self.weight is None:
            total = counted.sum()
        else:
            weight = self.weight.to(target.device)
            total = (weight[target.where(counted, 0).long().clamp(0, len(weight) - 1)] * counted).sum()
        return torch.where(total > 0, total, 1)
