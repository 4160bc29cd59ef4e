"""Where the cells of a feature map lie on the image: stride, start, receptive field, crops, kernels, tiles.

Pixels are points at 0, 1, 2, ... along an axis. Everything is exact (`Fraction`), holds for one axis, and knows no
tensors.

Source: the composition rule of Long, Shelhamer and Darrell 2015, section 3; Caffe's `coord_map` for crop offsets.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Grid:
    """The centres and receptive fields of a row of cells, in pixels of the image.

    Args:
        stride: Pixels from one cell to the next.
        start: Pixel position of the centre of cell 0's receptive field; may be negative or fractional.
        field: Width of a cell's receptive field in pixels.
    """

    stride: Fraction = Fraction(1)
    start: Fraction = Fraction(0)
    field: Fraction = Fraction(1)

    def convolve(self, kernel_size: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> "Grid":
        """The grid after a convolution or pooling layer; floor or ceil rounding of its size changes nothing here."""
        reach = dilation * (kernel_size - 1)
        return Grid(
            stride=self.stride * stride,
            start=self.start + (Fraction(reach, 2) - padding) * self.stride,
            field=self.field + reach * self.stride,
        )

    def deconvolve(self, kernel_size: int, stride: int = 1, padding: int = 0) -> "Grid":
        """The grid after a transposed convolution: cell i lands on `stride * i + (kernel_size - 1) / 2 - padding`."""
        fine = self.stride / stride
        overlap = math.ceil(Fraction(kernel_size, stride)) - 1
        return Grid(
            stride=fine,
            start=self.start - (Fraction(kernel_size - 1, 2) - padding) * fine,
            field=self.field + overlap * self.stride,
        )

    def crop(self, offset: int) -> "Grid":
        """The grid without its first `offset` cells; a negative offset is padding."""
        return Grid(self.stride, self.start + offset * self.stride, self.field)

    def join(self, other: "Grid") -> "Grid":
        """The grid of a sum or concatenation of two maps, whose receptive field covers both.

        Raises:
            ValueError: If the strides differ, so that no cell-by-cell join exists.
        """
        if self.stride != other.stride:
            raise ValueError(f"maps of strides {self.stride} and {other.stride} cannot be joined cell by cell")
        first = min(self.first, other.first)
        last = max(self.last, other.last)
        return Grid(self.stride, (first + last) / 2, last - first + 1)

    @property
    def first(self) -> Fraction:
        """The first pixel that cell 0 sees."""
        return self.start - (self.field - 1) / 2

    @property
    def last(self) -> Fraction:
        """The last pixel that cell 0 sees."""
        return self.start + (self.field - 1) / 2

    def crop_offset(self, target: "Grid") -> int:
        """How many leading cells to crop so that this map lies cell upon cell over `target`: Caffe's crop offset.

        Raises:
            ValueError: If the strides differ or the offset is not whole, so that cropping cannot align the maps.
        """
        offset = (target.start - self.start) / self.stride
        if self.stride != target.stride or offset.denominator != 1:
            raise ValueError(f"no crop aligns {self} with {target}: the offset would be {offset} cells")
        return int(offset)

    def inside(self, size: int) -> range:
        """The cells whose receptive field lies inside an image of `size` pixels, so that no padding touches them."""
        first = math.ceil(-self.first / self.stride)
        last = math.floor((size - 1 - self.last) / self.stride)
        return range(max(0, first), last + 1)

    def weights(self, cells: int, size: int) -> list[tuple[int, float]]:
        """Linear interpolation from `cells` values on this grid to pixels 0 ... size - 1, clamped at both ends.

        Returns:
            For each pixel the left cell and the weight of its right neighbour, in [0, 1].
        """
        # Whole numbers throughout: as exact as fractions, and quicker.
        unit = math.lcm(self.start.denominator, self.stride.denominator)
        start, stride = int(self.start * unit), int(self.stride * unit)
        last = max(cells - 2, 0)
        rows = []
        for pixel in range(size):
            position = min(max(pixel * unit - start, 0), (cells - 1) * stride)
            cell = min(position // stride, last)
            rows.append((cell, (position - cell * stride) / stride))
        return rows


def upscore_kernel(factor: int, offset: Fraction) -> tuple[list[float], int]:
    """The hat function that carries a coarse map, bilinearly, to a grid `factor` times finer.

    Args:
        factor: Fine cells per coarse cell.
        offset: Position of coarse cell 0 on the fine grid, in fine cells: `(coarse.start - fine.start) / fine.stride`.

    Returns:
        The taps of a transposed convolution with stride `factor`, and its padding: fine cell j of the output is cell j
        of the fine grid. For `offset = (factor - 1) / 2` these are the paper's `2 * factor` taps.
    """
    low = math.floor(offset) - factor + 1
    high = math.ceil(offset) + factor - 1
    taps = [float(max(Fraction(0), 1 - abs(position - offset) / factor)) for position in range(low, high + 1)]
    return taps, -low


def reach(maps: Sequence[Grid]) -> tuple[int, int]:
    """How many pixels beyond a block of an image the cells of that block see, before it and after it.

    The block begins and ends on multiples of the coarsest stride. A cell of the finest map sees its own field and,
    since coarser maps are upscored onto it, the fields of the two nearest cells of the next coarser map, and so on.

    Args:
        maps: Finest first; each stride is a multiple of the one before.
    """
    low, high = maps[0].start, maps[0].start - maps[0].stride  # of the cells from the block's begin, and from its end
    before = after = 0
    for grid in maps:
        low = grid.start + math.floor((low - grid.start) / grid.stride) * grid.stride
        high = grid.start + math.ceil((high - grid.start) / grid.stride) * grid.stride
        before = max(before, math.ceil((grid.field - 1) / 2 - low))
        after = max(after, math.floor((grid.field - 1) / 2 + high) + 1)
    return before, after


@dataclass(frozen=True)
class Tile:
    """One window of an image along an axis: `start:stop` is computed for the sake of `inner_start:inner_stop`."""

    start: int
    stop: int
    inner_start: int
    inner_stop: int


def tile_plan(size: int, tile: int, stride: int, around: tuple[int, int]) -> list[Tile]:
    """Windows that cover `size` pixels, start on multiples of `stride`, and carry along what their inner parts see.

    Args:
        size: Length of the image along the axis.
        tile: Length of the inner part; a multiple of `stride`.
        stride: The coarsest stride of the network, so that every window sees the whole image's grids.
        around: Pixels that results need before and after the inner part; the former is rounded up to whole strides.
    """
    if tile < stride or tile % stride:
        near = max(stride, round(tile / stride) * stride)
        raise ValueError(f"tile must be a multiple of the coarsest stride {stride}, got {tile}; use {near}")
    before = math.ceil(around[0] / stride) * stride
    return [
        Tile(max(0, inner - before), min(size, inner + tile + around[1]), inner, min(size, inner + tile))
        for inner in range(0, size, tile)
    ]
