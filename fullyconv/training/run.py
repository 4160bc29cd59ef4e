"""The door to training: options become a plan, the plan a loop, the loop a run folder."""

import copy
import hashlib
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from fullyconv import artefact, doctor, metrics
from fullyconv.datasets import Dataset, open_dataset
from fullyconv.errors import FullyconvError
from fullyconv.evaluation import count, evaluate
from fullyconv.models import FCN, create, start_from
from fullyconv.prediction import Segmenter
from fullyconv.report import write_report
from fullyconv.sampling import Stream
from fullyconv.training.journal import Journal
from fullyconv.training.loading import Decoder, Samples, batches
from fullyconv.training.plan import (
    Plan,
    Precision,
    architecture_of,
    class_weights_of,
    precision_of,
    recipe_of,
    seconds_of,
    steps_of,
)
from fullyconv.training.recipes import optimizer_of, parameter_groups

CHECKPOINT_SECONDS = 60.0


@dataclass(frozen=True)
class TrainingRun:
    """What training made."""

    run: Path
    best: Mapping[str, float]
    epochs: float
    steps: int
    images_per_second: float
    minutes: float

    def to_json(self) -> dict[str, Any]:
        """`{"run", "best", "epochs", "steps", "images_per_second", "minutes"}`."""
        return {**asdict(self), "run": str(self.run)}

    def __str__(self) -> str:
        scores = ", ".join(f"{name.replace('_', ' ')} {100 * value:.2f}" for name, value in self.best.items())
        return (
            f"{self.run}: best on val: {scores}; "
            f"{self.epochs:.1f} epochs, {self.steps} steps in {self.minutes:.1f} min\n"
            f"look at    {self.run / 'report.html'}\n"
            f"predict    fullyconv predict {self.run} PHOTOS --out masks/"
        )


