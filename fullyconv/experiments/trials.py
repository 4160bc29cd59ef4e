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
TIMING_SHARE = 0.2  # of the time limit, after which nothing more is timed
LEAST_SECONDS = 5  # an experiment that may take less takes the least steps, and spends no time on timing
NOTHING, LITTLE = 0.01, 0.1  # of the way from the mean accuracy of naming one class everywhere to a perfect one
PIECES = 50  # that a curve of losses is averaged into


@dataclass(frozen=True)
class Outcome:
    """What one training came to.

    Args:
        scores: The paper's four of each head, in [0, 1].
        images: So many were scored.
        classes: So many of each head's classes occur in them.
        recipe: Settings of the training, in words.
        steps: Of the optimiser.
        seconds_per_step: The median.
        losses: Step, seconds since the first step, and mean training loss of each piece of the run.
    """

    scores: Mapping[str, Scores]
    images: int
    classes: Mapping[str, int]
    recipe: Mapping[str, Any]
    steps: int
    seconds_per_step: float
    losses: Sequence[Sequence[float]]

    @property
    def head(self) -> str:
        """The first head, or the only one."""
        return next(iter(self.scores))

    @property
    def first(self) -> Scores:
        """The scores of the first head."""
        return self.scores[self.head]

    def learnt(self, head: str) -> float:
        """How far the mean accuracy is from that of one class named everywhere, 0, to a perfect one, 1."""
        chance = 1 / self.classes[head]
        return (self.scores[head]["mean_accuracy"] - chance) / (1 - chance) if chance < 1 else 0.0


Outcomes = dict[str, list[Outcome]]


def carry_out(bench: Workbench, trials: Sequence[Trial], *, alike: Alike) -> Outcomes:
    """The outcomes of each trial by label, one per seed.

    Trials take turns, so that all of them have a first seed before one has a second, and a machine that changes its
    speed slows all alike.

    Args:
        bench: Keeps what is measured.
        trials: Labels must differ. The dearest come last; they are timed first.
        alike: What every training gets the same of; seconds are turned into steps by a quick timing.
    """
    plan = Schedule(**bench.part("schedule", _planned, bench, trials, alike))
    outcomes: Outcomes = {trial.label: [] for trial in trials}
    for seed in range(bench.settings.seed, bench.settings.seed + plan.seeds):
        for trial in trials:
            part = f"{trial.slug}-seed{seed}"
            value = bench.part(part, _trained, bench, trial, part, seed, plan)
            outcomes[trial.label].append(Outcome(**value))
    return outcomes


def _costs(bench: Workbench, trials: Sequence[Trial]) -> dict[str, Cost]:
    """The costs by label. What there is no time to try is taken to be as dear as the dearest that was tried.

    The first training alone pays for imports and the compilation of kernels, so that the least of what is spent beside
    the steps stands for all.
    """
    known: dict[str, Cost] = {}
    limit = 60 * bench.settings.minutes
    begun = time.monotonic()
    for trial in reversed(trials) if limit >= LEAST_SECONDS else ():
        if known and time.monotonic() - begun > TIMING_SHARE * limit:
            break
        known[trial.label] = _cost(bench, trial)
    dearest = max(known.values(), key=lambda cost: cost.step, default=Cost(step=1.0, image=0.0, beside=1.0))
    beside = min((cost.beside / cost.nets for cost in known.values()), default=dearest.beside)
    return {
        trial.label: replace(known.get(trial.label, dearest), beside=beside * trial.nets, nets=trial.nets)
        for trial in trials
    }


def _cost(bench: Workbench, trial: Trial) -> Cost:
    """What a training of a few steps took."""
    nets = trial.nets
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
    return Cost(step, validation / TIMED_IMAGES, max(0.0, seconds - steps * step - validation), nets)


def _planned(bench: Workbench, trials: Sequence[Trial], alike: Alike) -> dict[str, Any]:
    """The fields of `Schedule`."""
    costs = _costs(bench, trials)
    images = min(len(trial.dataset.pairs("val")) for trial in trials)
    plan = schedule(costs, bench.seconds_left(), val=images, alike=alike)
    if (seconds := taken(costs, plan)) > bench.seconds_left():
        about = f", about {seconds / 60:.2g} minutes in all" if 60 * bench.settings.minutes >= LEAST_SECONDS else ""
        bench.say(f"{bench.settings.minutes:g} minutes are too short for this; every net gets the least steps{about}")
    return asdict(plan)


def _trained(bench: Workbench, trial: Trial, part: str, seed: int, plan: Schedule) -> dict[str, Any]:
    """The fields of `Outcome`; of the run folders, what takes room and helps nobody is removed."""
    steps = plan.steps[trial.label]
    run = runs.carry_out(bench, trial, part, seed=seed, steps=steps, val=plan.val)
    for done in ("checkpoints", "last"):
        for folder in (*run.folder.glob(done), *run.folder.glob(f"*/{done}")):
            shutil.rmtree(folder)
    outcome = Outcome(
        run.scores, run.images, run.classes, run.recipe, steps, run.seconds_per_step, _losses(run.records("train"))
    )
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
            one_class=one_class(of_label, of_label[0].head),
        )
        for label, of_label in outcomes.items()
        for score in scores
    ]


def one_class(outcomes: Sequence[Outcome], head: str) -> bool:
    """Whether every repetition names one class nearly everywhere, so that its scores say nothing of how it learnt."""
    return all(outcome.learnt(head) < NOTHING for outcome in outcomes)


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
    number, unit = (seconds / 60, "minute") if seconds >= 60 else (seconds, "second")
    time_each = f"{number:.2g} {unit}{'' if f'{number:.2g}' == '1' else 's'}"
    steps = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    told = f"After {steps} steps, about {time_each}, of {bench.settings.trunk}"
    if max(outcome.learnt(outcome.head) for outcome in every) < LITTLE:
        return f"{told}, which taught little more than the commonest class (give more --minutes)"
    return told


def conditions(trials: Sequence[Trial], outcomes: Outcomes, start: str) -> dict[str, Any]:
    """What the trainings shared and what not, for the reader."""
    some = next(iter(outcomes.values()))
    firsts = {label: of_label[0] for label, of_label in outcomes.items()}
    heads = {name: head for trial in trials for name, head in trial.dataset.heads.items()}
    scored = {name: count for first in firsts.values() for name, count in first.classes.items()}
    return {
        "nets": _shared({trial.label: _described(trial) for trial in trials}),
        "steps": _shared({label: first.steps for label, first in firsts.items()}),
        **{name: _shared({label: first.recipe[name] for label, first in firsts.items()}) for name in some[0].recipe},
        "start": start,
        "images": f"{len(trials[0].dataset.pairs('train'))} to train on, {some[0].images} to score",
        "classes scored": _shared({name: f"{scored[name]} of {len(head.labels)}" for name, head in heads.items()}),
        "seeds": len(some),
    }


def _described(trial: Trial) -> str:
    """Which net a trial trains."""
    streams = trial.options.get("streams", ())
    return trial.model + (" in stages" if trial.nets > 1 else "") + (f", {len(streams)} streams" if streams else "")


def _shared(by_label: Mapping[str, Any]) -> Any:
    """The one value that all labels have, or all values."""
    values = list(by_label.values())
    return values[0] if all(value == values[0] for value in values) else dict(by_label)
