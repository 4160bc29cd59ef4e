"""Section 3.1: a map of 10 x 10 scores in one pass, against 100 patches."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fullyconv.experiments.findings import Findings, Row
from fullyconv.experiments.workbench import Workbench
from fullyconv.models import classifier
from fullyconv.surgery import DenseClassifier, convolutionalize
from fullyconv.timing import interleaved

CELLS = 100  # of the map: so many patches give the same scores
TIMED = 4  # patches that are timed one by one
BATCH = 16
FORWARD, BOTH = "forward", "forward and backward"

# AlexNet on a GPU, in ms: a patch forward and backward, the map forward and backward.
PATCH, MAP = (1.2, 2.4), (22.0, 37.0)
PAPER = {FORWARD: (PATCH[0], MAP[0]), BOTH: (sum(PATCH), sum(MAP))}


@dataclass(frozen=True)
class Case:
    """A classifier that slides.

    Args:
        make: The network, from images to maps of scores.
        patch: Side of the image that gives one cell, in pixels.
        image: Side of the image that gives 10 x 10 cells, in pixels.
    """

    make: Callable[[], nn.Module]
    patch: int
    image: int


def dense_vs_patches(bench: Workbench) -> Findings:
    """The four nets, each against its own patches, one by one and in batches of 16."""
    return measure(bench, CASES)


def measure(bench: Workbench, cases: Mapping[str, Case], *, rounds: int = 20) -> Findings:
    """How many times faster the map is, net by net.

    Args:
        bench: Keeps what is measured.
        cases: Nets by name.
        rounds: Of each measurement, if the time allows.
    """
    rows: list[Row] = []
    for number, (net, case) in enumerate(cases.items()):
        seconds = bench.seconds_left() / (len(cases) - number)
        rows += _rows(net, bench.part(net.lower(), _measured, bench, net, case, seconds, rounds))
    conditions = {
        "images": {net: f"{case.image} px in patches of {case.patch} px" for net, case in cases.items()},
        "patches": f"{TIMED} one by one and {BATCH} at once take turns with the map; their times are scaled to {CELLS}",
        "padding": "as the nets are trained; without any, the map and the patches give the same scores",
        "times": "medians and spread over the rounds; the paper's are AlexNet's, on a GPU",
    }
    return Findings(tuple(rows), conclusion(rows), conditions)


def conclusion(rows: Sequence[Row]) -> str:
    """What one pass saves, from the net that gains least to the one that gains most."""
    told = []
    for way in PAPER:
        single, batch = ([row for row in rows if row.measure == measure] for measure in _gains(way))
        told.append(f"{way} {_range(single)} times as fast as patches one by one, {_range(batch)} times as in batches")
    beside = [row for row in rows if row.unit == "x" and row.paper is not None]
    if beside:
        gains = " and ".join(f"{row.ours:.3g} where the paper has {row.paper:.3g}" for row in beside)
        told.append(f"{beside[0].label}'s gains are {gains}")
    return f"One pass over the whole image is {'; '.join(told)}."


def _range(rows: Sequence[Row]) -> str:
    return f"{min(row.ours for row in rows):.3g} to {max(row.ours for row in rows):.3g}"


def _gains(way: str) -> tuple[str, str]:
    return f"gain on single patches, {way}", f"gain on batches of {BATCH}, {way}"


def _rows(net: str, measured: Mapping[str, Mapping[str, Sequence[float]]]) -> list[Row]:
    """The time of the map and both gains, forward and with the backward pass."""
    rows = []
    for way, seconds in measured.items():
        patch, whole = PAPER[way] if net == "AlexNet" else (None, None)
        gain = CELLS * patch / whole if patch and whole else None
        single, batch = _gains(way)
        rows += [
            _median_row(net, f"map, {way}", [1000 * taken for taken in seconds["map"]], "ms", whole),
            _median_row(net, single, _ratios(seconds["single"], seconds["map"], CELLS / TIMED), "x", gain),
            _median_row(net, batch, _ratios(seconds["batch"], seconds["map"], CELLS / BATCH), "x", None),
        ]
    return rows


def _ratios(parts: Sequence[float], wholes: Sequence[float], count: float) -> list[float]:
    return [count * part / whole for part, whole in zip(parts, wholes, strict=True)]


def _median_row(net: str, measure: str, values: Sequence[float], unit: str, paper: float | None) -> Row:
    return Row(net, measure, statistics.median(values), unit, paper, repetitions=tuple(values))


def _measured(bench: Workbench, name: str, case: Case, seconds: float, rounds: int) -> dict[str, Any]:
    """Seconds of map, patches and batch in each round, forward and with the backward pass, which gets more time."""
    bench.say(f"timing {name}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = case.make().eval().to(device)
    image = torch.rand(1, 3, case.image, case.image, device=device)
    patches = torch.rand(BATCH, 3, case.patch, case.patch, device=device)
    inputs = {"map": [image], "single": [patches[number : number + 1] for number in range(TIMED)], "batch": [patches]}
    taken = {}
    for way, work, share in ((FORWARD, _forward, 0.25), (BOTH, _both, 0.75)):
        works = {kind: partial(work, network, images) for kind, images in inputs.items()}
        taken[way] = interleaved(works, seconds=share * seconds, rounds=rounds)
    return taken


@torch.no_grad()
def _forward(network: nn.Module, images: Sequence[Tensor]) -> None:
    for image in images:
        network(image)


def _both(network: nn.Module, images: Sequence[Tensor]) -> None:
    parameters = list(network.parameters())
    for image in images:
        torch.autograd.grad(network(image).sum(), parameters)


def sliding(name: str) -> DenseClassifier:
    """A classifier that slides, its average pool too, with the paddings that it was trained with."""
    source = classifier(name)
    return convolutionalize(source.network, source.size)


CASES = {
    "AlexNet": Case(partial(sliding, "alexnet"), 227, 500),
    "VGG16": Case(partial(sliding, "vgg16"), 224, 500),
    "GoogLeNet": Case(partial(sliding, "googlenet"), 224, 512),  # its pools leave 9 x 9 cells of 500 pixels
    "ResNet-18": Case(partial(sliding, "torchvision:resnet18"), 224, 500),
}
