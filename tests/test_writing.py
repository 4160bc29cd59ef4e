"""Files that appear whole or not at all."""

import errno
import json
from pathlib import Path

import pytest

from fullyconv.writing import refuse_unwritable, whole, write_json, write_text


def test_a_file_is_written_in_a_folder_that_is_made(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "page.html", "ü")
    assert (tmp_path / "new" / "page.html").read_bytes() == "ü".encode()
    write_json(tmp_path / "values.json", {"a": 1})
    assert json.loads((tmp_path / "values.json").read_text()) == {"a": 1}


def _circular(draft: Path) -> str:
    draft.write_text("[1, ")
    values: list[object] = []
    values.append(values)
    return json.dumps(values)


@pytest.mark.parametrize("durable", [False, True])
def test_what_fails_half_way_leaves_what_stood_there(durable: bool, tmp_path: Path) -> None:
    file = tmp_path / "values.json"
    write_json(file, 1)
    with pytest.raises(ValueError, match="Circular"), whole(file, durable=durable) as draft:
        draft.write_text(_circular(draft))
    assert file.read_text() == "1\n"
    assert list(tmp_path.iterdir()) == [file]


def test_a_place_is_tried_without_a_trace(tmp_path: Path) -> None:
    refuse_unwritable(tmp_path / "new" / "deep" / "values.json")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    for below in ("file/values.json", "file/deep/values.json"):
        with pytest.raises(OSError, match="file"):
            refuse_unwritable(tmp_path / below)
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"values\.json"), whole(tmp_path / "values.json"):
        raise OSError(errno.ENOSPC, "No space left on device")  # as a write tells it


def test_a_missing_file_of_another_name_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="weights"), whole(tmp_path / "values.json") as draft:
        draft.write_bytes((tmp_path / "weights").read_bytes())


def test_folders_are_replaced_and_what_was_killed_is_removed(tmp_path: Path) -> None:
    place = tmp_path / "map.zarr"
    for name in ("killed", "first", "second"):
        with whole(place) as draft:
            draft.mkdir()
            (draft / name).touch()
            if name == "killed":
                leftover = draft
        if name == "killed":
            place.rename(leftover)
    assert [file.name for file in place.iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [place]


def test_a_file_takes_no_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.json" / "inner").mkdir(parents=True)
    with pytest.raises(OSError, match=r"mine\.json"):
        write_json(tmp_path / "mine.json", 1)
    assert (tmp_path / "mine.json" / "inner").is_dir()
    assert len(list(tmp_path.iterdir())) == 1


def test_names_as_long_as_they_may_be_can_be_written(tmp_path: Path) -> None:
    write_text(tmp_path / f"{'字' * 83}.json", "1")
    assert len(list(tmp_path.iterdir())) == 1


def test_names_that_begin_alike_have_drafts_of_their_own(tmp_path: Path) -> None:
    first, second = (tmp_path / f"{'S2A_MSIL2A_20200101T101031_N0213_R022_T33UU'}{letter}.png" for letter in "PQ")
    with whole(first) as one, whole(second) as other:
        one.write_text("P")
        other.write_text("Q")
    assert (first.read_text(), second.read_text()) == ("P", "Q")


def test_a_file_leaves_its_neighbours_alone(tmp_path: Path) -> None:
    (tmp_path / ".notes.txt.old").write_text("mine")
    write_text(tmp_path / "notes.txt", "new")
    assert (tmp_path / ".notes.txt.old").read_text() == "mine"


def test_a_link_to_a_folder_is_replaced_again_and_again(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for _ in range(2):
        with whole(tmp_path / "link") as draft:
            draft.mkdir()
    assert (tmp_path / "real" / "a").read_text() == "kept"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["link", "real"]
