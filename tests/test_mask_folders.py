"""Folders of masks from any tool: matched by name, read by what their numbers or colours mean."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullyconv.errors import FullyconvError
from fullyconv.labels import LabelSet
from fullyconv.mask_folders import holds_indices, matched, read_prediction

CITY = LabelSet(("road", "sky", "car"), ((9, 9, 9), (0, 0, 99), (0, 99, 0)), ((7, 0), (23, 1), (26, 2), (0, 255)))
PAINTED = LabelSet(("grass", "sea"), ((0, 200, 0), (0, 0, 250)), (((0, 200, 0), 0), ((0, 0, 250), 1)))


def save(folder: Path, name: str, values: list[list[int]] | np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, np.uint8)).save(folder / name)
    return folder / name


def test_masks_are_matched_by_name_below_sub_folders(tmp_path: Path) -> None:
    true = [save(tmp_path / "truth" / "a", "x.png", [[0]]), save(tmp_path / "truth" / "b", "y.png", [[0]])]
    predicted = [save(tmp_path / "pred", name, [[0]]) for name in ("x.bmp", "y.png")]
    save(tmp_path / "pred", "extra.png", [[0]])
    save(tmp_path / "pred", "x_overlay.png", [[0]])
    assert matched(tmp_path / "pred", tmp_path / "truth") == list(zip(predicted, true, strict=True))


def test_endings_that_all_names_share_may_differ(tmp_path: Path) -> None:
    true = [save(tmp_path / "truth", f"{name}_gtFine_labelIds.png", [[0]]) for name in ("ulm_01", "ulm_02")]
    predicted = [save(tmp_path / "pred", f"{name}_leftImg8bit.png", [[0]]) for name in ("ulm_01", "ulm_02")]
    assert matched(tmp_path / "pred", tmp_path / "truth") == list(zip(predicted, true, strict=True))


def test_names_that_repeat_in_sub_folders_are_matched_by_path(tmp_path: Path) -> None:
    true, predicted = (
        [save(tmp_path / root / name, "00000.png", [[0]]) for name in ("bear", "camel")] for root in ("truth", "pred")
    )
    save(tmp_path / "truth" / ".cache", "00000.png", [[0]])
    save(tmp_path / "truth" / "bear", "._00000.png", [[0]])
    assert matched(tmp_path / "pred", tmp_path / "truth") == list(zip(predicted, true, strict=True))


def test_numbers_that_all_names_end_in_must_agree(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / "truth", f"{name}_2020.png", [[0]])
        save(tmp_path / "pred", f"{name}_2021.png", [[0]])
    with pytest.raises(FullyconvError, match=r"SEG-E006 .*2 of 2 masks"):
        matched(tmp_path / "pred", tmp_path / "truth")


def test_missing_predictions_are_named(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        save(tmp_path / "truth", f"{name}.png", [[0]])
    save(tmp_path / "pred", "b.png", [[0]])
    with pytest.raises(FullyconvError, match=r"SEG-E006 .*2 of 3 masks .* no prediction in .*: a, c; predict them"):
        matched(tmp_path / "pred", tmp_path / "truth")


def test_one_name_twice_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "truth", "a.png", [[0]])
    save(tmp_path / "truth", "a.bmp", [[0]])
    with pytest.raises(FullyconvError, match=r"SEG-E006 .*a\.bmp and .*a\.png have one name"):
        matched(tmp_path / "truth", tmp_path / "truth")


def test_a_folder_without_masks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FullyconvError, match=r"SEG-E006 .*does not exist"):
        matched(tmp_path / "none", tmp_path)


@pytest.mark.parametrize(("values", "expected"), [([[0, 1, 2]], True), ([[7, 23, 26]], False), ([[0, 2, 255]], True)])
def test_numbers_are_indices_if_every_one_can_be(tmp_path: Path, values: list[list[int]], expected: bool) -> None:
    truth = save(tmp_path, "t.png", [[7, 23, 26]])
    assert holds_indices([(save(tmp_path, "a.png", values), truth)], CITY) is expected


ADE = LabelSet(("wall", "sky", "tree"), table=((0, 255), (1, 0), (2, 1), (3, 2)))


def test_numbers_that_may_be_either_are_refused(tmp_path: Path) -> None:
    truth, predicted = save(tmp_path, "t.png", [[1, 2, 3]]), save(tmp_path, "p.png", [[1, 2, 2]])
    with pytest.raises(FullyconvError, match=r"SEG-E008 .*1 is sky as an index, wall as a value; say --coding index"):
        holds_indices([(predicted, truth)], ADE)


def test_values_that_would_be_ignored_where_the_truth_counts_are_indices(tmp_path: Path) -> None:
    truth, predicted = save(tmp_path, "t.png", [[1, 2, 3]]), save(tmp_path, "p.png", [[0, 1, 1]])
    assert holds_indices([(predicted, truth)], ADE)


def test_255_is_a_class_where_the_data_say_so(tmp_path: Path) -> None:
    binary = LabelSet(("background", "foreground"), table=((0, 0), (255, 1)))
    file = save(tmp_path, "a.png", [[0, 255]])
    assert not holds_indices([(file, file)], binary)
    assert read_prediction(file, binary, False).tolist() == [[0, 1]]


def test_predictions_may_hold_indices_raw_values_or_colours(tmp_path: Path) -> None:
    assert read_prediction(save(tmp_path, "i.png", [[0, 2]]), CITY, True).tolist() == [[0, 2]]
    assert read_prediction(save(tmp_path, "r.png", [[7, 26]]), CITY, False).tolist() == [[0, 2]]
    colors = np.array([[[9, 9, 9], [0, 99, 0]]])
    assert read_prediction(save(tmp_path, "c.png", colors), CITY, True).tolist() == [[0, 2]]


def test_a_set_coded_by_colour_takes_colours_and_indices(tmp_path: Path) -> None:
    colors = save(tmp_path, "c.png", np.array([[[0, 0, 250], [0, 200, 0]]]))
    indices = save(tmp_path, "i.png", [[1, 0]])
    assert holds_indices([(colors, colors), (indices, colors)], PAINTED)
    assert (
        read_prediction(colors, PAINTED, True).tolist() == read_prediction(indices, PAINTED, True).tolist() == [[1, 0]]
    )


def test_palettes_of_a_set_coded_by_colour_are_read_by_colour(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[1, 0]], np.uint8))
    image.putpalette([0, 0, 250, 0, 200, 0])  # sea first
    image.save(tmp_path / "p.png")
    assert read_prediction(tmp_path / "p.png", PAINTED, True).tolist() == [[0, 1]]
    image.putpalette([1, 1, 1, 0, 200, 0])
    image.save(tmp_path / "p.png")
    assert read_prediction(tmp_path / "p.png", PAINTED, True).tolist() == [[1, 0]]


def test_a_colour_without_a_class_is_refused_with_its_file(tmp_path: Path) -> None:
    file = save(tmp_path, "odd.png", np.array([[[1, 2, 3]]]))
    with pytest.raises(FullyconvError, match=r"SEG-D010 .*odd\.png"):
        read_prediction(file, PAINTED, True)
