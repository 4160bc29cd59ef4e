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
from fullyconv.experiments.warmup import words_of
from fullyconv.experiments.workbench import Workbench
from fullyconv.hha import NYUD_CAMERA, Camera, convert
from fullyconv.training.plan import bands_of

COLOUR, DEPTH, HHA = "RGB", "depth", "HHA"
EARLY, LATE = "RGB and {}, early", "RGB and {}, late"

# Table 4: FCN-32s on NYUDv2, percent.
PAPER = {
    COLOUR: (60.0, 42.2, 29.2, 43.9),
    HHA: (57.1, 35.2, 24.2, 40.4),
    EARLY.format(DEPTH): (61.5, 42.4, 30.5, 45.5),
    LATE.format(HHA): (64.3, 44.9, 32.8, 48.0),
}
DIFFERENCE = (
    "VGG16 from ImageNet; late, its two nets were trained alone before they were trained together, ours are trained "
    "together from the start; it has HHA, not depth, alone and fused late, and depth, not HHA, fused early"
)
CAMERAS = {"nyud": (NYUD_CAMERA, 0.001)}  # by layout, with the metres of one unit


def rgbd(bench: Workbench) -> Findings:
    """Four nets of stride 32 from the same start, at random unless another is given.

    Where the camera is known, HHA is made of the depth, and takes its place alone and fused late, as in the paper.
    """
    scenes = _with_depth(bench.whole)
    start = bench.settings.pretrained
    if start == "crops":
        raise FullyconvError("SEG-R002", "a classifier of crops has seen no depth; give --pretrained none, hub or FILE")
    camera = camera_of(bench.settings.camera, scenes)
    beside = _with_hha(bench, scenes, *camera) if camera and _kind(scenes) == DEPTH else scenes
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
        compare(rows, alone, COLOUR, "mean IU", paper="below" if alone in PAPER else None),
        compare(rows, early, COLOUR, "mean IU", paper="above" if early in PAPER else None),
        compare(rows, late, early, "mean IU", paper="above" if {late, early} <= PAPER.keys() else None),
    ]
    told = {**conditions(trials, outcomes, words_of(start)), "the paper's nets": DIFFERENCE}
    return Findings(tuple(rows), conclude(scale(bench, outcomes), comparisons), told)


def _with_depth(scenes: Dataset) -> Dataset:
    """The images and the first of their further pictures, under their first labels.

    Raises:
        FullyconvError: SEG-R002 if there is an image without.
    """
    bare = next((pair.image for pair in scenes.pairs("train") if not pair.more), None)
    if bare is None:
        splits = {
            split: tuple(replace(pair, more=pair.more[:1]) for pair in pairs) for split, pairs in scenes.splits.items()
        }
        return replace(scenes, splits=splits, also=())
    cure = "--data 'folder:PATH?images=rgb/{name}.png&masks=labels/{name}.png&more=depth/{name}.png'"
    if scenes.layout == "nyud":
        depth = bare.parent.with_name("depth")
        cure = f"{'' if depth.is_dir() else f'there is no {depth}, which belongs there; then '}"
        cure += f"--data 'nyud:{scenes.root}?inputs=color,depth'"
    raise FullyconvError("SEG-R002", f"no depth goes with {bare}; say where it is: {cure}")


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
