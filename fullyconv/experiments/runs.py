"""One training of an experiment, and its scores."""

import json
import re
import shutil
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fullyconv import images
from fullyconv.datasets import Dataset
from fullyconv.evaluation import evaluate
from fullyconv.experiments.workbench import Workbench
from fullyconv.models import create, start_from
from fullyconv.prediction import Segmenter
from fullyconv.report import read_records
from fullyconv.training import train
from fullyconv.training.plan import bands_of, weight_files
from fullyconv.training.stages import models_of

Scores = dict[str, float]


@dataclass(frozen=True)
class Trial:
    """One way of training.

    Args:
        label: Of its rows.
        model: Name of the net.
        dataset: What it is trained and scored on.
        start: Weights that it starts from: none, hub, or a file.
        options: Further options of `train`.
        tap_scales: What each tap is multiplied by, finest first: 0 leaves it out. None leaves all as they are.
    """

    label: str
    model: str
    dataset: Dataset
    start: str = "none"
    options: Mapping[str, Any] = field(default_factory=dict)
    tap_scales: tuple[float, ...] | None = None

    @property
    def nets(self) -> int:
        """How many are trained one after the other, each from the one before."""
        return len(models_of(self.model)) if self.options.get("staged") else 1

    @property
    def slug(self) -> str:
        """The label as a file name."""
        return re.sub(r"[^a-z0-9]+", "-", self.label.lower()).strip("-")


@dataclass(frozen=True)
class Run:
    """What a training left.

    Args:
        folder: The run folder.
        scores: The paper's four of each head, in [0, 1].
        images: So many were scored.
        classes: So many of each head's classes occur in them.
    """

    folder: Path
    scores: dict[str, Scores]
    images: int
    classes: dict[str, int]

    @property
    def recipe(self) -> dict[str, Any]:
        """The settings that were trained with, in words; stages share theirs."""
        plan = next(self.folder.glob("**/plan.json"))
        recipe = json.loads(plan.read_text(encoding="utf-8"))["recipe"]
        crop = (recipe["augmentation"] or {}).get("crop")
        return {
            "optimizer": recipe["optimizer"],
            "learning rate": f"{recipe['learning_rate']:g}, {recipe['schedule']}",
            "batch": recipe["batch"],
            "samples": f"{crop[0]} x {crop[1]} pixels" if crop else "whole images",
        }

    def records(self, kind: str) -> list[dict[str, Any]]:
        """What the journal says of steps (`train`) or of validations."""
        return [record for record in read_records(self.folder / "metrics.jsonl") if record["kind"] == kind]

    @property
    def seconds_per_step(self) -> float:
        """The median over the journal's intervals, which a first step that waits for its batch does not move."""
        pairs = pairwise(self.records("train"))
        seconds = [(new["seconds"] - old["seconds"]) / (new["step"] - old["step"]) for old, new in pairs]
        return float(statistics.median(seconds))


def carry_out(bench: Workbench, trial: Trial, name: str, *, seed: int, steps: int, val: int) -> Run:
    """Trains a trial into `runs/NAME`; what an interrupted session has trained is taken up, if its plan can say what it
    was.

    Args:
        bench: Holds the folder.
        trial: What to train.
        name: Of the run folder.
        seed: Of initial weights, order and augmentation.
        steps: Of all nets together.
        val: About how many images are scored, evenly spaced.
    """
    folder = bench.folder / "runs" / name
    dataset = _with_val(trial.dataset, val)
    goes_on = trial.tap_scales is None and any((*folder.glob("plan.json"), *folder.glob("*/plan.json")))
    if not goes_on:
        shutil.rmtree(folder, ignore_errors=True)
    with bench.quiet(folder.with_suffix(".log")):
        run = train(
            dataset,
            model=trial.model if trial.tap_scales is None else _with_taps(trial, seed),
            out=folder,
            steps=steps,
            resume=goes_on,
            pretrained=trial.start if trial.tap_scales is None else "none",
            precision="auto" if torch.cuda.is_available() else "fp32",
            growth=0.0,  # so that an iteration is the same work from first to last
            validations=1,
            report=False,
            seed=seed,
            **trial.options,
        )
        if dataset.also:
            scores = {name: evaluate(folder, head, head=name).scores for name, head in dataset.heads.items()}
        else:
            scores = {dataset.head: dict(run.best)}
    classes = {name: _occurring(head) for name, head in dataset.heads.items()}
    return Run(folder, scores, len(dataset.pairs("val")), classes)


def _occurring(dataset: Dataset) -> int:
    """How many classes the truth of val has."""
    masks = (images.read_mask(pair.mask, dataset.labels) for pair in dataset.pairs("val") if pair.mask is not None)
    values = {value for mask in masks for value in np.unique(mask).tolist()}
    return len(values - {dataset.labels.ignore_index})


def _with_taps(trial: Trial, seed: int) -> Segmenter:
    """The net with its taps scaled. One scaled by 0 never learns and stays zero, so that the net is saved as usual."""
    labels = trial.dataset.labels
    torch.manual_seed(seed)
    bands = bands_of(trial.dataset.pairs("train"), None)[0]
    net = create(trial.model, len(labels), channels=bands, pretrained=trial.start == "hub")
    net.tap_scales = trial.tap_scales or net.tap_scales
    if trial.start not in ("none", "hub"):
        start_from(net, *weight_files(trial.start))
    return Segmenter(net, labels, {"name": trial.model, "num_classes": len(labels), "channels": bands})


def _with_val(dataset: Dataset, count: int) -> Dataset:
    """The data set, for all heads, with about so many images to score, evenly spaced."""
    pairs = dataset.pairs("val")
    chosen = pairs[:: -(-len(pairs) // count)]
    also = tuple(_with_val(head, count) for head in dataset.also)
    return replace(dataset, splits={**dataset.splits, "val": chosen}, also=also)
