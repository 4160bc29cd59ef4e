"""Stages: FCN-32s first, FCN-16s from its weights, FCN-8s from those; each a run of its own, all one command.

The run folder holds a run for every stage, 32s/, 16s/ and 8s/. When the last one is over, the folder becomes a run
itself: the model, evaluation and plan of its last stage, and the course and the report of them all.

Source: Long, Shelhamer and Darrell 2015, section 4.2.
"""

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from fullyconv.errors import FullyconvError
from fullyconv.report import read_records, write_report
from fullyconv.training.plan import DEFAULT_EPOCHS, recorded, seconds_of
from fullyconv.training.recipes import slowdown
from fullyconv.training.result import TrainingRun
from fullyconv.writing import whole, write_text

# How long the stages are: three days and one more for each, Long et al. 2015, section 4.3; in the authors' solver
# files, 100,000 steps each.
SHARES = {"default": (3, 1, 1, 1), "cvpr15": (3, 1, 1, 1), "heavy": (1, 1, 1, 1)}
ARGUMENTS = "args.yaml"
COUNTED = ("step", "images", "seconds")


def models_of(model: Any) -> tuple[str, ...]:
    """The networks of the stages that end in a model: `fcn8s-vgg16` comes after `fcn32s-vgg16` and `fcn16s-vgg16`.

    Raises:
        FullyconvError: SEG-T010 for a network that has no stages.
    """
    match = re.fullmatch(r"fcn(16|8|4)s-(?!atonce-)(.+)", model) if isinstance(model, str) else None
    if not match:
        raise FullyconvError(
            "SEG-T010",
            f"{model if isinstance(model, str) else 'a model that is given'} has no stages; --staged ends in an "
            "fcn16s-, fcn8s- or fcn4s- and a trunk, such as fcn8s-vgg16",
        )
    return tuple(f"fcn{stride}s-{match[2]}" for stride in (32, 16, 8, 4) if stride >= int(match[1]))


def train_in_stages(
    train: Callable[[Mapping[str, Any], Path, bool, bool], TrainingRun],
    data: str,
    options: Mapping[str, Any],
    folder: Path,
    layout: str,
) -> TrainingRun:
    """Trains stage after stage, goes on with one that was begun, and leaves out those that are over.

    Args:
        train: Trains by options of `train` into a folder; is told whether it is the first of this command, and
            whether it goes on there.
        data: As the command line names it.
        options: Of `train`, for all stages together; the length is shared out among them.
        folder: Of the whole run.
        layout: Of the data set.

    Raises:
        FullyconvError: SEG-T010 for a network that has no stages, SEG-T006 for less than a step for each or a budget
            that is no time, and whatever `train` raises.
    """
    models = models_of(options["model"])
    if (options["steps"] or len(models)) < len(models):
        raise FullyconvError(
            "SEG-T006", f"{len(models)} stages need at least a step each, got --steps {options['steps']}"
        )
    seconds = None if options["budget"] is None else seconds_of(options["budget"])
    if _first_process() and staged_options(folder) is None:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / ARGUMENTS, yaml.safe_dump(recorded(options)))
    runs: list[TrainingRun] = []
    first = True
    for number, model in enumerate(models):
        place = folder / model.partition("-")[0].removeprefix("fcn")
        if TrainingRun.read(place) is None:
            settings = {
                "model": model,
                "staged": False,
                "pretrained": str(runs[-1].run) if runs else options["pretrained"],
                "lr": options["lr"] and options["lr"] / slowdown(options["recipe"], number, layout),
                **_length({**options, "budget": seconds}, len(models), runs),
            }
            _train_stage(partial(train, {**options, **settings}, place, first), data, place, model)
            first = False
        done = TrainingRun.read(place)
        assert done is not None
        runs.append(done)
    return _whole(folder, runs, report=options["report"])


def staged_options(folder: Path) -> dict[str, Any] | None:
    """The options of the staged run in a folder, or None if there is none."""
    file = folder / ARGUMENTS
    options = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None
    if not isinstance(options, dict) or not options.get("staged"):
        return None
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}


