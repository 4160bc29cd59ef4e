"""Several ways of training compared: each with several seeds, all within the time that there is."""

import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

from fullyconv.experiments import runs
from fullyconv.experiments.findings import Curve, Row, mean_row
from fullyconv.experiments.runs import Scores, Trial
from fullyconv.experiments.schedule import Alike, Cost, Schedule, schedule, taken
from fullyconv.experiments.workbench import Workbench

SCORES = {
    "pixel_accuracy": "pixel acc.",
    "mean_accuracy": "mean acc.",
    "mean_iou": "mean IU",
    "frequency_weighted_iou": "f.w. IU",
}
TIMED_STEPS, TIMED_IMAGES = 6, 4
LEAST_SECONDS = 5  # an experiment that may take less takes the least steps, and spends no time on timing
LITTLE = 0.1  # of the way from the mean accuracy of naming one class everywhere to a perfect one
PIECES = 50  # that a curve of losses is averaged into


@dataclass(frozen=True)
class Outcome:
    """What one training came to.

    Args:
        scores: The paper's four of each head, in [0, 1].
        images: So many were scored.
        steps: Of the optimiser.
        seconds_per_step: The median.
        losses: Step, seconds since the first step, and mean training loss of each piece of the run.
    """

    scores: Mapping[str, Scores]
    images: int
    steps: int
    seconds_per_step: float
    losses: Sequence[Sequence[float]]

    @property
    def first(self) -> Scores:
        """The scores of the first head, or the only one."""
        return next(iter(self.scores.values()))


Outcomes = dict[str, list[Outcome]]


def carry_out(bench: Workbench, trials: Sequence[Trial], *, alike: Alike) -> Outcomes:
    """The outcomes of each trial by label, one per seed.

    Trials take turns, so that all of them have a first seed before one has a second, and a machine that changes its
    speed slows all alike.

    Args:
        bench: Keeps what is measured.
        trials: Labels must differ.
        alike: What every training gets the same of; seconds are turned into steps by a quick timing.
    """
    costs = {trial.label: Cost(**bench.part(f"timing-{trial.slug}", _cost, bench, trial)) for trial in trials}
    plan = Schedule(**bench.part("schedule", _planned, bench, trials, _once_warm(costs), alike))
    outcomes: Outcomes = {trial.label: [] for trial in trials}
    for seed in range(bench.settings.seed, bench.settings.seed + plan.seeds):
        for trial in trials:
            part = f"{trial.slug}-seed{seed}"
            value = bench.part(part, _trained, bench, trial, part, seed, plan)
            outcomes[trial.label].append(Outcome(**value))
    return outcomes


def _cost(bench: Workbench, trial: Trial) -> dict[str, float]:
    """The fields of `Cost`, from a training of a few steps."""
    nets = trial.nets
    if 60 * bench.settings.minutes < LEAST_SECONDS:
        return asdict(Cost(step=1.0, image=0.0, beside=1.0, nets=nets))
    bench.say(f"timing {trial.label}")
    begun = time.monotonic()
    steps, name = TIMED_STEPS * nets, f"timing-{trial.slug}"
    shutil.rmtree(bench.folder / "runs" / name, ignore_errors=True)  # one that was stopped would look too fast
    run = runs.carry_out(bench, trial, name, seed=bench.settings.seed, steps=steps, val=TIMED_IMAGES)
    seconds = time.monotonic() - begun
    validation = sum(record["validation_seconds"] for record in run.records("validation"))
    step = run.seconds_per_step
    shutil.rmtree(run.folder)
    run.folder.with_suffix(".log").unlink()
    return asdict(Cost(step, validation / TIMED_IMAGES, max(0.0, seconds - steps * step - validation), nets))


def _once_warm(costs: Mapping[str, Cost]) -> dict[str, Cost]:
    """The costs without what the first timing alone has paid: imports, and the compilation of kernels."""
    beside = min(cost.beside / cost.nets for cost in costs.values())
    return {label: replace(cost, beside=beside * cost.nets) for label, cost in costs.items()}


def _planned(bench: Workbench, trials: Sequence[Trial], costs: Mapping[str, Cost], alike: Alike) -> dict[str, Any]:
    """The fields of `Schedule`."""
    images = min(len(trial.dataset.pairs("val")) for trial in trials)
    plan = schedule(costs, bench.seconds_left(), val=images, alike=alike)
    if taken(costs, plan) > bench.seconds_left():
        bench.say(f"{bench.settings.minutes:g} minutes are too short for this; every net gets the least steps")
    return asdict(plan)


