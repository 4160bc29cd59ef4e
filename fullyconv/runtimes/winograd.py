"""3 x 3 convolutions in float32 with a quarter of the multiplications: the minimal filtering algorithm F(4 x 4, 3 x 3).

A tile of 6 x 6 cells gives 4 x 4 of the result. Transformed, the 36 values of a tile are 36 separate matrix products
over the channels, which torch computes for many tiles at once; the transforms around them are loops over channels that
lie side by side. Measured on two cores with AVX-512 against oneDNN's convolution on prepared weights: 512 channels of
76 x 76 2.6 times, of 44 x 44 1.8 times as fast, 256 of 137 x 137 1.4 to 1.8 times; 128 channels gain nothing.

Source: Lavin and Gray 2016, "Fast algorithms for convolutional neural networks", section 4.
"""

from itertools import pairwise
from typing import Any

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
        tiles = len(image) * down * across
        blocks = -(-tiles * SPAN**2 * max(bands, channels) // BUFFER)
        bounds = np.linspace(0, tiles, blocks + 1).astype(int).tolist()
        buffers = [torch.empty(SPAN**2 * -(-tiles // blocks) * width) for width in (bands, channels)]
        for start, stop in pairwise(bounds):
            spread, products = (
                buffer[: SPAN**2 * (stop - start) * width].view(SPAN**2, stop - start, width)
                for buffer, width in zip(buffers, (bands, channels), strict=True)
            )
            self._spread(source, start, (down, across), spread.numpy())
            torch.bmm(spread, self.weight, out=products)
            self._collect(products.numpy(), start, (down, across), target)
        return result

    def _spread(self, source: Array, start: int, tiles: Pair, spread: Array) -> None:
        def work(first: int, last: int) -> None:
            _spread_tiles(source, *self.padding, *tiles, start, first, last, _room(SPAN), _room(SPAN), spread)

        in_parallel(work, spread.shape[1])

    def _collect(self, products: Array, start: int, tiles: Pair, target: Array) -> None:
        def work(first: int, last: int) -> None:
            _collect_tiles(
                products, self.bias, self.least, *tiles, start, first, last, _room(STEP), _room(STEP), target
            )

        in_parallel(work, products.shape[1])


def _room(rows: int) -> Array:
    return np.empty((rows, SPAN, LANES), np.float32)


@compiled
def _six(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any) -> Any:
    """Six cells in a row, transformed."""
    even, odd, near, far = e - FOUR * c, d - FOUR * b, e - c, TWO * (d - b)
    return FOUR * a - FIVE * c + e, even + odd, even - odd, near + far, near - far, FOUR * b - FIVE * d + f


@compiled
def _four(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any) -> Any:
    """The four cells in a row of the result, from six products."""
    near, across, far, over = b + c, b - c, d + e, d - e
    return a + near + far, across + TWO * over, near + FOUR * far, across + EIGHT * over + f


@compiled_once
def _spread_tiles(
    image: Array,
    above: int,
    left: int,
    down: int,
    across: int,
    start: int,
    first: int,
    last: int,
    cells: Array,
    half: Array,
    spread: Array,
) -> None:
    """Fills `spread` `(36, T, C)` with the transforms of some tiles of maps `(N, H, W, C)`.

    Args:
        image: The maps.
        above: Rows of padding.
        left: Columns of padding.
        down: Tiles of a map.
        across: Tiles of a row of them.
        start: The tile that comes first in `spread`.
        first: The tile to begin with, counted from there.
        last: The tile to end before.
        cells: Scratch.
        half: Scratch.
        spread: Is changed.
    """
    height, width, channels = image.shape[1:]
    for tile in range(first, last):
        number, place = divmod(start + tile, down * across)
        top, side = STEP * (place // across) - above, STEP * (place % across) - left
        for band in range(0, channels, LANES):
            for i in range(SPAN):
                for j in range(SPAN):
                    y, x = top + i, side + j
                    if 0 <= y < height and 0 <= x < width:
                        for lane in range(LANES):
                            cells[i, j, lane] = image[number, y, x, band + lane]
                    else:
                        for lane in range(LANES):
                            cells[i, j, lane] = ZERO
            for j in range(SPAN):
                for lane in range(LANES):
                    (
                        half[0, j, lane],
                        half[1, j, lane],
                        half[2, j, lane],
                        half[3, j, lane],
                        half[4, j, lane],
                        half[5, j, lane],
                    ) = _six(
                        cells[0, j, lane],
                        cells[1, j, lane],
                        cells[2, j, lane],
                        cells[3, j, lane],
                        cells[4, j, lane],
                        cells[5, j, lane],
                    )
            for i in range(SPAN):
                for lane in range(LANES):
                    (
                        spread[SPAN * i, tile, band + lane],
                        spread[SPAN * i + 1, tile, band + lane],
                        spread[SPAN * i + 2, tile, band + lane],
                        spread[SPAN * i + 3, tile, band + lane],
                        spread[SPAN * i + 4, tile, band + lane],
                        spread[SPAN * i + 5, tile, band + lane],
                    ) = _six(
                        half[i, 0, lane],
                        half[i, 1, lane],
                        half[i, 2, lane],
                        half[i, 3, lane],
                        half[i, 4, lane],
                        half[i, 5, lane],
                    )


@compiled_once
def _collect_tiles(
    products: Array,
    bias: Array,
    least: Any,
    down: int,
    across: int,
    start: int,
    first: int,
    last: int,
    half: Array,
    cells: Array,
    result: Array,
) -> None:
    """Fills some tiles of the result `(N, H, W, C)` from their products `(36, T, C)`; arguments as above.

    Args:
        products: Of the tiles.
        bias: Of each channel, added.
        least: What smaller values are raised to.
        down: Tiles of a map.
        across: Tiles of a row of them.
        start: The tile that comes first in `products`.
        first: The tile to begin with, counted from there.
        last: The tile to end before.
        half: Scratch.
        cells: Scratch.
        result: Is changed.
    """
    height, width, channels = result.shape[1:]
    for tile in range(first, last):
        number, place = divmod(start + tile, down * across)
        top, side = STEP * (place // across), STEP * (place % across)
        for band in range(0, channels, LANES):
            for j in range(SPAN):
                for lane in range(LANES):
                    half[0, j, lane], half[1, j, lane], half[2, j, lane], half[3, j, lane] = _four(
                        products[j, tile, band + lane],
                        products[SPAN + j, tile, band + lane],
                        products[2 * SPAN + j, tile, band + lane],
                        products[3 * SPAN + j, tile, band + lane],
                        products[4 * SPAN + j, tile, band + lane],
                        products[5 * SPAN + j, tile, band + lane],
                    )
            for i in range(STEP):
                for lane in range(LANES):
                    cells[i, 0, lane], cells[i, 1, lane], cells[i, 2, lane], cells[i, 3, lane] = _four(
                        half[i, 0, lane],
                        half[i, 1, lane],
                        half[i, 2, lane],
                        half[i, 3, lane],
                        half[i, 4, lane],
                        half[i, 5, lane],
                    )
            for i in range(min(STEP, height - top)):
                for j in range(min(STEP, width - side)):
                    for lane in range(LANES):
                        value = cells[i, j, lane] + bias[band + lane]
                        result[number, top + i, side + j, band + lane] = least if value < least else value
