"""Pictures: right colours, right sizes, legends that cover nothing."""

import numpy as np
import pytest
from PIL import Image

from fullyconv import drawing
from fullyconv.labels import LabelSet

LABELS = LabelSet(("grass", "water", "stone"), ((0, 200, 0), (0, 0, 250), (90, 80, 70)))
GREY = {tuple(color) for color in drawing.STRIPES}


def quarters(side: int = 40) -> np.ndarray:
    """Grass and water above, stone and ignored pixels below."""
    return np.kron(np.array([[0, 1], [2, 255]], np.uint8), np.ones((side, side), np.uint8))


def test_every_class_has_its_colour_and_ignored_pixels_are_hatched() -> None:
    picture = np.asarray(drawing.colorize(quarters(), LABELS))
    assert picture[5, 5].tolist() == [0, 200, 0]
    assert picture[5, 75].tolist() == [0, 0, 250]
    assert picture[75, 5].tolist() == [90, 80, 70]
    assert {tuple(color) for color in picture[45:, 45:].reshape(-1, 3).tolist()} == GREY


def test_an_overlay_of_no_strength_is_the_image() -> None:
    image = np.arange(80 * 80 * 3, dtype=np.uint8).reshape(80, 80, 3)
    flat = np.zeros((80, 80), np.uint8)
    assert np.array_equal(np.asarray(drawing.overlay(image, flat, LABELS, alpha=0.0, legend=False)), image)


def test_an_overlay_mixes_image_and_colour() -> None:
    image, flat = Image.new("L", (300, 300), 100), np.zeros((300, 300), np.uint8)
    picture = drawing.overlay(image, flat, LABELS, alpha=0.5, legend=False)
    assert picture.getpixel((9, 9)) == (50, 150, 50)


@pytest.mark.parametrize(("height", "width"), [(240, 400), (400, 240)])
def test_a_legend_covers_nothing(height: int, width: int) -> None:
    image, mask = np.full((height, width, 3), 77, np.uint8), np.full((height, width), 1, np.uint8)
    plain = np.asarray(drawing.overlay(image, mask, LABELS, legend=False))
    named = np.asarray(drawing.overlay(image, mask, LABELS))
    assert np.array_equal(named[:height, :width], plain)
    assert named.shape[0] > height or named.shape[1] > width


def test_the_legend_names_only_what_occurs() -> None:
    names = [name for name, _ in drawing._entries(quarters(), LABELS)]
    assert names == ["grass", "water", "stone", "ignored"]
    assert [name for name, _ in drawing._entries(np.full((2, 2), 2, np.uint8), LABELS)] == ["stone"]


def test_a_tiny_image_is_enlarged_until_names_fit() -> None:
    picture = drawing.overlay(np.zeros((7, 5, 3), np.uint8), np.zeros((7, 5), np.uint8), LABELS)
    assert min(picture.size) >= drawing.SMALLEST_SIDE


def test_long_names_and_many_classes_stay_inside_the_picture() -> None:
    labels = LabelSet(tuple(f"a very long name for the class number {i}, longer than any image" for i in range(150)))
    mask = np.arange(240 * 300, dtype=np.int64).reshape(240, 300) % 150
    picture = drawing.overlay(np.zeros((240, 300, 3), np.uint8), mask, labels)
    assert picture.width == 300
    assert drawing._fitted("abcdef", drawing._font(13), 20).endswith("…")


def test_image_and_mask_of_unlike_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 4\) and \(5, 4\)"):
        drawing.overlay(np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4), np.uint8), LABELS)


def test_mistakes_are_red_and_hits_are_grey() -> None:
    target = np.array([[0, 1, 255]], np.uint8)
    picture = np.asarray(drawing.mistakes(Image.new("RGB", (3, 1)), target, np.array([[0, 0, 0]], np.uint8), 255))
    hit, wrong, ignored = picture[0].astype(int)
    assert np.ptp(hit) == 0
    assert wrong[0] > wrong[1] + 100
    assert tuple(ignored) in GREY


def test_a_heat_map_rises_from_dark_to_bright() -> None:
    picture = np.asarray(drawing.heat_map(np.array([[0.0, 0.5, 1.0]]), bar=False)).astype(int).sum(-1)[0]
    assert picture[0] < picture[1] < picture[2]


def test_a_heat_map_draws_constants_and_gaps() -> None:
    picture = drawing.heat_map(np.array([[np.nan, 3.0], [3.0, 3.0]]))
    assert tuple(np.asarray(picture)[0, 0]) in GREY
    assert drawing.heat_map(np.full((3, 3), np.nan)).size


def test_panels_share_one_height_and_lie_in_rows() -> None:
    panels = [("first", Image.new("RGB", (300, 240))), ("half as large", Image.new("RGB", (150, 120)))]
    row = drawing.side_by_side(panels)
    column = drawing.side_by_side(panels, columns=1)
    assert row.width > 600
    assert row.height > 240
    assert column.height > 480
    assert column.width < row.width
