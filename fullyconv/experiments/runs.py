"""One training of an experiment: the nets of a trial one after the other, and the scores of the last."""

import json
import re
import shutil
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from fullyconv.datasets import Dataset
from fullyconv.evaluation import evaluate
from fullyconv.experiments.workbench import Workbench
from fullyconv.models import create, start_from
from fullyconv.prediction import Segmenter
from fullyconv.training import train

Scores = dict[str, float]


@dataclass(frozen=True)
class Trial:
    """One way of training.

    Args:
        label: Of its rows.
        models: Names of nets that are trained one after the other, each from the one before; they share the steps.
        dataset: What they are trained and scored on.
        start: Weights that the first net starts from: none, hub, or a file.
        options: Further options of `train`.
        tap_scales: What each tap of the only net is multiplied by, finest first: 0 leaves it out. None leaves all as
            they are.
    """

    label: str
    models: tuple[str, ...]
    dataset: Dataset
    start: str = "none"
    options: Mapping[str, Any] = field(default_factory=dict)
    tap_scales: tuple[float, ...] | None = None

    @property
    def slug(self) -> str:
        """The label as a file name."""
        return re.sub(r"[^a-z0-9]+", "-", self.label.lower()).strip("-")


@dataclass(frozen=True)
class Run:
    """What a training left.

    Args:
        folders: Run folders, one per net.
        scores: The paper's four of each head of the last net, in [0, 1].
        images: So many were scored.
    """

    folders: list[Path]
    scores: dict[str, Scores]
    images: int

    def records(self, kind: str, *, last: bool = False) -> list[list[dict[str, Any]]]:
        """What the journal of each net, or of the last one, says of steps (`train`) or validations."""
        files = [folder / "metrics.jsonl" for folder in (self.folders[-1:] if last else self.folders)]
        nets = [map(json.loads, file.read_text(encoding="utf-8").splitlines()) for file in files]
        return [[record for record in net if record["kind"] == kind] for net in nets]

    @property
    def seconds_per_step(self) -> float:
        """The median over the journals' intervals; first steps, which wait for their batch, are left out."""
        pairs = [pair for net in self.records("train") for pair in pairwise(net[1:])]
        seconds = [(new["seconds"] - old["seconds"]) / (new["step"] - old["step"]) for old, new in pairs]
        return float(statistics.median(seconds))


def carry_out(bench: Workbench, trial: Trial, name: str, *, seed: int, steps: int, val: int) -> Run:
    """Trains a trial into `runs/NAME`; what an interrupted session has trained is taken up.

    Args:
        bench: Holds the folder.
        trial: What to train.
        name: Of the run folder; those of earlier nets end in -net1, -net2.
        seed: Of initial weights, order and augmentation.
        steps: Of all nets together.
        val: About how many images are scored, evenly spaced.
    """
    folders: list[Path] = []
    start = trial.start
    for number, model in enumerate(trial.models, start=1):
        final = number == len(trial.models)
        folder = bench.folder / "runs" / (name if final else f"{name}-net{number}")
        each = steps // len(trial.models)
        dataset = _with_val(trial.dataset, val if final else 1)
        share = steps - each * (number - 1) if final else each
        with bench.quiet(folder.with_suffix(".log")):
            scores = _net(trial, dataset, model, start, folder, seed, share)
        folders.append(folder)
        start = str(folder)
    return Run(folders, scores, len(dataset.pairs("val")))


def _net(
    trial: Trial, dataset: Dataset, model: str, start: str, folder: Path, seed: int, steps: int
) -> dict[str, Scores]:
    """The scores of one training run; one that was interrupted goes on, if its plan can say what it was."""
    goes_on = trial.tap_scales is None and (folder / "plan.json").is_file()
    if not goes_on:
        shutil.rmtree(folder, ignore_errors=True)
    run = train(
        dataset,
        model=model if trial.tap_scales is None else _with_taps(trial, seed),
        out=folder,
        steps=steps,
        resume=goes_on,
        pretrained=start if trial.tap_scales is None else "none",
        precision="auto" if torch.cuda.is_available() else "fp32",
        growth=0.0,  # so that an iteration is the same work from first to last
        validations=1,
        report=False,
        seed=seed,
        **trial.options,
    )
    if not dataset.also:
        return {dataset.head: dict(run.best)}
    return {name: evaluate(folder, head, head=name).scores for name, head in dataset.heads.items()}


def _with_taps(trial: Trial, seed: int) -> Segmenter:
    """The net with its taps scaled. One scaled by 0 never learns and stays zero, so that the net is saved as usual."""
    labels = trial.dataset.labels
    torch.manual_seed(seed)
    net = create(trial.models[-1], len(labels))
    net.tap_scales = trial.tap_scales or net.tap_scales
    if trial.start != "none":
        start_from(net, Path(trial.start))
    return Segmenter(net, labels, {"name": trial.models[-1], "num_classes": len(labels)})


def _with_val(dataset: Dataset, count: int) -> Dataset:
    """The data set, for all heads, with about so many images to score, evenly spaced."""
    pairs = dataset.pairs("val")
    chosen = pairs[:: -(-len(pairs) // count)]
    also = tuple(_with_val(head, count) for head in dataset.also)
    return replace(dataset, splits={**dataset.splits, "val": chosen}, also=also)