def _trained(bench: Workbench, trial: Trial, part: str, seed: int, plan: Schedule) -> dict[str, Any]:
    """The fields of `Outcome`; of the run folders, what takes room and helps nobody is removed."""
    steps = plan.steps[trial.label]
    run = runs.carry_out(bench, trial, part, seed=seed, steps=steps, val=plan.val)
    for done in ("checkpoints", "last"):
        for folder in (*run.folder.glob(done), *run.folder.glob(f"*/{done}")):
            shutil.rmtree(folder)
    outcome = Outcome(run.scores, run.images, steps, run.seconds_per_step, _losses(run.records("train")))
    bench.say(f"{trial.label}, seed {seed}: mean IU {100 * outcome.first['mean_iou']:.1f} % after {steps} steps")
    return asdict(outcome)


def _losses(records: Sequence[Mapping[str, Any]]) -> list[tuple[float, float, float]]:
    """Step, seconds and mean loss of up to `PIECES` pieces of a run."""
    size = -(-len(records) // PIECES)
    pieces = [records[first : first + size] for first in range(0, len(records), size)]
    begun = records[0]["seconds"]
    return [
        (piece[-1]["step"], piece[-1]["seconds"] - begun, statistics.fmean(record["loss"] for record in piece))
        for piece in pieces
    ]


# Rows, curves and words ----------------------------------------------------------------------------------------------


def score_rows(
    outcomes: Outcomes,
    paper: Mapping[str, Sequence[float]],
    released: Mapping[str, Sequence[float]] = MappingProxyType({}),
    *,
    scores: Sequence[str] = tuple(SCORES),
) -> list[Row]:
    """A row per label and score of the first head, in percent.

    Args:
        outcomes: Ours.
        paper: Percents of a label in the order of `SCORES`, where there are any.
        released: Likewise, of the authors' released models.
        scores: Keys of `SCORES`.
    """

    def told(source: Mapping[str, Sequence[float]], label: str, score: str) -> float | None:
        return dict(zip(SCORES, source.get(label, ()), strict=False)).get(score)

    return [
        mean_row(
            label,
            SCORES[score],
            [100 * outcome.first[score] for outcome in of_label],
            unit="%",
            paper=told(paper, label, score),
            released=told(released, label, score),
        )
        for label, of_label in outcomes.items()
        for score in scores
    ]


def time_rows(outcomes: Outcomes) -> list[Row]:
    """The time per iteration of each label."""
    return [
        mean_row(label, "time per iteration", [1000 * outcome.seconds_per_step for outcome in of_label], unit="ms")
        for label, of_label in outcomes.items()
    ]


def loss_curves(outcomes: Outcomes) -> list[Curve]:
    """The training loss over iterations and over time, a line per seed."""
    return [
        Curve(
            label,
            f"training loss over {axis}",
            axis,
            tuple(point[place] for point in outcome.losses),
            tuple(point[2] for point in outcome.losses),
        )
        for place, axis in enumerate(("iterations", "seconds"))
        for label, of_label in outcomes.items()
        for outcome in of_label
    ]


def scale(bench: Workbench, outcomes: Outcomes) -> str:
    """How much was trained, to begin a conclusion with."""
    every = [outcome for of_label in outcomes.values() for outcome in of_label]
    fewest, most = (end(outcome.steps for outcome in every) for end in (min, max))
    seconds = statistics.fmean(outcome.steps * outcome.seconds_per_step for outcome in every)
    time_each = f"{seconds / 60:.2g} minutes" if seconds >= 60 else f"{seconds:.2g} seconds"
    steps = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    told = f"After {steps} steps, about {time_each}, of {bench.settings.trunk}"
    best = max(outcome.first["mean_accuracy"] for outcome in every)
    chance = 1 / len(bench.dataset.labels)
    if best < chance + LITTLE * (1 - chance):
        return f"{told}, which taught little more than the commonest class (give more --minutes)"
    return told


def conditions(trials: Sequence[Trial], outcomes: Outcomes, start: str) -> dict[str, Any]:
    """What the trainings shared and what not, for the reader."""
    some = next(iter(outcomes.values()))
    return {
        "nets": _shared({trial.label: trial.model + (" in stages" if trial.nets > 1 else "") for trial in trials}),
        "steps": _shared({label: of_label[0].steps for label, of_label in outcomes.items()}),
        "start": start,
        "images": f"{len(trials[0].dataset.pairs('train'))} to train on, {some[0].images} to score",
        "seeds": len(some),
    }


def _shared(by_label: Mapping[str, Any]) -> Any:
    """The one value that all labels have, or all values."""
    values = list(by_label.values())
    return values[0] if all(value == values[0] for value in values) else dict(by_label)
