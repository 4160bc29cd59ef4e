"""Images of equal size computed together."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from fullyconv import images
from fullyconv.prediction.memory import ran_out
from fullyconv.prediction.tiles import WHOLE_IMAGE_PIXELS
from fullyconv.runtimes.engine import Engine


def alike(pictures: Sequence[Shaped[Tensor, "_c _height _width"]], most: int) -> Iterator[list[int]]:
    """The positions of pictures of one size and type, together no larger than the largest image that is never tiled.

    Args:
        pictures: Every one's position is given once.
        most: How many at a time.
    """
    kinds = [(picture.shape, picture.dtype) for picture in pictures]
    for kind in dict.fromkeys(kinds):
        (_, height, width), _ = kind
        count = max(1, min(most, WHOLE_IMAGE_PIXELS // (height * width)))
        positions = [position for position, other in enumerate(kinds) if other == kind]
        yield from (positions[first : first + count] for first in range(0, len(positions), count))


@torch.inference_mode()
def scores_of(engine: Engine, pictures: Sequence[Shaped[Tensor, "c height width"]]) -> Float[Tensor, "n k h w"] | None:
    """The coarse scores of pictures of one size; none where they are to be computed in tiles, or one by one.

    That is so of larger pictures than are ever computed whole, if memory runs out, and if a score is no number.

    Args:
        engine: Of a network in evaluation mode.
        pictures: uint8, or float in [0, 1].
    """
    _, height, width = pictures[0].shape
    if height * width > WHOLE_IMAGE_PIXELS:
        return None
    batch = torch.stack([images.to_float(picture) for picture in pictures]).to(engine.model.mean.device)
    try:
        scores = engine.scores(batch.contiguous(memory_format=torch.channels_last))
    except Exception as fault:  # each runtime has its own
        if not ran_out(fault):
            raise
        return None
    return None if scores.isnan().any() else scores
