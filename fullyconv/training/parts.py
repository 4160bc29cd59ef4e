"""A part of a batch: what one process computes at a time."""

import math
from collections.abc import Sequence

import torch

from fullyconv import images
from fullyconv.datasets import Pair
from fullyconv.errors import FullyconvError
from fullyconv.models import FCN
from fullyconv.surgery import blueprint
from fullyconv.training.plan import Plan
from fullyconv.training.recipes import SMALL, Recipe, keep_statistics
from fullyconv.wording import counted


def refuse_uneven(plan: Plan, processes: int) -> None:
    """Do nothing if a batch can be split evenly over the processes and the parts of each.

    Raises:
        FullyconvError: SEG-T007 if it cannot.
    """
    if plan.recipe.batch % (plan.parts * processes):
        near = max(1, round(plan.recipe.batch / (plan.parts * processes))) * plan.parts * processes
        raise FullyconvError(
            "SEG-T007",
            f"a batch of {plan.recipe.batch} cannot be split over {counted(processes, 'process')} with "
            f"{counted(plan.parts, 'part')} each; use --batch {near}",
        )


def refuse_lone_values(plan: Plan, processes: int, network: FCN, pairs: Sequence[Pair]) -> None:
    """Do nothing if every batch norm in training gets more than one value of a channel, which it needs for a deviation.

    Raises:
        FullyconvError: SEG-T014 if parts are single samples, and one may be so small that its coarsest map is one cell.
    """
    if plan.recipe.batch > plan.parts * processes:
        return
    shadow = blueprint(network).train()
    if plan.recipe.tune == "score":
        keep_statistics(shadow)
    height, width = min(_sizes(plan.recipe, pairs), key=max)  # a map is one cell if its longer side is
    try:
        shadow.scores(torch.empty(1, sum(plan.bands), height, width, device="meta"))  # type: ignore[operator]
    except ValueError as fault:
        if "more than 1 value per channel" not in str(fault):
            raise
        fewer = ", a smaller --accumulate" if plan.parts > 1 else ""
        steady = ", or --growth 0" if plan.recipe.growth else ""
        raise FullyconvError(
            "SEG-T014",
            f"each part of a batch is one sample, the smallest of {height} x {width} pixels, of which batch norms get "
            f"a single value; use --batch {2 * plan.recipe.batch}{fewer}, or a larger --crop{steady}",
        ) from fault


def out_of_memory(plan: Plan, processes: int, pairs: Sequence[Pair], step: int, *, kept: bool) -> FullyconvError:
    """What tells that a step took more memory than there is, and what would take less.

    Args:
        plan: Of the run.
        processes: That train together.
        pairs: Training images.
        step: How many were taken before.
        kept: Whether the run can go on.
    """
    mine = plan.recipe.batch // processes
    height, width = max(_sizes(plan.recipe, pairs), key=math.prod)
    finer = [f"--accumulate {parts}" for parts in range(plan.parts + 1, mine + 1) if mine % parts == 0]
    crop = tuple(max(32, int(0.7 * side) // 32 * 32) for side in (height, width))  # half of the pixels
    smaller = [f"--crop {crop[0]},{crop[1]}"] if crop != (height, width) else []
    cure = f"train with {' or '.join([*finer[:1], *smaller]) or 'a smaller network'}"
    if kept:
        cure = f"go on by --resume where more is free; a run keeps its batches, so for less, begin another and {cure}"
    return FullyconvError(
        "SEG-T015",
        f"memory ran out at step {step}, of which a process computes {counted(mine // plan.parts, 'sample')} of up to "
        f"{height} x {width} pixels at a time; {cure}",
    )


def _sizes(recipe: Recipe, pairs: Sequence[Pair]) -> list[tuple[int, int]]:
    """Height and width of the samples of a run, each size once at least."""
    augmentation = recipe.augmentation
    if augmentation is None or augmentation.crop is None:
        return [images.image_size(pair.image) for pair in pairs]
    small = augmentation.shrunk(SMALL).crop if recipe.growth else None
    return [augmentation.crop, *([small] if small else [])]
