"""Coarse scores of an image, whole or window by window with the same result."""

import math

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from fullyconv import images
from fullyconv.geometry import tile_plan
from fullyconv.models import FCN


def whole_scores(model: FCN, pixels: Shaped[Tensor, "c height width"]) -> Float[Tensor, "1 k h w"]:
    """The coarse scores of an image in one piece, in float32.

    Args:
        model: In evaluation mode.
        pixels: uint8, or float in [0, 1].
    """
    image = images.to_float(pixels)[None].to(model.mean.device)
    return model.scores(image.contiguous(memory_format=torch.channels_last)).float()


def tiled_scores(model: FCN, pixels: Shaped[Tensor, "c height width"], tile: int) -> Float[Tensor, "1 k h w"]:
    """The coarse scores of the whole image, computed window by window; only they are ever held at full extent.

    Args:
        model: In evaluation mode.
        pixels: uint8, or float in [0, 1].
        tile: Side of the windows' inner part in pixels, a multiple of the coarsest stride.
    """
    stride = int(model.coarsest.stride)
    # Two cells more, for the upscoring between taps and to the image, and what the map begins before the image.
    halo = model.coarsest.halo() + 2 * stride + max(0, math.ceil(-model.grid.start))
    fine = int(model.grid.stride)
    rows, columns = (tile_plan(size, tile, stride, halo) for size in pixels.shape[1:])
    bands = []
    for row in rows:
        band = []
        for column in columns:
            window = whole_scores(model, pixels[:, row.start : row.stop, column.start : column.stop])
            top, left = (row.inner_start - row.start) // fine, (column.inner_start - column.start) // fine
            bottom = None if row is rows[-1] else top + tile // fine
            right = None if column is columns[-1] else left + tile // fine
            band.append(window[:, :, top:bottom, left:right])
        bands.append(torch.cat(band, dim=3))
    return torch.cat(bands, dim=2)