def train(
    data: str | Path | Dataset,
    *,
    model: str | Segmenter = "fcn8s-resnet18",
    out: str | Path | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    budget: str | None = None,
    resume: bool = False,
    pretrained: str = "none",
    recipe: Literal["default", "cvpr15", "heavy"] = "default",
    batch: int | None = None,
    accumulate: int = 1,
    lr: float | None = None,
    optimizer: Literal["adamw", "sgd"] | None = None,
    schedule: Literal["poly", "cosine", "constant"] | None = None,
    loss: Literal["cross_entropy", "dice", "focal"] | None = None,
    balance: Literal["none", "log", "median"] | None = None,
    ema: float | None = None,
    crop: tuple[int, int] | None = None,
    whole_images: bool = False,
    upscore: Literal["fixed", "learned"] = "fixed",
    dropout: float = 0.0,
    alignment: Literal["grid", "centred"] = "grid",
    channels: int | None = None,
    precision: Precision = "auto",
    workers: int | None = None,
    validations: int = 20,
    seed: int = 0,
) -> TrainingRun:
    """Train a fully convolutional network and keep the best model, its scores and pictures in a run folder.

    Args:
        data: Folder whose layout is recognised, or LAYOUT:PATH.
        model: fcn32s-, fcn16s-, fcn8s- or fcn4s- and a trunk: any timm network, or vgg16.
        out: Run folder; runs/DATA-MODEL if left out.
        epochs: Length in passes over the training images; 100 if nothing is said.
        steps: Length in optimiser steps.
        budget: Length in time, such as 90s, 30m or 2h.
        resume: Go on where the run in --out stopped, by its own plan.
        pretrained: none, hub (timm's weights), a weight file, or an earlier run.
        recipe: The settings that the options below override.
        batch: Images per step, over all processes.
        accumulate: Parts that a batch is computed in, to save memory.
        lr: Learning rate at the top of the schedule.
        optimizer: adamw or sgd.
        schedule: How the learning rate falls.
        loss: On the logits at image size.
        balance: Class weights from pixel counts.
        ema: Decay of the averaged weights that are saved; 0 for none.
        crop: Height and width of training samples.
        whole_images: Train on images as they are, without scale, crop, flip and light.
        upscore: Whether the kernels between taps are trained.
        dropout: Before the coarsest score layer.
        alignment: By the trunk's grid, or centred as in other toolkits.
        channels: Bands of the images; found out if left out.
        precision: auto takes bf16 where it is faster.
        workers: Processes that decode and augment.
        validations: How often the run is validated.
        seed: Of everything that chance decides.

    Example:
        fullyconv train data/ --model fcn8s-resnet18 --budget 30m --out runs/a
    """
    options = {name: value for name, value in locals().items() if name not in ("data", "out", "resume")}
    begun = time.monotonic()
    dataset = open_dataset(data)
    folder = _run_folder(dataset, model, None if out is None else Path(out), resume)
    examination = doctor.examine(dataset, splits=("train", "val"))
    examination.refuse_if_broken()
    _refuse_unlabelled(dataset)
    if resume:
        plan = _saved_plan(folder, dataset)
    else:
        given = {
            "batch": batch,
            "learning_rate": lr,
            "optimizer": optimizer,
            "schedule": schedule,
            "loss": loss,
            "balance": balance,
            "ema": ema,
        }
        chosen = recipe_of(recipe, given, dataset.pairs("train"), crop, whole_images)
        plan = Plan(
            data=str(data.root if isinstance(data, Dataset) else data),
            fingerprint=_fingerprint(dataset),
            architecture=model.architecture
            if isinstance(model, Segmenter)
            else architecture_of(model, dataset, channels, upscore, dropout, alignment),
            recipe=chosen,
            seed=seed,
            steps=steps_of(epochs, steps, budget, len(dataset.pairs("train")), chosen.batch),
            budget_seconds=seconds_of(budget) if budget else None,
            parts=accumulate,
            validations=validations,
            precision=precision_of(precision),
            class_weights=None,
            pretrained=pretrained,
        )
    # As --config takes them back: what was chosen, in YAML's own types.
    plain = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in options.items()
        if isinstance(value, int | float | str | tuple)
    }
    return _carry_out(
        plan, dataset, model, folder, plain, resume=resume, workers=workers, begun=begun, examination=examination
    )


