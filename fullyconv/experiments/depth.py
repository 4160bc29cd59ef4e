"""Depth beside colour (section 5, NYUDv2): each alone, fused early as a further band, and late as averaged scores."""

import re
from dataclasses import replace
from pathlib import Path

from fullyconv.datasets import Dataset, Pair
from fullyconv.errors import FullyconvError
from fullyconv.experiments.findings import Findings, compare, conclude
from fullyconv.experiments.runs import Trial
from fullyconv.experiments.scenes import plain
from fullyconv.experiments.trials import carry_out, conditions, scale, score_rows
from fullyconv.experiments.workbench import Workbench
from fullyconv.hha import NYUD_CAMERA, Camera, convert
from fullyconv.training.plan import bands_of

COLOUR, DEPTH, HHA = "RGB", "depth", "HHA"
EARLY, LATE = "RGB and {}, early", "RGB and {}, late"

# Table 4: FCN-32s on NYUDv2, percent. The paper has HHA alone and fused late, depth fused early.
PAPER = {
    COLOUR: (60.0, 42.2, 29.2, 43.9),
    **dict.fromkeys((DEPTH, HHA), (57.1, 35.2, 24.2, 40.4)),
    **dict.fromkeys((EARLY.format(DEPTH), EARLY.format(HHA)), (61.5, 42.4, 30.5, 45.5)),
    **dict.fromkeys((LATE.format(DEPTH), LATE.format(HHA)), (64.3, 44.9, 32.8, 48.0)),
}
CAMERAS = {"nyud": (NYUD_CAMERA, 0.001)}  # by layout, with the metres of one unit


def rgbd(bench: Workbench) -> Findings:
    """Four nets of stride 32 from the same start: none, for there is none that has seen depth.

    Where the camera is known, HHA is made of the depth, and takes its place alone and fused late, as in the paper.
    """
    scenes = replace(bench.whole, also=())
    bare = next((pair.image for pair in scenes.pairs("train") if not pair.more), None)
    if bare is not None:
        raise FullyconvError(
            "SEG-R002",
            f"no depth goes with {bare}; say where it is: --data 'folder:PATH?images=rgb/{{name}}.png&masks="
            "labels/{name}.png&more=depth/{name}.png'",
        )
    camera = camera_of(bench.settings.camera, scenes)
    beside = _with_hha(bench, scenes, *camera) if camera and _kind(scenes) == DEPTH else scenes
    start = "none" if bench.settings.pretrained == "crops" else bench.settings.pretrained
    net = f"fcn32s-{bench.settings.trunk}"
    alone, early, late = _kind(beside), EARLY.format(_kind(scenes)), LATE.format(_kind(beside))
    trials = [
        Trial(COLOUR, net, plain(scenes), start),
        Trial(alone, net, _first_of_more(beside), start),
        Trial(early, net, scenes, start),
        Trial(late, net, beside, start, {"streams": bands_of(beside.pairs("train"), None)}),
    ]
    outcomes = carry_out(bench, trials, alike="steps")
    rows = score_rows(outcomes, PAPER)
    comparisons = [
        compare(rows, alone, COLOUR, "mean IU", paper="below"),
        compare(rows, early, COLOUR, "mean IU", paper="above"),
        compare(rows, late, early, "mean IU", paper="above"),
    ]
    told = {"paper": "HHA alone and fused late, depth fused early"}
    return Findings(
        tuple(rows), conclude(scale(bench, outcomes), comparisons), {**conditions(trials, outcomes, start), **told}
    )


def camera_of(given: str | None, dataset: Dataset) -> tuple[Camera, float] | None:
    """What took the depth, and the metres of one unit: FX,FY,CX,CY,METRES as given, or the data set's own, if known.

    Raises:
        FullyconvError: SEG-R002 if something else is given.
    """
    if given is None:
        return CAMERAS.get(dataset.layout)
    parts = given.split(",")
    numbers = [float(part) for part in parts if re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", part.strip())]
    if [len(parts), len(numbers)] != [5, 5] or min(numbers[0], numbers[1], numbers[4]) <= 0:
        raise FullyconvError(
            "SEG-R002",
            f"--camera is FX,FY,CX,CY,METRES, such as 518.9,519.5,324.6,252.7,0.001 for millimetres; got {given!r}",
        )
    return Camera(*numbers[:4]), numbers[4]


def _kind(dataset: Dataset) -> str:
    """What the first of the further pictures is: HHA has three bands."""
    return HHA if bands_of(dataset.pairs("train"), None)[1] == 3 else DEPTH


def _with_hha(bench: Workbench, scenes: Dataset, camera: Camera, metres_per_unit: float) -> Dataset:
    """The images with HHA in place of their depth, which is written into the experiment's folder."""
    out = bench.folder / "hha"
    splits = {
        split: tuple(replace(pair, more=(out / split / f"{pair.name}.png",)) for pair in scenes.pairs(split))
        for split in ("train", "val")
    }
    files = [
        (pair.more[0], turned.more[0])
        for split, pairs in splits.items()
        for pair, turned in zip(scenes.pairs(split), pairs, strict=True)
    ]
    bench.part("hha", _convert, bench, files, camera, metres_per_unit)
    return replace(scenes, splits=splits)


def _convert(bench: Workbench, files: list[tuple[Path, Path]], camera: Camera, metres_per_unit: float) -> int:
    """Writes what an interrupted session has not, and gives the number of all."""
    bench.say(f"making HHA of {len(files)} depth images")
    for depth, out in files:
        out.parent.mkdir(parents=True, exist_ok=True)
        if not out.is_file():
            convert(depth, out, camera=camera, metres_per_unit=metres_per_unit)
    return len(files)


def _first_of_more(dataset: Dataset) -> Dataset:
    """The data set whose images are the first of the further pictures."""

    def turned(pair: Pair) -> Pair:
        return replace(pair, image=pair.more[0], more=())

    return replace(dataset, splits={split: tuple(map(turned, pairs)) for split, pairs in dataset.splits.items()})
