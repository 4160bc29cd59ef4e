"""Images larger than memory."""

from functools import partial

import torch
from torch import Tensor

from fullyconv.benchmark import inputs
from fullyconv.benchmark.comparing import Sides, Work
from fullyconv.benchmark.machine import Cost
from fullyconv.benchmark.nets import centred, operations
from fullyconv.labels import LabelSet
from fullyconv.prediction import Segmenter, Tiling

CLASSES = 19


def works(quick: bool) -> list[Work]:
    """An image in tiles, against its pixels through the trunk alone and against the whole at once."""
    side, tile = (256, 64) if quick else (2048, 512)
    name = f"fcn8s-resnet18, {side}x{side} in tiles of {tile}"
    return [Work(name, "the whole image at once", partial(_sides, side, tile))]


def _sides(side: int, tile: int) -> Sides:
    image = inputs.image(1, (side, side))
    model = centred("fcn8s-resnet18", CLASSES, image[..., :256, :256])
    segmenter = Segmenter(model, LabelSet(tuple(f"class {number}" for number in range(CLASSES))))
    return Sides(
        partial(_mask, segmenter, image[0], tile),
        partial(_mask, segmenter, image[0], "none"),
        Cost(operations(model, image)),
    )


def _mask(segmenter: Segmenter, image: Tensor, tile: Tiling) -> Tensor:
    return torch.from_numpy(segmenter(image, tile=tile).mask)