def _carry_out(
    plan: Plan,
    dataset: Dataset,
    model: str | Segmenter,
    folder: Path,
    options: Mapping[str, Any],
    *,
    resume: bool,
    workers: int | None,
    begun: float,
    examination: doctor.Examination,
) -> TrainingRun:
    """Trains by a plan into a run folder; `begun` is when the command was given, on the monotonic clock."""
    from accelerate import Accelerator  # a guest, only here

    from fullyconv.training.loop import InterruptedTrainingError, Loop, Objective, Pace, StopRequest

    tracker = "tensorboard" if importlib.util.find_spec("tensorboard") else None
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # without it, processes on CPUs would not find each other
        mixed_precision="bf16" if plan.precision == "bf16" else "no",
        log_with=tracker,
        project_dir=folder,
    )
    processes = accelerator.num_processes
    _refuse_uneven(plan, processes)
    pairs = dataset.pairs("train")
    network = _network(model, plan, dataset).to(memory_format=torch.channels_last).to(accelerator.device)
    decoder = Decoder(pairs, dataset.labels, network.mean.shape[1])
    if plan.recipe.balance != "none" and plan.class_weights is None:
        plan = replace(plan, class_weights=class_weights_of(decoder, plan.recipe.balance))
    facts = {"plan": plan.to_json(), "data": plan.fingerprint}

    def keep(shown: FCN, name: str, scores: Mapping[str, float]) -> None:
        artefact.save(folder / name, shown, dataset.labels, plan.architecture, {"metrics": dict(scores), **facts})

    def validate(shown: FCN) -> dict[str, float]:
        mine = dataset.pairs("val")[accelerator.process_index :: processes]
        confusion = count(Segmenter(shown, dataset.labels), mine, dataset.labels).confusion
        return metrics.scores(accelerator.reduce(confusion.to(accelerator.device), reduction="sum").cpu())

    weight = torch.tensor(plan.class_weights, device=accelerator.device) if plan.class_weights else None
    loop = Loop(
        network,
        Objective(network, plan.recipe.loss, weight, dataset.labels.ignore_index),
        plan.recipe,
        optimizer_of(plan.recipe, parameter_groups(plan.recipe, network)),
        accelerator,
        Pace(plan.steps, plan.budget_seconds, begun),
        parts=plan.parts,
        seed=plan.seed,
        validations=plan.validations,
        checkpoint_seconds=CHECKPOINT_SECONDS,
        run=folder,
        validate=validate,
        keep=keep,
    )
    if resume:
        loop.restore()
    source = batches(
        Samples(decoder, Stream(plan.seed, len(pairs)), plan.recipe.augmentation),
        step=loop.state.step,
        batch=plan.recipe.batch,
        parts=plan.parts,
        process=accelerator.process_index,
        processes=processes,
        workers=_workers(processes) if workers is None else workers,
    )
    with StopRequest() as stop, closing(source):
        if accelerator.is_main_process and not resume:
            _open_run(folder, plan, options)
        accelerator.wait_for_everyone()
        if tracker:
            accelerator.init_trackers("tensorboard")
        journal = Journal(folder, accelerator, from_step=loop.state.step)
        for line in _introduction(plan, examination, network, loop.state.step):
            journal.say(line)
        try:
            with journal:
                state = loop.fit(source, journal.write, stop)
        except InterruptedTrainingError:
            resumed = f"fullyconv train {plan.data} --out {folder} --resume"
            raise KeyboardInterrupt(f"stopped at step {loop.state.step}, saved; go on with: {resumed}") from None
    if accelerator.is_main_process:
        keep(loop.shown, "last", state.best)
        evaluate(folder, dataset, split="val", out=folder / "evaluation")
        write_report(folder)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    minutes = loop.pace.elapsed() / 60
    return TrainingRun(
        run=folder,
        best=state.best,
        epochs=state.images / len(pairs),
        steps=state.step,
        images_per_second=state.images / (60 * minutes),
        minutes=minutes,
    )


def _began_with(plan: Path, dataset: Dataset) -> bool:
    values = json.loads(plan.read_text(encoding="utf-8"))
    return bool(values.get("fingerprint") == _fingerprint(dataset))


def _saved_plan(folder: Path, dataset: Dataset) -> Plan:
    """The plan of the run that goes on, if the data are still what it was made for."""
    saved = folder / "plan.json"
    if not saved.is_file():
        raise FullyconvError(
            "SEG-T002", f"{folder} holds no plan.json, so there is nothing to resume; leave --resume out to begin"
        )
    plan = Plan.from_json(json.loads(saved.read_text(encoding="utf-8")))
    if plan.fingerprint != _fingerprint(dataset):
        raise FullyconvError(
            "SEG-T009",
            f"{folder} was begun on {plan.data} with {plan.fingerprint['images']} images, and {dataset.root} holds "
            f"other files; resume with the data as they were, or begin a new run with --pretrained {folder}",
        )
    return plan


def _refuse_unlabelled(dataset: Dataset) -> None:
    for split in ("train", "val"):
        bare = [pair.image for pair in dataset.pairs(split) if pair.mask is None]
        if bare:
            raise FullyconvError(
                "SEG-T004",
                f"{len(bare)} of {len(dataset.pairs(split))} images of split {split} have no mask, such as {bare[0]}; "
                "label them or take them out of the split",
            )


