"""Images of equal size computed together."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from fullyconv import images
from fullyconv.kernels import upsample_argmax
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
def masks_of(
    engine: Engine, pictures: Sequence[Shaped[Tensor, "c height width"]]
) -> Shaped[np.ndarray[Any, Any], "n height width"] | None:
    """The label maps of pictures of one size; none if a score is no number, or if they do not fit into memory.

    Args:
        engine: Of a network in evaluation mode.
        pictures: uint8, or float in [0, 1].
    """
    batch = torch.stack([images.to_float(picture) for picture in pictures]).to(engine.model.mean.device)
    try:
        scores = engine.scores(batch.contiguous(memory_format=torch.channels_last))
    except (MemoryError, RuntimeError) as fault:
        if not ran_out(fault):
            raise
        return None
    if scores.isnan().any():
        return None
    masks = upsample_argmax(scores, (batch.shape[2], batch.shape[3]), grid=engine.model.grid)
    return np.asarray(masks.cpu().numpy())
