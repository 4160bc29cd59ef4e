import numpy as np
import pytest

from fullyconv.errors import FullyconvError
from fullyconv.labels import LabelSet, count_raw, voc_color

COLORED = LabelSet(("sky", "road"), table=(((0, 0, 255), 0), ((128, 64, 128), 1), ((0, 0, 0), 255)))


def test_voc_palette_begins_as_published() -> None:
    # The first entries of the VOC 2012 development kit's VOClabelcolormap, and the last.
    expected = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128)]
    assert [voc_color(index) for index in range(6)] == expected
    assert voc_color(20) == (0, 64, 128)
    assert voc_color(255) == (224, 224, 192)


def test_without_a_table_values_are_classes_and_255_is_ignored() -> None:
    labels = LabelSet(("a", "b"))
    assert labels.encode(np.array([[0, 1, 255]], np.uint8)).tolist() == [[0, 1, 255]]
    assert not labels.coded_by_color


def test_encode_looks_values_up() -> None:
    labels = LabelSet(("a", "b"), table=((7, 0), (300, 1), (9, 1), (0, 255)))
    mask = labels.encode(np.array([[0, 7], [300, 9]], np.uint16))
    assert mask.dtype == np.uint8
    assert mask.tolist() == [[255, 0], [1, 1]]


def test_encode_looks_colours_up() -> None:
    raw = np.array([[[0, 0, 0], [128, 64, 128]], [[0, 0, 255], [0, 0, 255]]], np.uint8)
    assert COLORED.coded_by_color
    assert COLORED.encode(raw).tolist() == [[255, 1], [0, 0]]


@pytest.mark.parametrize("shape", [(0, 0), (1, 1), (1, 7), (5, 1)])
def test_encode_keeps_any_shape(shape: tuple[int, int]) -> None:
    assert LabelSet(("a",)).encode(np.zeros(shape, np.uint8)).shape == shape


def test_decode_inverts_encode_on_random_masks() -> None:
    random = np.random.default_rng(0)
    for labels in (LabelSet(("a", "b", "c"), table=((3, 0), (1, 1), (200, 2), (77, 255))), COLORED):
        mask = random.choice([*range(len(labels)), 255], size=(13, 17)).astype(np.uint8)
        assert np.array_equal(labels.encode(labels.decode(mask)), mask)


def test_unknown_values_are_counted_and_told() -> None:
    raw = np.array([[0, 1, 9, 9], [9, 4, 0, 0]], np.uint8)
    with pytest.raises(
        FullyconvError, match=r"SEG-D010  holds values .*: 4 \(1 pixel\), 9 \(3 pixels\); known: 0, 1, 255"
    ):
        LabelSet(("a", "b")).encode(raw)


def test_unknown_colours_are_told_in_hexadecimal() -> None:
    raw = np.array([[[1, 2, 254]]], np.uint8)
    with pytest.raises(
        FullyconvError, match=r"holds colours .*: #0102FE \(1 pixel\); known: #0000FF, #804080, #000000"
    ):
        COLORED.encode(raw)


def test_more_than_five_unknown_values_are_summed_up() -> None:
    with pytest.raises(FullyconvError, match="and 3 more"):
        LabelSet(("a",)).encode(np.arange(9, dtype=np.uint8)[None])


def test_more_than_255_classes_move_the_ignore_value() -> None:
    labels = LabelSet(tuple(map(str, range(300))))
    assert labels.ignore_index == 65535
    mask = labels.encode(np.array([[255, 299, 65535]], np.uint16))
    assert (mask.dtype, mask.tolist()) == (np.uint16, [[255, 299, 65535]])


def test_count_raw_counts_values_and_colours() -> None:
    assert count_raw(np.array([[3, 3, 1], [1, 3, 3]], np.uint16)) == {1: 2, 3: 4}
    raw = np.array([[[255, 0, 1], [255, 0, 1], [0, 0, 0]]], np.uint8)
    assert count_raw(raw) == {(0, 0, 0): 1, (255, 0, 1): 2}


def test_count_raw_agrees_with_numpy_on_noise() -> None:
    raw = np.random.default_rng(0).integers(0, 6, (31, 29)).astype(np.uint8)
    values, counts = np.unique(raw, return_counts=True)
    assert count_raw(raw) == dict(zip(values.tolist(), counts.tolist(), strict=True))


def test_dictionary_round_trip() -> None:
    assert LabelSet.from_dict(COLORED.to_dict()) == COLORED


def test_palette_holds_768_bytes_with_vocs_tail() -> None:
    palette = LabelSet(("a", "b"), ((1, 2, 3), (4, 5, 6))).palette()
    assert len(palette) == 768
    assert palette[:9] == [1, 2, 3, 4, 5, 6, 0, 128, 0]


@pytest.mark.parametrize(
    ("names", "colors", "table", "message"),
    [
        ((), (), (), "at least one class"),
        (("a", "a"), (), (), "occur twice: a"),
        (tuple(map(str, range(65536))), (), (), "SEG-M006 .*65535 classes at most, got 65536"),
        (("a", "b"), ((0, 0, 0),), (), "one colour per class, got 1 for 2"),
        (("a",), (), ((0, 1),), "raw value 0 maps to class 1"),
        (("a", "b"), (), ((7, 0), (7, 1)), "raw value 7 stands for two classes, 0 and 1"),
    ],
)
def test_label_set_that_contradicts_itself_is_refused(
    names: tuple[str, ...], colors: tuple[tuple[int, int, int], ...], table: tuple[tuple[int, int], ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        LabelSet(names, colors, table)
