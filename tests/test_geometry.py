"""Laws of grids, and the numbers of the paper that follow from them."""

from fractions import Fraction

import pytest

from fullyconv.geometry import Grid, tile_plan, upscore_kernel

VGG_BLOCKS = (2, 2, 3, 3, 3)


def vgg(padding: int, *, until: int = 5) -> Grid:
    """VGG16 up to a pool, as the authors lay it out: `padding` before the first convolution, 1 before the others."""
    grid = Grid()
    first = True
    for convolutions in VGG_BLOCKS[:until]:
        for _ in range(convolutions):
            grid = grid.convolve(3, padding=padding if first else 1)
            first = False
        grid = grid.convolve(2, 2)
    return grid


def fc7(padding: int) -> Grid:
    return vgg(padding).convolve(7).convolve(1)


def test_vgg16_sees_404_pixels_at_stride_32():
    assert (fc7(100).field, fc7(100).stride) == (404, 32)


def test_alexnet_sees_355_pixels_at_stride_32():
    grid = Grid()
    for kernel_size, stride in [(11, 4), (3, 2), (5, 1), (3, 2), (3, 1), (3, 1), (3, 1), (3, 2), (6, 1)]:
        grid = grid.convolve(kernel_size, stride)
    assert (grid.field, grid.stride) == (355, 32)


def test_fcn32s_is_cropped_by_19():
    assert fc7(100).deconvolve(64, 32).crop_offset(Grid()) == 19


def test_fcn16s_is_cropped_by_5_and_27():
    upscored = fc7(100).deconvolve(4, 2)
    pool4 = vgg(100, until=4)
    assert pool4.crop_offset(upscored) == 5
    assert pool4.crop(5).deconvolve(32, 16).crop_offset(Grid()) == 27


def test_fcn8s_is_cropped_by_5_9_and_31():
    pool4, pool3 = vgg(100, until=4), vgg(100, until=3)
    upscored = fc7(100).deconvolve(4, 2)
    assert pool4.crop_offset(upscored) == 5
    again = pool4.crop(5).deconvolve(4, 2)
    assert pool3.crop_offset(again) == 9
    assert pool3.crop(9).deconvolve(16, 8).crop_offset(Grid()) == 31


def test_fcn_alexnet_is_cropped_by_18():
    grid = Grid().convolve(11, 4, padding=100)
    for kernel_size, stride, padding in [
        (3, 2, 0),
        (5, 1, 2),
        (3, 2, 0),
        (3, 1, 1),
        (3, 1, 1),
        (3, 1, 1),
        (3, 2, 0),
        (6, 1, 0),
    ]:
        grid = grid.convolve(kernel_size, stride, padding)
    assert grid.deconvolve(63, 32).crop_offset(Grid()) == 18


def test_padding_1_asks_for_negative_crops():
    assert fc7(1).deconvolve(64, 32).crop_offset(Grid()) == -80


def test_the_last_crop_undoes_any_padding():
    for padding in range(0, 130, 7):
        assert fc7(padding).deconvolve(64, 32).crop_offset(Grid()) == padding - 81


def test_a_resnet_starts_at_pixel_zero():
    grid = Grid().convolve(7, 2, 3).convolve(3, 2, 1)
    for _ in range(3):
        grid = grid.convolve(3, 2, 1)
    assert (grid.stride, grid.start) == (32, 0)


def test_transposed_convolution_undoes_the_shift_of_its_convolution():
    for kernel_size, stride, padding in [(4, 2, 1), (3, 2, 1), (16, 8, 4), (7, 3, 2)]:
        there = Grid().convolve(kernel_size, stride, padding)
        back = there.deconvolve(kernel_size, stride, padding)
        assert (back.stride, back.start) == (1, 0)


def test_cells_inside_the_image_see_no_padding():
    grid = Grid().convolve(7, 2, 3).convolve(3, 2, 1)  # cell i sees pixels 4 i - 5 to 4 i + 5
    assert (grid.first, grid.last) == (-5, 5)
    assert grid.inside(20) == range(2, 4)
    assert grid.inside(18) == range(2, 4)
    assert grid.inside(17) == range(2, 3)
    assert len(grid.inside(10)) == 0
    assert Grid().convolve(3, 2).inside(9) == range(4)


def test_a_crop_between_unlike_strides_is_refused():
    with pytest.raises(ValueError, match="no crop aligns"):
        fc7(100).crop_offset(Grid())


def test_joined_maps_see_what_either_sees():
    small, large = Grid().convolve(3, 2, 1), Grid().convolve(7, 2, 3)
    assert small.join(large) == large
    with pytest.raises(ValueError, match="cannot be joined"):
        small.join(Grid())


def test_upscore_kernel_of_centred_grids_is_the_papers():
    assert upscore_kernel(2, Fraction(1, 2)) == ([0.25, 0.75, 0.75, 0.25], 1)


def test_upscore_kernel_of_coinciding_grids_is_three_wide():
    taps, lead = upscore_kernel(2, Fraction(0))
    assert [tap for tap in taps if tap] == [0.5, 1, 0.5]
    assert taps[lead] == 1


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("offset", [Fraction(0), Fraction(1, 2), Fraction(3, 4), Fraction(-5, 3), Fraction(7)])
def test_upscore_kernels_share_every_fine_cell_out_wholly(factor, offset):
    taps, _ = upscore_kernel(factor, offset)
    for phase in range(factor):
        assert sum(taps[phase::factor]) == pytest.approx(1)


def test_interpolation_weights_are_clamped_at_both_ends():
    rows = Grid(Fraction(4), Fraction(2)).weights(cells=2, size=9)
    values = [(1 - weight) * [10, 20][cell] + weight * [10, 20][min(cell + 1, 1)] for cell, weight in rows]
    assert values == [10, 10, 10, 12.5, 15, 17.5, 20, 20, 20]


@pytest.mark.parametrize("size", [1, 31, 32, 200, 1000])
def test_tiles_cover_every_pixel_once_and_start_on_the_stride(size):
    tiles = tile_plan(size, tile=64, stride=32, around=(50, 40))
    assert [pixel for tile in tiles for pixel in range(tile.inner_start, tile.inner_stop)] == list(range(size))
    for tile in tiles:
        assert tile.start % 32 == 0
        assert tile.start == 0 or tile.inner_start - tile.start >= 50
        assert tile.stop == min(size, tile.inner_stop + 40)


def test_a_tile_off_the_stride_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="use 512"):
        tile_plan(1000, tile=500, stride=32, around=(0, 0))
