"""Recipes: the settings that go together, and the schedule that they follow."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from fullyconv.transforms import Augmentation

Schedule = Literal["poly", "cosine", "constant"]
Loss = Literal["cross_entropy", "dice", "focal"]
Balance = Literal["none", "log", "median"]


SMALL = 0.6
LEAST_SMALL_CROP = 96  # pixels: with fewer, the coarsest maps would have hardly any cells


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Args:
        optimizer: `adamw`, or `sgd` with momentum and, as in the paper, twice the learning rate for biases.
        learning_rate: At the top of the schedule.
        momentum: Of SGD.
        weight_decay: Of all weights but biases and normalisation.
        schedule: How the learning rate falls; `poly` is (1 - progress) ** 0.9.
        warmup: Share of the run over which the learning rate rises from zero.
        batch: Images per step, all processes and accumulated parts together.
        loss: On the logits at image size.
        reduction: `mean` over the pixels that count, or `sum` divided by the batch, Caffe's unnormalised loss.
        balance: Class weights from the pixel counts of the training masks.
        ema: Decay of the moving average of the weights that is validated and saved; 0 for none.
        clip: Greatest norm of the gradient; 0 for no limit.
        augmentation: None trains on whole images as they are.
        growth: Share of the run, at its beginning, that is trained on samples `SMALL` times as high and wide: a step
            then costs a third, so that more images are seen in the same time.
    """

    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.05
    schedule: Schedule = "poly"
    warmup: float = 0.03
    batch: int = 8
    loss: Loss = "cross_entropy"
    reduction: Literal["mean", "sum"] = "mean"
    balance: Balance = "log"
    ema: float = 0.998
    clip: float = 0.0
    augmentation: Augmentation | None = field(default_factory=Augmentation)
    growth: float = 0.0


# cvpr15: Long et al. 2015, section 4.3, the rate for VGG16. heavy: the authors' solver files (batch 1, momentum 0.99,
# the loss summed over pixels); both rates are for FCN-32s.
STAGED = frozenset({"cvpr15", "heavy"})
RECIPES: dict[str, Recipe] = {
    "default": Recipe(growth=0.5),
    "cvpr15": Recipe("sgd", 1e-4, 0.9, 5e-4, "constant", 0.0, 20, balance="none", ema=0.0, augmentation=None),
    "heavy": Recipe(
        "sgd", 1e-10, 0.99, 5e-4, "constant", 0.0, 1, reduction="sum", balance="none", ema=0.0, augmentation=None
    ),
}


def learning_rate_factor(recipe: Recipe, progress: float) -> float:
    """What the learning rate is multiplied by.

    Args:
        recipe: Names the schedule and its warm-up.
        progress: Share of the run that is over, in [0, 1].
    """
    if progress < recipe.warmup:
        return max(progress, 1e-3) / recipe.warmup
    left = (1 - progress) / (1 - recipe.warmup)
    if recipe.schedule == "poly":
        return float(max(left, 0.0) ** 0.9)
    if recipe.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (1 - left)))
    return 1.0


def parameter_groups(recipe: Recipe, model: nn.Module) -> list[dict[str, Any]]:
    """Parameters by learning rate and decay: biases and normalisation do not decay; SGD gives biases twice the rate.

    Source: the authors' solver files (`lr_mult: 2, decay_mult: 0` for biases).
    """
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.ndim <= 1]
    bias_rate = 2.0 if recipe.optimizer == "sgd" else 1.0
    return [
        {"params": weights, "weight_decay": recipe.weight_decay, "rate": 1.0},
        {"params": others, "weight_decay": 0.0, "rate": bias_rate},
    ]


def optimizer_of(recipe: Recipe, groups: Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimiser of a recipe over parameter groups."""
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum)
