"""Images to measure on what the numbers of int8 have to stand for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from torch import Tensor

from fullyconv import images
from fullyconv.datasets import Dataset, open_dataset
from fullyconv.errors import FullyconvError
from fullyconv.runtimes.formats import Array
from fullyconv.runtimes.pipeline import Pixels, as_input

COUNT = 64  # images; the ranges of activations settle long before
SIDE = 1024  # pixels: the middle of a larger image tells as much, and its maps fit into memory


class Samples(Sequence[Array]):
    """Images as a graph takes them, from all over what is there; read when they are asked for.

    Args:
        calibrate: A dataset, of which the scenes are taken that it trains on, or a folder of images.
        bands: Of each picture of a scene that the network reads.
        pixels: What the graph takes.
    """

    def __init__(self, calibrate: str | Path | Dataset, bands: Sequence[int], pixels: Pixels) -> None:
        scenes = _scenes(calibrate)
        chosen = np.linspace(0, len(scenes) - 1, min(len(scenes), COUNT)).round().astype(int)
        self.scenes = [scenes[index] for index in chosen]
        self.bands = bands
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[position] for position in range(len(self))[index]]
        return as_input(_middle(images.stack(self.scenes[index][: len(self.bands)], self.bands)), self.pixels)


def _middle(image: Shaped[Tensor, "c height width"]) -> Shaped[Tensor, "c h w"]:
    top, left = (max(0, (side - SIDE) // 2) for side in image.shape[1:])
    return image[:, top : top + SIDE, left : left + SIDE]


def _scenes(calibrate: str | Path | Dataset) -> list[tuple[Path, ...]]:
    """The pictures of a folder of images, or those of the scenes that a dataset trains on.

    Raises:
        FullyconvError: SEG-X002 if there is neither, and what `open_dataset` raises.
    """
    if not isinstance(calibrate, Dataset):
        place = Path(calibrate)
        files = sorted(place.iterdir()) if place.is_dir() else [place]
        pictures = [file for file in files if file.is_file() and file.suffix.lower() in images.IMAGE_SUFFIXES]
        if pictures:
            return [(file,) for file in pictures]
    try:
        dataset = open_dataset(calibrate)
    except FullyconvError as fault:
        if fault.code != "SEG-D002":
            raise
        raise FullyconvError(
            "SEG-X002", f"{calibrate} holds no images, and no data of a known layout; give --calibrate either"
        ) from None
    split = "train" if "train" in dataset.splits else next(iter(dataset.splits))
    return [tuple(pair.pictures) for pair in dataset.pairs(split)]
