"""Recipes: the settings that go together, and the schedule that they follow."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import nn

from fullyconv.transforms import Augmentation

Schedule = Literal["poly", "cosine", "constant"]
Loss = Literal["cross_entropy", "hardest", "dice", "focal"]
Balance = Literal["none", "log", "median"]
Reduction = Literal["mean", "image", "sum"]
Tuning = Literal["all", "score"]
Augment = Literal["default", "paper", "none"]

AUGMENTATIONS: dict[Augment, Augmentation | None] = {
    "default": Augmentation(),
    # Long et al. 2015, section 4.3: mirrored, and moved by up to 32 pixels; "no noticeable improvement".
    "paper": Augmentation(crop=None, scale=(1, 1), aspect=1, light=0, focus=0, shift=32),
    "none": None,
}
PLAIN_CROPS = Augmentation(scale=(1, 1), aspect=1, flip=0, light=0, focus=0)

SMALL = 0.6
LEAST_SMALL_CROP = 96  # pixels: with fewer, the coarsest maps would have hardly any cells


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Args:
        optimizer: `adamw`, or `sgd` with momentum and, as in the paper, twice the learning rate for biases.
        learning_rate: At the top of the schedule.
        momentum: Of SGD. A gradient that was seen k images ago counts p times as much at batch k and momentum p, and
            so it does at batch 1 and momentum `p ** (1 / k)`: 0.9 at a batch of 20 is 0.9947 at 1, near the 0.99 of
            `heavy`.
        weight_decay: Of all weights but biases and normalisation.
        schedule: How the learning rate falls; `poly` is (1 - progress) ** 0.9.
        warmup: Share of the run over which the learning rate rises from zero.
        batch: Images per step, all processes and accumulated parts together.
        loss: On the logits at image size.
        reduction: Of the loss of pixels. `mean` over those of the batch that count; `image`, the mean of each image,
            averaged over the batch, which is what Caffe accumulates with `normalize: true` and `iter_size`; `sum`, over
            the pixels, averaged over the batch, Caffe's `normalize: false`.
        balance: Class weights from the pixel counts of the training masks.
        ema: Decay of the moving average of the weights that is validated and saved; 0 for none.
        clip: Greatest norm of the gradient; 0 for no limit.
        augmentation: None trains on whole images as they are.
        growth: Share of the run, at its beginning, that is trained on samples `SMALL` times as high and wide: a step
            then costs a third, so that more images are seen in the same time.
        sampling: Probability that a pixel counts in the loss. The paper makes up for it by 1 / p times the batch.
        tune: `score` trains the score layers alone, and keeps all else as it is, statistics of normalisation included.
        plain_trunk_biases: Whether biases of the trunk learn and decay as its weights do.
    """

    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.05
    schedule: Schedule = "poly"
    warmup: float = 0.03
    batch: int = 8
    loss: Loss = "cross_entropy"
    reduction: Reduction = "mean"
    balance: Balance = "log"
    ema: float = 0.998
    clip: float = 0.0
    augmentation: Augmentation | None = field(default_factory=Augmentation)
    growth: float = 0.0
    sampling: float = 1.0
    tune: Tuning = "all"
    plain_trunk_biases: bool = False


# Long et al. 2015, section 4.3; that its loss was normalised image by image is known from the authors' FCN-AlexNet,
# trained that way.
CVPR15 = Recipe(
    "sgd", 1e-4, 0.9, 5e-4, "constant", 0.0, 20, reduction="image", balance="none", ema=0.0, augmentation=None
)
# The solver files of the authors' release.
HEAVY = Recipe(
    "sgd", 1e-10, 0.99, 5e-4, "constant", 0.0, 1, reduction="sum", balance="none", ema=0.0, augmentation=None
)
RECIPES: dict[str, Recipe] = {"default": Recipe(growth=0.5), "cvpr15": CVPR15, "heavy": HEAVY}
PAPER = frozenset({"cvpr15", "heavy"})
CVPR15_RATES = {"alexnet": 1e-3, "vgg16": 1e-4, "googlenet": 5e-5}