def _run_folder(dataset: Dataset, model: str | Segmenter, out: Path | None, resume: bool) -> Path:
    """Where the run stands or shall stand; a folder with anything in it is refused unless resumed."""
    if out is None:
        name = model if isinstance(model, str) else model.architecture.get("name", "model")
        base = Path("runs") / f"{dataset.root.resolve().name}-{name}"
        mine = [file for file in Path("runs").glob("*/plan.json") if _began_with(file, dataset)]
        if resume and mine:
            return max(mine, key=lambda file: file.stat().st_mtime).parent
        numbered = [base, *(base.with_name(f"{base.name}-{number}") for number in range(2, 1000))]
        return next(folder for folder in numbered if not folder.exists())
    if out.is_file() or (not resume and out.exists() and any(out.iterdir())):
        raise FullyconvError(
            "SEG-T001", f"{out} exists already; go on with that run by --resume, or choose another name with --out"
        )
    return out


def _network(model: str | Segmenter, plan: Plan, dataset: Dataset) -> FCN:
    """The network as it starts: a copy of a given one, or a new one with the weights that the plan names."""
    if isinstance(model, Segmenter):
        if model.labels.names != dataset.labels.names:
            raise FullyconvError(
                "SEG-M006",
                f"the model has {len(model.labels)} classes ({', '.join(model.labels.names[:5])}, ...), the data "
                f"{len(dataset.labels)} ({', '.join(dataset.labels.names[:5])}, ...); make a new model, or start from "
                "this one's weights with --pretrained",
            )
        return copy.deepcopy(model.model)
    torch.manual_seed(plan.seed)
    network = create(**plan.architecture, pretrained=plan.pretrained == "hub")
    if plan.pretrained not in ("none", "hub"):
        start_from(network, artefact.weight_file(Path(plan.pretrained)))
    return network


def _refuse_uneven(plan: Plan, processes: int) -> None:
    if plan.recipe.batch % (plan.parts * processes):
        near = max(1, round(plan.recipe.batch / (plan.parts * processes))) * plan.parts * processes
        raise FullyconvError(
            "SEG-T007",
            f"a batch of {plan.recipe.batch} cannot be split over {processes} processes with {plan.parts} parts each; "
            f"use --batch {near}",
        )


def _workers(processes: int) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores // processes - 1))


def _open_run(folder: Path, plan: Plan, options: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    environment = {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        **artefact.versions(),
    }
    (folder / "env.json").write_text(json.dumps(environment, indent=2) + "\n", encoding="utf-8")
    (folder / "args.yaml").write_text(yaml.safe_dump(dict(options)), encoding="utf-8")
    fresh = folder / ".plan.json"
    fresh.write_text(json.dumps(plan.to_json(), indent=2) + "\n", encoding="utf-8")
    fresh.replace(folder / "plan.json")  # last: a run is what has a plan


def _fingerprint(dataset: Dataset) -> dict[str, Any]:
    """Which data a model saw: the names and sizes of the files, hashed."""
    digest = hashlib.sha256()
    for split in ("train", "val"):
        for pair in dataset.pairs(split):
            sizes = [file.stat().st_size for file in (pair.image, pair.mask) if file]
            digest.update(repr((split, pair.name, sizes)).encode())
    return {
        "layout": dataset.layout,
        "fingerprint": digest.hexdigest(),
        "images": {split: len(pairs) for split, pairs in dataset.splits.items()},
    }


def _introduction(plan: Plan, examination: doctor.Examination, network: FCN, start: int) -> list[str]:
    parameters = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    recipe = plan.recipe
    length = f"{plan.steps} steps" if plan.steps else f"a budget of {(plan.budget_seconds or 0) / 60:g} minutes"
    lines = [
        f"{examination}\n",
        f"{plan.architecture['name']}: {parameters:.1f} M parameters, scores every {network.grid.stride} pixels from "
        f"pixel {float(network.grid.start):g}, receptive field {network.coarsest.field}, {plan.precision}",
        f"{length}, batch {recipe.batch}, {recipe.optimizer} at {recipe.learning_rate:g}, seed {plan.seed}",
    ]
    if plan.pretrained == "none" and not start:
        lines.append("weights start at random; --pretrained hub or FILE starts from a classifier")
    return [*lines, f"resumed at step {start}"] if start else lines
