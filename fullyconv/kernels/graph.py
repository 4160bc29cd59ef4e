"""Upsampling for graphs that are exported once and run at every size: all that depends on a size is computed inside."""

import torch
from jaxtyping import Float
from torch import Tensor

from fullyconv.geometry import Grid


def upsample(
    scores: Float[Tensor, "n k h w"], size: tuple[int, int], *, grid: Grid | None = None
) -> Float[Tensor, "n k height width"]:
    """See `fullyconv.kernels.upsample`.

    Columns by one product of matrices, rows by reading two of them. Measured on 19 x 128 x 256 scores to 1024 x 2048
    pixels and their labels, one thread: 370 ms in ONNX Runtime; two products take 1,950 ms, reading along both axes
    3,600 ms, the rows by a product and the columns by reading 1,170 ms.
    """
    with torch.autocast(scores.device.type, enabled=False):
        return _rows(_columns(scores.float(), size[1], grid), size[0], grid)


def _columns(scores: Tensor, width: int, grid: Grid | None) -> Tensor:
    cells = scores.shape[3]
    distance = _positions(scores, cells, width, grid)[:, None] - torch.arange(cells, device=scores.device)
    return scores @ (1 - distance.abs()).clamp(min=0).T


def _rows(scores: Tensor, height: int, grid: Grid | None) -> Tensor:
    cells = scores.shape[2]
    positions = _positions(scores, cells, height, grid)
    upper = positions.floor()
    share = (positions - upper)[:, None]
    lower = (upper + 1).clamp(max=cells - 1)
    return scores.index_select(2, upper.long()) * (1 - share) + scores.index_select(2, lower.long()) * share


def _positions(like: Tensor, cells: int, size: int, grid: Grid | None) -> Tensor:
    """Where pixels 0 ... size - 1 lie on the cells, `(size,)` in [0, cells - 1]."""
    stride = size / cells if grid is None else float(grid.stride)
    start = (stride - 1) / 2 if grid is None else float(grid.start)
    pixels = torch.arange(size, dtype=torch.float32, device=like.device)
    return ((pixels - start) / stride).clamp(0, cells - 1)
