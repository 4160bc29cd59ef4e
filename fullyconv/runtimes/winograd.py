"""3 x 3 convolutions in float32 with a quarter of the multiplications: the minimal filtering algorithm F(4 x 4, 3 x 3).

A tile of 6 x 6 cells gives 4 x 4 of the result. Transformed, the 36 values of a tile are 36 separate matrix products
over the channels, which torch computes for many tiles at once; the transforms around them are loops over channels that
lie side by side. Measured on two cores with AVX-512 against oneDNN's convolution on prepared weights: 512 channels of
76 x 76 2.6 times, of 44 x 44 1.8 times as fast, 256 of 137 x 137 1.4 to 1.8 times; 128 channels gain nothing.

Source: Lavin and Gray 2016, "Fast algorithms for convolutional neural networks", section 4.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fullyconv.kernels.compiling import Array, compiled, compiled_once
from fullyconv.kernels.cpu import in_parallel
from fullyconv.runtimes.convolutions import LANES, FusedConv, Pair

STEP, SPAN = 4, 6  # cells of a tile of the result, and of the map that it is made of
BUFFER = 2**23  # numbers in a block of transformed tiles: as much as the C library hands out without new pages

KERNEL_TRANSFORM = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)

ZERO, TWO, FOUR, FIVE, EIGHT = (np.float32(number) for number in (0, 2, 4, 5, 8))


class Tiles(NamedTuple):
    """The tiles that lie in a block: those from `start` on, of maps of `down` rows of `across` tiles each."""

    start: int
    down: int
    across: int


class WinogradConv(FusedConv):
    """A 3 x 3 convolution of stride 1, and a ReLU if wanted, for maps that keep their channels last.

    Args:
        weight: float32, `(out, in, 3, 3)`; both are multiples of 64.
        bias: Of each channel of the result.
        padding: Zeros around the map, down and across.
        rectified: Whether a ReLU follows.
    """

    kernel_size, stride, dilation = (3, 3), (1, 1), (1, 1)

    def __init__(self, weight: Tensor, bias: Tensor, padding: Pair, *, rectified: bool) -> None:
        super().__init__()
        transform = torch.tensor(KERNEL_TRANSFORM, dtype=torch.float64)
        kernels = torch.einsum("ik,ockl,jl->ijco", transform, weight.double(), transform)
        self.padding = padding
        self.weight = kernels.flatten(0, 1).float().contiguous()
        self.bias = bias.numpy()
        self.least = np.float32(0 if rectified else -np.inf)

    def forward(self, image: Tensor) -> Tensor:
        image = image.contiguous(memory_format=torch.channels_last)
        sides = [side + 2 * padding - 2 for side, padding in zip(image.shape[2:], self.padding, strict=True)]
        bands, channels = self.weight.shape[1:]
        result = torch.empty((len(image), channels, *sides), memory_format=torch.channels_last)
        source, target = (maps.permute(0, 2, 3, 1).numpy() for maps in (image, result))
        down, across = (-(-side // STEP) for side in sides)
        count = len(image) * down * across
        blocks = -(-count * SPAN**2 * max(bands, channels) // BUFFER)
        bounds = np.linspace(0, count, blocks + 1).astype(int).tolist()
        buffers = [torch.empty(SPAN**2 * -(-count // blocks) * width) for width in (bands, channels)]
        for start, stop in pairwise(bounds):
            spread, products = (
                buffer[: SPAN**2 * (stop - start) * width].view(SPAN**2, stop - start, width)
                for buffer, width in zip(buffers, (bands, channels), strict=True)
            )
            tiles = Tiles(start, down, across)
            self._spread(source, tiles, spread.view(SPAN, SPAN, -1, bands).numpy())
            torch.bmm(spread, self.weight, out=products)
            self._collect(products.view(SPAN, SPAN, -1, channels).numpy(), tiles, target)
        return result

    def _spread(self, source: Array, tiles: Tiles, spread: Array) -> None:
        def work(first: int, last: int) -> None:
            _spread_tiles(first, last, source, self.padding, tiles, spread)

        in_parallel(work, spread.shape[2])

    def _collect(self, products: Array, tiles: Tiles, target: Array) -> None:
        def work(first: int, last: int) -> None:
            _collect_tiles(first, last, products, tiles, self.bias, self.least, target)

        in_parallel(work, products.shape[2])


@compiled
def _spread_column(cells: Array, j: int, lane: int, result: Array, tile: int, channel: int) -> None:
    """Transforms column j of `cells` `(6, 6, 1, LANES)` into row j of `result` `(6, 6, T, C)`, for one channel.

    As columns become rows, a tile that is transformed twice is transformed both ways, and lies as it did.
    """
    a, b, c = cells[0, j, 0, lane], cells[1, j, 0, lane], cells[2, j, 0, lane]
    d, e, f = cells[3, j, 0, lane], cells[4, j, 0, lane], cells[5, j, 0, lane]
    even, odd, near, far = e - FOUR * c, d - FOUR * b, e - c, TWO * (d - b)
    result[j, 0, tile, channel] = FOUR * a - FIVE * c + e
    result[j, 1, tile, channel] = even + odd
    result[j, 2, tile, channel] = even - odd
    result[j, 3, tile, channel] = near + far
    result[j, 4, tile, channel] = near - far
    result[j, 5, tile, channel] = FOUR * b - FIVE * d + f


@compiled
def _collect_column(products: Array, j: int, tile: int, channel: int, cells: Array, lane: int) -> None:
    """As `_spread_column`, back: from six `products` `(6, 6, T, C)` the first four of a row of `cells`."""
    a, b, c = products[0, j, tile, channel], products[1, j, tile, channel], products[2, j, tile, channel]
    d, e, f = products[3, j, tile, channel], products[4, j, tile, channel], products[5, j, tile, channel]
    near, across, far, over = b + c, b - c, d + e, d - e
    cells[j, 0, 0, lane] = a + near + far
    cells[j, 1, 0, lane] = across + TWO * over
    cells[j, 2, 0, lane] = near + FOUR * far
    cells[j, 3, 0, lane] = across + EIGHT * over + f


@compiled_once
def _spread_tiles(first: int, last: int, image: Array, padding: Pair, tiles: Tiles, spread: Array) -> None:
    """Fills `spread` with the transforms of tiles first ... last - 1.

    Args:
        image: The maps, `(N, H, W, C)`.
        padding: Rows and columns of zeros around each.
        tiles: Those of the block.
        spread: The block, `(6, 6, T, C)`.
    """
    height, width, channels = image.shape[1:]
    cells, half = np.empty((SPAN, SPAN, 1, LANES), np.float32), np.empty((SPAN, SPAN, 1, LANES), np.float32)
    for tile in range(first, last):
        number, place = divmod(tiles.start + tile, tiles.down * tiles.across)
        top, side = STEP * (place // tiles.across) - padding[0], STEP * (place % tiles.across) - padding[1]
        for band in range(0, channels, LANES):
            for i in range(SPAN):
                for j in range(SPAN):
                    y, x = top + i, side + j
                    if 0 <= y < height and 0 <= x < width:
                        for lane in range(LANES):
                            cells[i, j, 0, lane] = image[number, y, x, band + lane]
                    else:
                        for lane in range(LANES):
                            cells[i, j, 0, lane] = ZERO
            for j in range(SPAN):
                for lane in range(LANES):
                    _spread_column(cells, j, lane, half, 0, lane)
            for j in range(SPAN):
                for lane in range(LANES):
                    _spread_column(half, j, lane, spread, tile, band + lane)


@compiled_once
def _collect_tiles(
    first: int, last: int, products: Array, tiles: Tiles, bias: Array, least: Any, result: Array
) -> None:
    """Fills tiles first ... last - 1 of the result from their products.

    Args:
        products: The block, `(6, 6, T, C)`.
        tiles: Those of the block.
        bias: Of each channel, added.
        least: What smaller values are raised to.
        result: The maps, `(N, H, W, C)`.
    """
    height, width, channels = result.shape[1:]
    half, cells = np.empty((SPAN, SPAN, 1, LANES), np.float32), np.empty((STEP, SPAN, 1, LANES), np.float32)
    for tile in range(first, last):
        number, place = divmod(tiles.start + tile, tiles.down * tiles.across)
        top, side = STEP * (place // tiles.across), STEP * (place % tiles.across)
        for band in range(0, channels, LANES):
            for j in range(SPAN):
                for lane in range(LANES):
                    _collect_column(products, j, tile, band + lane, half, lane)
            for j in range(STEP):
                for lane in range(LANES):
                    _collect_column(half, j, 0, lane, cells, lane)
            for i in range(min(STEP, height - top)):
                for j in range(min(STEP, width - side)):
                    for lane in range(LANES):
                        value = cells[i, j, 0, lane] + bias[band + lane]
                        result[number, top + i, side + j, band + lane] = least if value < least else value
