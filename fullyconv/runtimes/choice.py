"""The fastest runtime of a network on this machine: found side by side, and remembered in the model folder."""

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, get_args

import torch
from torch import Tensor

from fullyconv.artefact import RUNTIME
from fullyconv.errors import FullyconvError
from fullyconv.kernels import upsample_argmax
from fullyconv.models import FCN
from fullyconv.runtimes.computing import Computing, Running, of_int8, refuse_impossible, start
from fullyconv.runtimes.formats import Precision
from fullyconv.runtimes.graphs import FORMATS, Graphs
from fullyconv.timing import interleaved, processor
from fullyconv.writing import write_json

CANDIDATES: tuple[Computing, ...] = ("torch", "packed", "onnx", "openvino")
EXACT = 1e-4  # of the largest score: what an fp32 runtime may differ by


@dataclass(frozen=True)
class Trial:
    """A runtime that has started, in comparison with the plain network.

    Args:
        running: The runtime.
        start_seconds: Until it had given its first scores.
        difference: The largest of the scores, as a fraction of the network's largest.
        agreement: The fraction of pixels that have the network's label.
    """

    running: Running
    start_seconds: float
    difference: float
    agreement: float


def fastest(model: FCN, image: Tensor, precision: Precision, graphs: Graphs) -> Running:
    """The fastest runtime for images of a size, in fp32 among those that are exact; what was measured goes to stderr.

    Args:
        model: In evaluation mode.
        image: As `FCN.scores` takes it.
        precision: What convolutions compute in.
        graphs: Where the network's graphs come from. The model folder then remembers the fastest runtime; one that
            cannot be written to does not.

    Raises:
        FullyconvError: What the first runtime of int8 raised, if none can compute the network; of the others torch can.
    """
    expected = model.scores(image).float()
    candidates = of_int8() if precision == "int8" else CANDIDATES
    faults: list[FullyconvError] = []
    trials: dict[str, Trial] = {}
    for runtime in candidates:
        try:
            trials[runtime] = _trial(runtime, model, precision, image, expected, graphs)
        except FullyconvError as fault:
            print(fault.message, file=sys.stderr)
            faults.append(fault)
    if not trials:
        raise faults[0]
    runs = {name: partial(trial.running.compute, image) for name, trial in trials.items()}
    seconds = {name: median(taken) for name, taken in interleaved(runs, seconds=20, rounds=5).items()}
    winner = min(seconds, key=seconds.__getitem__)
    measured = {name: _measured(trial, seconds[name]) for name, trial in trials.items()}
    print(*map(_line, measured.items()), f"the fastest is {winner}", sep="\n", file=sys.stderr)
    for format in FORMATS:
        if format != winner:
            graphs.discard(model, format, precision)
    if graphs.folder is not None:
        found = {"size": image.shape[2:], "fastest": winner, "runtimes": measured}
        _remember(graphs.folder, _machine(precision), found)
    return trials[winner].running


def _trial(
    runtime: Computing, model: FCN, precision: Precision, image: Tensor, expected: Tensor, graphs: Graphs
) -> Trial:
    """A runtime that has started.

    Raises:
        FullyconvError: What `refuse_impossible` and `start` raise, SEG-P020 if it is not exact.
    """
    begun = time.perf_counter()
    refuse_impossible(runtime, precision)
    running = start(runtime, model, precision, image, graphs)
    seconds = time.perf_counter() - begun
    difference = float((running.first - expected).abs().max() / expected.abs().max())
    if precision == "fp32" and difference > EXACT:
        raise FullyconvError("SEG-P020", f"{runtime} is left out: its scores differ by {difference:.0e} of the largest")
    size = (image.shape[2], image.shape[3])
    labels = (upsample_argmax(scores, size, grid=model.grid).long() for scores in (running.first, expected))
    return Trial(running, seconds, difference, float(torch.eq(*labels).float().mean()))


def _measured(trial: Trial, seconds: float) -> dict[str, float]:
    return {
        "milliseconds": round(1000 * seconds, 2),
        "start_seconds": round(trial.start_seconds, 2),
        "difference": float(f"{trial.difference:.1e}"),
        "agreement": trial.agreement,
    }


def _line(named: tuple[str, Mapping[str, float]]) -> str:
    name, measured = named
    return (
        f"{name:<9}{measured['milliseconds']:9.1f} ms an image, starts in {measured['start_seconds']:.1f} s, "
        f"{100 * measured['agreement']:.3f} % of the labels are those of the plain network"
    )


def remembered(folder: Path | None, precision: Precision) -> Computing | None:
    """What was the fastest runtime of a model folder on this machine, as far as is known."""
    here = _machine(precision)
    entries = [] if folder is None else _entries(folder)
    known = next((entry.get("fastest") for entry in entries if entry.items() >= here.items()), None)
    return known if known in get_args(Computing) else None


def _remember(folder: Path, here: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Writes down what was found on a machine, in the place of what was found there before."""
    others = [other for other in _entries(folder) if not other.items() >= here.items()]
    try:
        write_json(folder / RUNTIME, [*others, {**here, **found}])
    except OSError as error:
        print(f"{folder} cannot remember it: {error.strerror}", file=sys.stderr)


def _entries(folder: Path) -> list[dict[str, Any]]:
    """What a folder remembers of all machines; what cannot be read is forgotten."""
    try:
        entries = json.loads((folder / RUNTIME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _machine(precision: Precision) -> dict[str, Any]:
    """What a measurement holds for."""
    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "versions": {package: _version(package) for package in ("torch", "onnxruntime", "openvino")},
        "precision": precision,
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
