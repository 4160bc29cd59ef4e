"""How long each of several trainings may be, so that all of them, repeated, fit into the time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Alike = Literal["steps", "seconds"]

MOST_SEEDS = 3
SECONDS_FOR_A_THIRD_SEED = 180  # a run that gets less is better made longer than repeated once more
LEAST_STEPS = 4  # of each net; with fewer, there is nothing to time
LEAST_VAL = 20
VAL_SHARE = 0.2  # of a run's time


@dataclass(frozen=True)
class Cost:
    """What one training takes, in seconds.

    Args:
        step: Of the optimiser.
        image: Scored after training.
        beside: Everything else.
        nets: How many are trained one after the other.
    """

    step: float
    image: float
    beside: float
    nets: int = 1

    @property
    def least_steps(self) -> int:
        return LEAST_STEPS * self.nets


@dataclass(frozen=True)
class Schedule:
    """What was decided.

    Args:
        seeds: Repetitions of every training.
        val: Images that are scored after each.
        steps: Of each training, by label.
    """

    seeds: int
    val: int
    steps: dict[str, int]


def schedule(costs: Mapping[str, Cost], seconds: float, *, val: int, alike: Alike) -> Schedule:
    """Three repetitions if every run gets minutes, else two, so that there is a spread; one if two do not fit.

    If not even that fits, every net gets the least number of steps, and the time is overrun.

    Args:
        costs: By label.
        seconds: For all trainings together.
        val: Images that there are to score.
        alike: What every training gets the same of.
    """
    found = {seeds: _repeated(costs, seconds / seeds, seeds, val, alike) for seeds in range(MOST_SEEDS, 0, -1)}
    if seconds / (MOST_SEEDS * len(costs)) < SECONDS_FOR_A_THIRD_SEED:
        del found[MOST_SEEDS]
    fitting = [plan for plan in found.values() if taken(costs, plan) <= seconds]
    return fitting[0] if fitting else found[1]


def taken(costs: Mapping[str, Cost], plan: Schedule) -> float:
    """The seconds that a schedule takes."""
    once = sum(cost.step * plan.steps[label] + cost.image * plan.val + cost.beside for label, cost in costs.items())
    return once * plan.seeds


def _repeated(costs: Mapping[str, Cost], seconds: float, seeds: int, val: int, alike: Alike) -> Schedule:
    """The schedule for so many seeds, each of which may take so many seconds."""
    images = sum(cost.image for cost in costs.values())
    scored = min(val, max(LEAST_VAL, int(VAL_SHARE * seconds / max(images, 1e-9))))
    beside = {label: cost.image * scored + cost.beside for label, cost in costs.items()}
    if alike == "seconds":
        steps = {label: int((seconds / len(costs) - beside[label]) / cost.step) for label, cost in costs.items()}
    else:
        shared = (seconds - sum(beside.values())) / sum(cost.step for cost in costs.values())
        steps = dict.fromkeys(costs, int(shared))
    least = {label: cost.least_steps for label, cost in costs.items()}
    if alike == "steps":
        least = dict.fromkeys(costs, max(least.values()))
    return Schedule(seeds, scored, {label: max(count, least[label]) for label, count in steps.items()})
