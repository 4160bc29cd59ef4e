"""Depth beside colour (section 5, NYUDv2): each alone, fused early as a further band, and late as averaged scores."""

from dataclasses import replace

from fullyconv.datasets import Dataset, Pair
from fullyconv.errors import FullyconvError
from fullyconv.experiments.findings import Findings, compare, conclude
from fullyconv.experiments.runs import Trial
from fullyconv.experiments.scenes import plain
from fullyconv.experiments.trials import carry_out, conditions, scale, score_rows
from fullyconv.experiments.workbench import Workbench

COLOUR, DEPTH, EARLY, LATE = "RGB", "depth", "RGB and depth, early", "RGB and depth, late"

# Table 4: FCN-32s on NYUDv2, percent. Where ours has depth alone or fused late, the paper has HHA.
PAPER = {
    COLOUR: (60.0, 42.2, 29.2, 43.9),
    DEPTH: (57.1, 35.2, 24.2, 40.4),
    EARLY: (61.5, 42.4, 30.5, 45.5),
    LATE: (64.3, 44.9, 32.8, 48.0),
}


def rgbd(bench: Workbench) -> Findings:
    """Four nets of stride 32 from the same start: none, for there is none that has seen depth."""
    scenes = replace(bench.whole, also=())
    bare = next((pair.image for pair in scenes.pairs("train") if not pair.more), None)
    if bare is not None:
        raise FullyconvError(
            "SEG-R002",
            f"no depth goes with {bare}; say where it is: --data 'folder:PATH?images=rgb/{{name}}.png&masks="
            "labels/{name}.png&more=depth/{name}.png'",
        )
    start = "none" if bench.settings.pretrained == "crops" else bench.settings.pretrained
    net = f"fcn32s-{bench.settings.trunk}"
    trials = [
        Trial(COLOUR, net, plain(scenes), start),
        Trial(DEPTH, net, _depth_alone(scenes), start),
        Trial(EARLY, net, scenes, start),
        Trial(LATE, net, scenes, start, {"streams": (3, *[1] * len(scenes.pairs("train")[0].more))}),
    ]
    outcomes = carry_out(bench, trials, alike="steps")
    rows = score_rows(outcomes, PAPER)
    comparisons = [
        compare(rows, DEPTH, COLOUR, "mean IU", paper="below"),
        compare(rows, EARLY, COLOUR, "mean IU", paper="above"),
        compare(rows, LATE, EARLY, "mean IU", paper="above"),
    ]
    told = {"paper": "its depth alone and its late fusion are of HHA"}
    return Findings(
        tuple(rows), conclude(scale(bench, outcomes), comparisons), {**conditions(trials, outcomes, start), **told}
    )


def _depth_alone(dataset: Dataset) -> Dataset:
    """The data set whose images are the first of the further pictures."""

    def turned(pair: Pair) -> Pair:
        return replace(pair, image=pair.more[0], more=())

    return replace(dataset, splits={split: tuple(map(turned, pairs)) for split, pairs in dataset.splits.items()})
