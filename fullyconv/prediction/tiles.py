"""The label map of an image in rows of tiles: what is held at a time is a window of the image and a row of scores."""

import math
import sys
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from fullyconv import images
from fullyconv.errors import FullyconvError
from fullyconv.geometry import Grid, Tile, reach, tile_plan
from fullyconv.kernels import upsample_argmax
from fullyconv.models import FCN
from fullyconv.prediction.memory import free_memory, keep_no_freed_maps, memory_of_scores, ran_out
from fullyconv.runtimes.engine import Engine
from fullyconv.surgery import blueprint

Read = Callable[[slice, slice], Shaped[Tensor, "c height width"]]
"""Rows and columns of an image, uint8 or float in [0, 1]."""

Tiling = int | Literal["auto", "none"]

WHOLE_IMAGE_PIXELS = 4_000_000  # a resnet18's maps take 160 bytes per pixel, so 0.7 GB
ENOUGH_MEMORY = {"cpu": 1_000_000_000, "cuda": 8_000_000_000}
"""Bytes that `--tile auto` is content with where more are free, unless its tiles would take more than ENOUGH_WORK."""
ENOUGH_WORK = 2.0
"""Pixels that are computed for each of the image: a VGG16's tiles of 1 GB would compute 6."""


@dataclass(frozen=True)
class Plan:
    """How an image is cut into tiles.

    Args:
        size: Height and width of the image.
        tile: Side of the tiles' inner parts, a multiple of the coarsest stride.
        rows: From top to bottom.
        columns: From left to right.
        grid: Where the scores lie on the image.
        blended: Whether the scores of neighbouring tiles flow into each other; else each cell has those of one tile.
    """

    size: tuple[int, int]
    tile: int
    rows: tuple[Tile, ...]
    columns: tuple[Tile, ...]
    grid: Grid
    blended: bool

    @property
    def work(self) -> float:
        """Pixels that are computed for each pixel of the image; 1 is what the whole would take."""
        height, width = (sum(tile.stop - tile.start for tile in axis) for axis in (self.rows, self.columns))
        return height * width / (self.size[0] * self.size[1])

    @property
    def window(self) -> tuple[int, int]:
        """Height and width of the largest window."""
        height, width = (max(tile.stop - tile.start for tile in axis) for axis in (self.rows, self.columns))
        return height, width

    def memory(self, model: FCN, row_bytes: int = 0) -> int:
        """Bytes that prediction takes at a time, beside what the process takes already.

        Args:
            model: Whose scores are computed, or its blueprint.
            row_bytes: What reading keeps of each row of the image.
        """
        window, fine = self.window, int(self.grid.stride)
        cells = math.ceil(window[0] / fine) * math.ceil(self.size[1] / fine)
        # A row of scores is joined to what is left of the last one, and so is held three times for a moment.
        rows_of_scores = 3 * 4 * model.num_classes * cells
        return memory_of_scores(model, window) + rows_of_scores + window[0] * (row_bytes + 4 * self.size[1])

    def kept(self, tile: Tile) -> range:
        """The cells that a tile contributes to; the last tile of an axis also gives what lies beyond the image."""
        fine = int(self.grid.stride)
        start, stop = (tile.start, tile.stop) if self.blended else (tile.inner_start, tile.inner_stop)
        return range(start // fine, math.ceil(stop / fine))

    def first_cell(self, pixel: int) -> int:
        """The first cell that an axis needs from a pixel on, at most the cell of the pixel's own index."""
        fine = int(self.grid.stride)
        return max(0, min(pixel // fine, math.floor((pixel - self.grid.start) / fine)))


def plan(model: FCN, size: tuple[int, int], tile: int) -> Plan:
    """Tiles that give what the whole would give: each carries along all that the cells of its inner part see.

    Operations that look at the whole image cannot be cut: tiles of networks that have them overlap by a quarter, and
    blend.
    """
    stride = int(model.coarsest.stride)
    blended = bool(model.global_operations)
    around = (tile // 8, tile // 8) if blended else reach((model.grid, *map(_widened, model.grids)))
    rows, columns = (tuple(tile_plan(side, tile, stride, around)) for side in size)
    return Plan(size, tile, rows, columns, model.grid, blended)


def refuse_tile(model: FCN, tile: Tiling) -> None:
    """Raises SEG-P004 for a side that is no multiple of the coarsest stride."""
    stride = int(model.coarsest.stride)
    if isinstance(tile, int) and (tile < stride or tile % stride):
        near = max(stride, round(tile / stride) * stride)
        raise FullyconvError(
            "SEG-P004", f"--tile must be a multiple of the coarsest stride {stride}, got {tile}; use {near}"
        )


def chosen_tile(model: FCN, size: tuple[int, int], tile: Tiling, row_bytes: int = 0) -> int:
    """The side of the tiles that `tile` stands for; the whole image if it is small.

    Args:
        model: Whose scores are computed.
        size: Height and width of the image.
        tile: A multiple of the coarsest stride; `none` is the whole, `auto` as much as half of the free memory holds.
        row_bytes: What reading keeps of each row of the image.
    """
    refuse_tile(model, tile)
    if isinstance(tile, int):
        return tile
    stride = int(model.coarsest.stride)
    strides = math.ceil(max(size) / stride)
    if tile == "none" or size[0] * size[1] <= WHOLE_IMAGE_PIXELS:
        return strides * stride
    device, shadow = model.mean.device, blueprint(model)
    plans = [plan(model, size, count * stride) for count in range(1, strides + 1)]
    fitting = partial(bisect, plans, key=lambda plan: plan.memory(shadow, row_bytes))
    enough = max(1, fitting(ENOUGH_MEMORY.get(device.type, ENOUGH_MEMORY["cpu"])))
    if plans[enough - 1].work > ENOUGH_WORK:
        enough = next((count for count, plan in enumerate(plans, 1) if plan.work <= ENOUGH_WORK), strides)
    most = max(1, fitting(free_memory(device) // 2))
    tiles = math.ceil(strides / min(enough, most))
    return math.ceil(strides / tiles) * stride  # evenly, with no narrow last tile


@torch.inference_mode()
def mask_rows(
    engine: Engine, read: Read, size: tuple[int, int], tile: int, *, first_row: int = 0
) -> Iterator[Shaped[np.ndarray[Any, Any], "rows width"]]:
    """The label map in bands of full rows; in smaller tiles from where memory runs out.

    Args:
        engine: Of a network in evaluation mode.
        read: The pixels of a window.
        size: Height and width of the image.
        tile: Side of the tiles' inner parts in pixels, a multiple of the coarsest stride.
        first_row: The rows above are left out.

    Raises:
        FullyconvError: SEG-P005 for scores that are no numbers, SEG-P006 if the smallest tile takes too much memory.
    """
    stride, row = int(engine.model.coarsest.stride), first_row
    if tile < max(size):
        keep_no_freed_maps()
    while row < size[0]:
        try:
            for labels in label_rows(plan(engine.model, size, tile), engine, read, first_row=row):
                row += len(labels)
                yield labels
        except Exception as fault:  # each runtime has its own
            if not ran_out(fault):
                raise
            if tile == stride:
                raise FullyconvError(
                    "SEG-P006",
                    f"there is not enough memory even for tiles of {tile} pixels; close other programs, or take a "
                    "smaller network",
                ) from fault
            tile = max(1, min(tile, max(size)) // stride // 2) * stride
            print(f"memory ran out at row {row}; going on with tiles of {tile}", file=sys.stderr)
        else:
            assert row == size[0], f"tiles of {tile} ended at row {row} of {size[0]}"


def _widened(grid: Grid) -> Grid:
    """The grid with a field that holds what its cells see even if it is centred by decree (`alignment="centred"`)."""
    centred = grid.start == (grid.stride - 1) / 2
    return replace(grid, field=grid.field + grid.stride - 1) if centred else grid


def label_rows(
    plan: Plan, engine: Engine, read: Read, *, first_row: int = 0
) -> Iterator[Shaped[np.ndarray[Any, Any], "rows width"]]:
    """The label map from a pixel row on, in bands of full rows.

    Args:
        plan: Of the image.
        engine: Of a network in evaluation mode.
        read: The pixels of a window.
        first_row: The rows above are left out, and tiles that only they need are not computed.
    """
    top, row = plan.first_cell(first_row), first_row
    if top > 0:
        top = min(top, _rows_of_cells(engine.model, plan.size) - 1)  # there may be pixels below the last cell's
    fine, (height, width) = int(plan.grid.stride), plan.size
    held: list[Tensor] = []
    for band, last in score_rows(plan, engine, read, first_cell=top):
        held = [torch.cat([*held, band], 2)]
        final = top + held[0].shape[2] - 1  # the last cell that is known
        done = height if last else min(height, math.floor(plan.grid.start + final * plan.grid.stride) + 1)
        if done <= row:
            continue
        # The band is upsampled as an image that begins at cell `top`, so that its pixels lie on the cells as before.
        mask = upsample_argmax(held[0], (done - top * fine, width), grid=plan.grid)[0, row - top * fine :]
        yield mask.cpu().numpy()
        row, before, top = done, top, plan.first_cell(done)
        held = [held[0][:, :, top - before :].clone()]


def _rows_of_cells(model: FCN, size: tuple[int, int]) -> int:
    """How many rows of scores an image has, of which networks round down or up."""
    return int(blueprint(model).scores(torch.empty(1, model.mean.shape[1], *size, device="meta")).shape[2])  # type: ignore[operator]


def score_rows(
    plan: Plan, engine: Engine, read: Read, *, first_cell: int = 0
) -> Iterator[tuple[Float[Tensor, "1 k rows w"], bool]]:
    """The coarse scores from a row of cells on, in bands of full rows; with each, whether it is the last.

    Args:
        plan: Of the image.
        engine: Of a network in evaluation mode.
        read: The pixels of a window.
        first_cell: The rows above are left out.
    """
    needed = [row for row in plan.rows if row is plan.rows[-1] or plan.kept(row).stop > first_cell]
    bands = ((row, _band(plan, row, engine, read)) for row in needed)
    for row, band in _joined(plan, plan.rows, bands, axis=2):
        unwanted, last = max(0, first_cell - plan.kept(row).start), row is plan.rows[-1]
        if unwanted < band.shape[2] or last:  # which has no cell of its own if it is thinner than one
            yield band[:, :, unwanted:], last


def _band(plan: Plan, row: Tile, engine: Engine, read: Read) -> Tensor:
    """The scores of a row of tiles, over the full width."""
    windows = ((column, _window(plan, row, column, engine, read)) for column in plan.columns)
    return torch.cat([part for _, part in _joined(plan, plan.columns, windows, axis=3)], 3)


def _window(plan: Plan, row: Tile, column: Tile, engine: Engine, read: Read) -> Tensor:
    """The scores of the cells that a tile keeps.

    Raises:
        FullyconvError: SEG-P005 if one is not a number.
    """
    pixels = read(slice(row.start, row.stop), slice(column.start, column.stop))
    window = whole_scores(engine, pixels)
    for axis, tile, tiles in ((2, row, plan.rows), (3, column, plan.columns)):
        kept, first = plan.kept(tile), tile.start // int(plan.grid.stride)
        stop = None if tile is tiles[-1] else kept.stop - first
        window = window[(slice(None),) * axis + (slice(kept.start - first, stop),)]
    if bool(window.isnan().any()):
        place = f"rows {row.start} to {row.stop} and columns {column.start} to {column.stop}"
        raise FullyconvError(
            "SEG-P005",
            f"the network gives scores that are no numbers (NaN) in {place} of the image; its weights hold NaN or "
            "overflow, so load another checkpoint",
        )
    return window


def _joined(
    plan: Plan, tiles: tuple[Tile, ...], parts: Iterable[tuple[Tile, Tensor]], axis: int
) -> Iterator[tuple[Tile, Tensor]]:
    """The scores along an axis, tile by tile, each up to where the next tile begins to contribute.

    Args:
        plan: Of the image.
        tiles: All of the axis.
        parts: The last of these tiles, with their scores.
        axis: 2 for rows, 3 for columns.
    """
    carried: Tensor | None = None
    for tile, part in parts:
        kept = plan.kept(tile)
        if plan.blended and len(tiles) > 1:
            cells = torch.arange(kept.start, kept.start + part.shape[axis], device=part.device)
            part = part * _shares(plan, tiles, tile, cells).view(-1, *(1,) * (3 - axis))
        if carried is not None:
            part.narrow(axis, 0, carried.shape[axis]).add_(carried)
        if tile is tiles[-1]:
            yield tile, part
            return
        finished = plan.kept(tiles[tiles.index(tile) + 1]).start - kept.start
        yield tile, part.narrow(axis, 0, finished)
        carried = part.narrow(axis, finished, part.shape[axis] - finished) if plan.blended else None


def _shares(plan: Plan, tiles: tuple[Tile, ...], tile: Tile, cells: Tensor) -> Tensor:
    """How much a tile counts in each cell; all tiles of the axis together count 1."""
    slopes = [_slope(plan, tiles, other, cells) for other in tiles]
    return slopes[tiles.index(tile)] / torch.stack(slopes).sum(0)


def _slope(plan: Plan, tiles: tuple[Tile, ...], tile: Tile, cells: Tensor) -> Tensor:
    """From 0 at a border that a tile shares with others up to 1 where no other reaches, as the square of a sine."""
    kept, overlap = plan.kept(tile), 2 * (tiles[0].stop - tiles[0].inner_stop) / float(plan.grid.stride)
    rise = (cells - kept.start + 0.5) / overlap if tile is not tiles[0] else torch.ones_like(cells)
    fall = (kept.stop - cells - 0.5) / overlap if tile is not tiles[-1] else torch.ones_like(cells)
    return ((rise.clamp(0, 1) * math.pi / 2).sin() * (fall.clamp(0, 1) * math.pi / 2).sin()) ** 2


def tiled_scores(engine: Engine, pixels: Shaped[Tensor, "c height width"], tile: int) -> Float[Tensor, "1 k h w"]:
    """The coarse scores of a whole image, computed tile by tile.

    Args:
        engine: Of a network in evaluation mode.
        pixels: uint8, or float in [0, 1].
        tile: Side of the tiles' inner parts in pixels, a multiple of the coarsest stride.
    """
    cut = plan(engine.model, (pixels.shape[1], pixels.shape[2]), tile)
    return torch.cat([band for band, _ in score_rows(cut, engine, lambda rows, columns: pixels[:, rows, columns])], 2)


def whole_scores(engine: Engine, pixels: Shaped[Tensor, "c height width"]) -> Float[Tensor, "1 k h w"]:
    """The coarse scores of an image in one piece, in float32.

    Args:
        engine: Of a network in evaluation mode.
        pixels: uint8, or float in [0, 1].
    """
    image = images.to_float(pixels)[None].to(engine.model.mean.device)
    return engine.scores(image.contiguous(memory_format=torch.channels_last))