def recipe_for(name: str, trunk: str, *, stage: int = 0, layout: str = "") -> Recipe:
    """A recipe as it applies to a network; those of the paper choose the learning rate by it.

    Args:
        name: Key of `RECIPES`.
        trunk: Such as `vgg16`. In the authors' FCN-AlexNet, the trunk's biases are no exception to its weights.
        stage: How many stages of training were before.
        layout: Of the data set.
    """
    recipe = RECIPES[name]
    if name not in PAPER:
        return recipe
    rate = CVPR15_RATES.get(trunk, recipe.learning_rate) if name == "cvpr15" else recipe.learning_rate
    slow = slowdown(name, stage, layout)
    return replace(recipe, learning_rate=rate / slow, plain_trunk_biases=trunk == "alexnet")


def slowdown(name: str, stage: int, layout: str = "") -> float:
    """What the learning rate of a recipe is divided by in a stage: in the paper's, 100 for each stage before.

    Args:
        name: Key of `RECIPES`.
        stage: How many stages of training were before.
        layout: Of the data set: for SIFT Flow, the authors' FCN-8s keeps the rate of their FCN-16s.
    """
    if name not in PAPER:
        return 1.0
    return 100.0 ** (min(stage, 1) if name == "heavy" and layout == "siftflow" else stage)


def rate_goes_by_pixels(recipe: Recipe, reduction: Reduction) -> bool:
    """Whether another reduction of the loss needs another learning rate: SGD's, between a sum and a mean."""
    return recipe.optimizer == "sgd" and (recipe.reduction == "sum") != (reduction == "sum")


def reduced(recipe: Recipe, reduction: Reduction, pixels: float) -> Recipe:
    """The recipe that takes the same steps with the loss reduced in another way.

    A sum over n pixels has n times the gradient of their mean. So SGD needs 1/n of the learning rate; and n times the
    decay, which its step multiplies by that rate. AdamW's steps do not depend on the scale of the loss.

    Args:
        recipe: With the reduction that its learning rate is meant for.
        reduction: Wanted instead.
        pixels: How many count in an image on average.
    """
    changed = replace(recipe, reduction=reduction)
    if not rate_goes_by_pixels(recipe, reduction):
        return changed
    ratio = pixels if recipe.reduction == "sum" else 1 / pixels
    return replace(changed, learning_rate=recipe.learning_rate * ratio, weight_decay=recipe.weight_decay / ratio)


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


def tune_scores_only(model: nn.Module) -> None:
    """Changes a model so that its score layers alone are trained, as in the paper's FCN-32s-fixed."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("score_layers." in name)


def keep_statistics(model: nn.Module) -> None:
    """Changes a model in training so that its normalisation goes by the statistics it has, and leaves them alone."""
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            module.eval()


def parameter_groups(recipe: Recipe, model: nn.Module) -> list[dict[str, Any]]:
    """Parameters by learning rate and decay: biases and normalisation do not decay; SGD gives biases twice the rate.

    Trained upsampling kernels are weights like others; fixed ones are no parameters.

    Source: the authors' network definitions (`lr_mult: 2, decay_mult: 0` for biases).
    """
    weights: list[nn.Parameter] = []
    scales: list[nn.Parameter] = []
    biases: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        plain = recipe.plain_trunk_biases and "trunk." in name
        if parameter.ndim > 1 or plain:
            weights.append(parameter)
        else:
            (biases if name.endswith("bias") else scales).append(parameter)
    return [
        {"params": weights, "weight_decay": recipe.weight_decay, "rate": 1.0},
        {"params": scales, "weight_decay": 0.0, "rate": 1.0},
        {"params": biases, "weight_decay": 0.0, "rate": 2.0 if recipe.optimizer == "sgd" else 1.0},
    ]


def optimizer_of(recipe: Recipe, groups: Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimiser of a recipe over parameter groups."""
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum)