def _length(options: Mapping[str, Any], stages: int, runs: Sequence[TrainingRun]) -> dict[str, Any]:
    """The length of the next stage: its share of the epochs or steps, or of the seconds that are left."""
    shares = SHARES[options["recipe"]][:stages]
    before, share, whole = sum(shares[: len(runs)]), shares[len(runs)], sum(shares)
    given = {name: options[name] for name in ("epochs", "steps", "budget") if options[name] is not None}
    lengths: dict[str, Any] = {}
    if "epochs" in given or not given:
        lengths["epochs"] = given.get("epochs", DEFAULT_EPOCHS) * share / whole
    if "steps" in given:
        ends = [_end(number, stages, given["steps"], sum(shares[:number]) / whole) for number in range(stages + 1)]
        lengths["steps"] = ends[len(runs) + 1] - ends[len(runs)]
    if "budget" in given:
        left = given["budget"] - 60 * sum(run.minutes for run in runs)
        lengths["budget"] = f"{max(1.0, left * share / (whole - before)):.3f}s"
    return lengths


def _end(number: int, stages: int, steps: int, share: float) -> int:
    """The steps of a number of stages together: a share of all, rounded so that every stage has one at least."""
    return max(number, min(round(steps * share), steps - (stages - number)))


def _train_stage(train: Callable[[bool], TrainingRun], data: str, folder: Path, model: str) -> None:
    goes_on = (folder / "plan.json").is_file()
    if _first_process():
        if not goes_on:
            shutil.rmtree(folder, ignore_errors=True)  # begun, but killed before it had a plan
        print(f"stage {folder.name}: {model}", file=sys.stderr, flush=True)
    try:
        train(goes_on)
    except KeyboardInterrupt as stop:
        again = shlex.join(["fullyconv", "train", data, "--out", str(folder.parent), "--resume"])
        what = str(stop).partition(";")[0] or "stopped"
        raise KeyboardInterrupt(f"stage {folder.name}: {what}; go on with: {again}") from None
    except Exception:
        _leave_no_trace(folder.parent)
        raise


def _leave_no_trace(folder: Path) -> None:
    """Takes away the folder of a staged run that failed before any of it was trained."""
    if _first_process() and [item.name for item in folder.iterdir()] == [ARGUMENTS]:
        shutil.rmtree(folder)


def _whole(folder: Path, runs: Sequence[TrainingRun], *, report: bool) -> TrainingRun:
    """Makes the folder of finished stages a run itself."""
    epochs = sum(run.epochs for run in runs)
    result = TrainingRun(
        run=folder,
        best=runs[-1].best,
        epochs=epochs,
        steps=sum(run.steps for run in runs),
        images_per_second=epochs / sum(run.epochs / run.images_per_second for run in runs),  # all epochs are as long
        minutes=sum(run.minutes for run in runs),
    )
    if _first_process() and TrainingRun.read(folder) is None:
        _take_over(folder, runs[-1].run)
        write_text(folder / "metrics.jsonl", "".join(f"{json.dumps(record)}\n" for record in _course(runs)))
        if report:
            write_report(folder)
        result.write()
    return result


def _take_over(folder: Path, last: Path) -> None:
    """Copies what the last stage came to, and the plan that it came to it by."""
    for file in ("plan.json", "env.json"):
        shutil.copyfile(last / file, folder / file)
    for made in (last / "model", *last.glob("evaluation*")):
        with whole(folder / made.name, durable=True) as fresh:
            shutil.copytree(made, fresh)


def _course(runs: Sequence[TrainingRun]) -> list[dict[str, Any]]:
    """The lines of the stages' metrics.jsonl, one after the other, with steps, images and seconds counted through."""
    course: list[dict[str, Any]] = []
    for run in runs:
        before = {key: max((record.get(key, 0) for record in course), default=0) for key in COUNTED}
        for record in read_records(run.run / "metrics.jsonl"):
            counted = {key: before[key] + record[key] for key in COUNTED if key in record}
            course.append({**record, **counted, "stage": run.run.name})
    return course


def _first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"
