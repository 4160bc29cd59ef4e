"""Images larger than memory."""

import tempfile
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fullyconv.benchmark import inputs
from fullyconv.benchmark.comparing import Sides, Target, Work
from fullyconv.benchmark.machine import Cost
from fullyconv.benchmark.nets import centred, operations
from fullyconv.labels import LabelSet
from fullyconv.models import FCN
from fullyconv.prediction import Segmenter, Tiling, predict_files
from fullyconv.runtimes.engine import Engine

NET, CLASSES = "fcn8s-resnet10t", 19
WINDOW = 800  # of the trunk alone, in pixels: the sides of the images are multiples of it
IN_ALL = 1300  # megabytes that leave 700 of two gigabytes for a process with torch in it


def works(quick: bool) -> list[Work]:
    """Images in tiles, from file to file, against the trunk alone and against the whole image at once.

    The trunk alone computes every pixel once, from memory; ours also reads, labels and writes, and computes the borders
    of tiles twice. Full-size logits of the largest image would take 30 GB.
    """
    side, tile = (192, 64) if quick else (2048, 512)
    work = Work(
        f"{NET}, {side}x{side} in tiles of {tile}",
        "the whole at once",
        partial(_against_whole, side, tile),
    )
    large = [
        Work(
            f"{NET}, TIFF of {side}x{side} to TIFF of labels, K={CLASSES}",
            "the trunk alone, every pixel once",
            partial(_against_trunk, side, window),
            alike=False,
            target=Target(aim=1, megabytes=IN_ALL),
            once=True,
        )
        for side, window in ([(192, 96)] if quick else [(9600, WINDOW), (20_000, WINDOW)])
    ]
    return [work, *large]


def _segmenter() -> Segmenter:
    model = centred(NET, CLASSES, inputs.image(1, (256, 256)))
    return Segmenter(model, LabelSet(tuple(f"class {number}" for number in range(CLASSES))))


def _against_whole(side: int, tile: int) -> Sides:
    segmenter, image = _segmenter(), inputs.image(1, (side, side))[0]
    return Sides(
        partial(_mask, segmenter, image, tile),
        partial(_mask, segmenter, image, "none"),
        Cost(_operations(segmenter.model, side)),
    )


def _mask(segmenter: Segmenter, image: Tensor, tile: Tiling) -> Tensor:
    return torch.from_numpy(segmenter(image, tile=tile).mask)


def _against_trunk(side: int, window: int) -> Sides:
    segmenter = _segmenter()
    folder = tempfile.TemporaryDirectory()
    file = Path(folder.name) / "large.tif"
    _write(file, side)
    return Sides(
        _predicting(segmenter, file),
        partial(_trunk_alone, Engine(segmenter.model), (side // window) ** 2, inputs.image(1, (window, window))),
        Cost(_operations(segmenter.model, side), 4 * side**2),
        close=folder.cleanup,
    )


def _predicting(segmenter: Segmenter, file: Path) -> Callable[[], object]:
    """`fullyconv predict`, each time into another folder."""
    calls = count()
    return lambda: predict_files(segmenter, [str(file)], out=file.parent / f"labels {next(calls)}")


@torch.inference_mode()
def _trunk_alone(engine: Engine, windows: int, image: Tensor) -> None:
    image = image.contiguous(memory_format=torch.channels_last)
    for _ in range(windows):
        engine.scores(image)


def _operations(model: FCN, side: int) -> float:
    return operations(model, inputs.image(1, (256, 256))) * (side / 256) ** 2


def _write(file: Path, side: int) -> None:
    """A TIFF in blocks, as scanners and satellites give them, of one picture over and over."""
    import tifffile

    picture = (255 * inputs.image(1, (512, 512)))[0].byte().permute(1, 2, 0).numpy()
    blocks = (np.ascontiguousarray(picture) for _ in range((-(-side // 512)) ** 2))
    tifffile.imwrite(file, blocks, shape=(side, side, 3), dtype=np.uint8, tile=(512, 512), photometric="rgb")
