import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scenes import save

import fullyconv.doctor
from fullyconv.datasets import Dataset, Pair, open_dataset
from fullyconv.doctor import Examination, Finding, check, examine, mending
from fullyconv.doctor.mending import nearest_raw, write_cleaned
from fullyconv.doctor.observation import between_share
from fullyconv.errors import FAULTS, FullyconvError
from fullyconv.images import read_image, read_mask, read_raw_mask
from fullyconv.labels import LabelSet

Array = np.ndarray[Any, Any]
BINARY = LabelSet(("background", "crack"))
PATCH = np.array([[0, 1, 1], [0, 0, 1]], np.uint8)
HELD_OUT = ("train", "val", "holdout", "trainaug")


def photo(seed: int, height: int = 2, width: int = 3) -> Array:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


def sound(root: Path, *masks: Array, labels: LabelSet = BINARY, val: int = 0) -> Dataset:
    """A data set of one pair per mask, the last `val` of them for validation."""
    pairs = tuple(
        Pair(
            f"{number:03}",
            save(root / "images" / f"{number:03}.png", photo(number, *mask.shape[:2])),
            save(root / "masks" / f"{number:03}.png", mask),
        )
        for number, mask in enumerate(masks)
    )
    splits = {"train": pairs[: len(pairs) - val]} | ({"val": pairs[len(pairs) - val :]} if val else {})
    return Dataset("folder", root, labels, splits)


def codes(findings: tuple[Finding, ...]) -> list[str]:
    return [finding.code for finding in findings]


def only(findings: tuple[Finding, ...], code: str) -> Finding:
    (found,) = [finding for finding in findings if finding.code == code]
    return found


def test_sound_set_has_no_findings(tmp_path: Path) -> None:
    found = examine(sound(tmp_path, *[PATCH] * 25, val=5))
    assert (found.errors, found.warnings) == ((), ())
    assert found.splits == {"train": 20, "val": 5}
    assert found.classes == (
        {"name": "background", "pixels": 75, "images": 25},
        {"name": "crack", "pixels": 75, "images": 25},
    )
    found.refuse_if_broken()


def test_limit_bounds_the_masks_examined(tmp_path: Path) -> None:
    dataset = sound(tmp_path, *[PATCH] * 10)
    assert examine(dataset, limit=4).examined == 4
    assert examine(dataset, limit=None).examined == 10


def test_every_file_concerned_is_listed(tmp_path: Path) -> None:
    dataset = sound(tmp_path, *[PATCH + 6] * 7, PATCH)
    found = only(examine(dataset).errors, "SEG-D010")
    assert found.files == tuple(f"masks/{number:03}.png" for number in range(7))
    assert "files: masks/000.png," in str(found)
    assert "... (all 7 with --json)" in " ".join(str(found).split())
    assert str(examine(dataset, limit=4)).endswith("; 4 of 8 masks decoded.")


def test_check_looks_at_splits_of_any_name(tmp_path: Path) -> None:
    for split in ("train", "val", "holdout"):
        save(tmp_path / "x" / f"{split}.png", photo(0))
        save(tmp_path / "y" / f"{split}.png", PATCH)
    rows = "\n".join(f"x/{split}.png,y/{split}.png,{split}" for split in ("train", "val", "holdout"))
    (tmp_path / "manifest.csv").write_text("image,mask,split\n" + rows)
    found = check(str(tmp_path / "manifest.csv"))
    assert (found.examined, found.masks) == (3, 3)


def test_progress_is_shown_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = sound(tmp_path, PATCH, PATCH)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert examine(dataset).examined == 2


def test_splits_that_do_not_exist_are_passed_over(tmp_path: Path) -> None:
    assert examine(sound(tmp_path, PATCH), splits=("train", "val")).examined == 1


def test_listed_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    dataset = sound(tmp_path, PATCH, PATCH)
    (tmp_path / "masks" / "001.png").unlink()
    found = only(examine(dataset).errors, "SEG-D021")
    assert (found.where, found.count) == ("masks/001.png", 1)


def test_unpaired_files_are_a_warning(tmp_path: Path) -> None:
    sound(tmp_path, PATCH, PATCH)
    save(tmp_path / "images" / "widow.png", photo(99))
    found = only(examine(open_dataset(tmp_path)).warnings, "SEG-D021")
    assert (found.where, found.count) == ("images/widow.png", 1)


def test_undecodable_files_are_errors(tmp_path: Path) -> None:
    dataset = sound(tmp_path, PATCH, PATCH, PATCH)
    (tmp_path / "images" / "000.png").write_bytes(b"rubbish")
    big = save(tmp_path / "images" / "001.png", photo(1, 64, 64))
    big.write_bytes(big.read_bytes()[:2000])
    save(tmp_path / "masks" / "001.png", np.zeros((64, 64), np.uint8))
    found = only(examine(dataset).errors, "SEG-D009")
    assert (found.where, found.count) == ("images/000.png", 2)


def test_unlike_sizes_are_an_error(tmp_path: Path) -> None:
    dataset = sound(tmp_path, PATCH, PATCH)
    save(tmp_path / "masks" / "001.png", np.zeros((4, 5), np.uint8))
    found = only(examine(dataset).errors, "SEG-D008")
    assert "masks/001.png is 5x4 pixels, its image 3x2; 1 of 2 pairs" in found.message
    with pytest.raises(FullyconvError, match=r"SEG-D008 .*masks/001\.png is 5x4"):
        examine(dataset).refuse_if_broken()


def scenes(root: Path, *, depth: tuple[int, int] = (2, 3)) -> Dataset:
    """A data set of six scenes with depth, the first of which has another size."""
    dataset = sound(root, *[PATCH] * 6, val=2)
    sizes = {"000": depth}
    splits = {
        split: tuple(
            replace(
                pair,
                more=(save(root / "depth" / f"{pair.name}.png", np.ones(sizes.get(pair.name, (2, 3)), np.uint16)),),
            )
            for pair in pairs
        )
        for split, pairs in dataset.splits.items()
    }
    return replace(dataset, splits=splits)


def test_further_pictures_are_looked_at(tmp_path: Path) -> None:
    dataset = scenes(tmp_path)
    assert examine(dataset).errors == ()
    dataset.pairs("train")[2].more[0].unlink()
    assert only(examine(dataset).errors, "SEG-D021").where == "depth/002.png"
    dataset.pairs("train")[2].more[0].write_bytes(b"no picture")
    assert only(examine(dataset).errors, "SEG-D009").where == "depth/002.png"


def test_further_pictures_of_another_size_are_an_error_and_their_scenes_left_out(tmp_path: Path) -> None:
    dataset = scenes(tmp_path / "data", depth=(4, 6))
    found = only(examine(dataset).errors, "SEG-D030")
    assert (found.where, found.count) == ("depth/000.png", 1)
    assert "6x4 pixels, its image 3x2; 1 of 6 scenes are unlike" in found.message
    write_cleaned(dataset, tmp_path / "copy")
    copy = open_dataset(tmp_path / "copy")
    assert {split: len(pairs) for split, pairs in copy.splits.items()} == {"train": 3, "val": 2}
    assert examine(copy).errors == ()
    assert copy.pairs("val")[0].more == (tmp_path / "copy" / "more1" / "val" / "004.png",)


def tagged(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_mask_that_lost_its_turn_is_an_error_and_mended(tmp_path: Path) -> None:
    dataset = sound(tmp_path / "data", *[PATCH] * 3)
    stored = np.where(PATCH[..., None] > 0, 200, 10).astype(np.uint8).repeat(3, axis=2)
    save(tmp_path / "data" / "images" / "001.png", stored, exif=tagged(6))
    assert "Orientation 6" in only(examine(dataset).errors, "SEG-D008").message
    write_cleaned(dataset, tmp_path / "clean")
    clean = open_dataset(tmp_path / "clean")
    (pair,) = [pair for pairs in clean.splits.values() for pair in pairs if pair.image.stem == "001"]
    assert pair.mask is not None
    assert examine(clean).errors == ()
    assert np.array_equal(read_image(pair.image)[0].numpy() > 100, read_mask(pair.mask, clean.labels).numpy() == 1)


def test_turn_that_sizes_cannot_tell_is_a_warning(tmp_path: Path) -> None:
    dataset = sound(tmp_path, PATCH, PATCH)
    save(tmp_path / "images" / "001.png", photo(1), exif=tagged(3))
    assert "orientation 3, its mask 1" in only(examine(dataset).warnings, "SEG-D017").message


def test_mask_drawn_on_the_upright_image_is_fine(tmp_path: Path) -> None:
    dataset = sound(tmp_path, PATCH, PATCH)
    save(tmp_path / "images" / "001.png", photo(1, 3, 2), exif=tagged(6))
    found = examine(dataset)
    assert not {"SEG-D008", "SEG-D017"} & set(codes(found.errors + found.warnings))


def test_illegal_values_are_an_error_and_ignored_in_the_copy(tmp_path: Path) -> None:
    dataset = sound(tmp_path / "data", PATCH, PATCH + 6 * PATCH, PATCH, PATCH)
    found = only(examine(dataset).errors, "SEG-D010")
    assert "masks/001.png holds values that no class stands for, as do 1 of 4 masks: 7 (3 pixels)" in found.message
    write_cleaned(dataset, tmp_path / "clean")
    assert sorted(np.unique(read_raw_mask(tmp_path / "clean/masks/train/001.png")).tolist()) == [0, 255]
    assert open_dataset(tmp_path / "clean").labels == BINARY


def test_colours_for_classes_coded_by_number_are_an_error_and_left_out(tmp_path: Path) -> None:
    dataset = sound(tmp_path / "data", PATCH, photo(5), PATCH)
    assert "holds colours" in only(examine(dataset).errors, "SEG-D010").message
    notes = write_cleaned(dataset, tmp_path / "clean")
    assert notes[1] == "1 pair beyond mending, left out: 001"


def test_foreground_read_as_ignored_is_an_error_and_mended(tmp_path: Path) -> None:
    dataset = sound(tmp_path / "data", *[PATCH * 255] * 4)
    found = only(examine(dataset).errors, "SEG-D012")
    assert (
        'holds 255 in 50% of its pixels, as do 4 of 4 masks, and no mask holds 1. 255 is ignored, so class 1 ("crack")'
        in (found.message)
    )
    write_cleaned(dataset, tmp_path / "clean")
    clean = open_dataset(tmp_path / "clean")
    assert clean.labels == BINARY
    assert np.array_equal(read_raw_mask(tmp_path / "clean/masks/train/000.png"), PATCH)


def test_smoothed_colours_go_to_the_nearest_class(tmp_path: Path) -> None:
    labels = LabelSet(("sea", "roof"), table=(((0, 0, 255), 0), ((255, 0, 0), 1)))
    mask = np.zeros((20, 20, 3), np.uint8)
    mask[:10], mask[10:] = (0, 0, 255), (255, 0, 0)
    smooth = mask.copy()
    smooth[9, :, 0], smooth[9, :, 2] = np.arange(5, 105, 5), 255 - np.arange(5, 105, 5)
    dataset = sound(tmp_path / "data", mask, smooth, mask, labels=labels)
    assert only(examine(dataset).errors, "SEG-D013").count == 1
    write_cleaned(dataset, tmp_path / "clean")
    cleaned = read_raw_mask(tmp_path / "clean/masks/train/001.png")
    assert np.array_equal(cleaned, (np.arange(20) >= 10)[:, None].repeat(20, axis=1))


def test_nearest_raw_measures_distance() -> None:
    assert nearest_raw(130, {0: 0, 127: 1, 255: 2}) == 127
    assert nearest_raw((200, 10, 0), {(0, 0, 0): 0, (255, 0, 0): 1}) == (255, 0, 0)


def test_noise_of_binary_masks_is_a_warning_and_mended(tmp_path: Path) -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 10:30] = 255
    mask[9, 10:20] = np.linspace(5, 240, 10)
    sound(tmp_path / "data", mask, mask, mask)
    found = examine(open_dataset(tmp_path / "data"))
    assert found.errors == ()
    assert "SEG-D013" in codes(found.warnings)
    cleaned = check(str(tmp_path / "data"), fix=tmp_path / "clean")
    assert "SEG-D013" not in codes(cleaned.warnings)
    assert "is a cleaned copy of" in cleaned.notes[-1]
    raw = np.concatenate([read_raw_mask(path) for path in (tmp_path / "clean/masks").rglob("*.png")])
    assert np.unique(raw).tolist() == [0, 1]


def resized(mask: Array, method: Image.Resampling) -> Array:
    return np.array(Image.fromarray(mask).resize((150, 150), method))


def test_bilinear_resizing_is_told_from_nearest() -> None:
    classes = np.random.default_rng(0).integers(0, 8, (10, 10)).astype(np.uint8) * 3
    mask = np.kron(classes, np.ones((10, 10), np.uint8))
    assert between_share(mask) == between_share(resized(mask, Image.Resampling.NEAREST)) == 0
    assert between_share(resized(mask, Image.Resampling.BILINEAR)) > 0.3


def test_resampled_masks_are_a_warning(tmp_path: Path) -> None:
    classes = np.random.default_rng(0).integers(0, 8, (10, 10)).astype(np.uint8) * 3
    mask = resized(np.kron(classes, np.ones((10, 10), np.uint8)), Image.Resampling.BILINEAR)
    labels = LabelSet(tuple(f"class {index}" for index in range(22)))
    found = only(examine(sound(tmp_path, mask, labels=labels)).warnings, "SEG-D013")
    assert "looks resampled" in found.message


def test_wrong_classes_file_is_a_warning(tmp_path: Path) -> None:
    sound(tmp_path, np.full((2, 3, 3), (255, 0, 0), np.uint8))
    (tmp_path / "classes.json").write_text('{"roof": "#50E3C2"}')
    assert "SEG-D014" in codes(examine(open_dataset(tmp_path)).warnings)


def test_empty_classes_are_a_warning(tmp_path: Path) -> None:
    found = only(examine(sound(tmp_path, PATCH, labels=LabelSet(("a", "b", "moon")))).warnings, "SEG-D015")
    assert found.message == "1 of 3 classes occur in none of the masks: moon"


def test_masks_of_nothing_but_ignored_are_a_warning(tmp_path: Path) -> None:
    found = only(examine(sound(tmp_path, PATCH, PATCH * 0 + 255)).warnings, "SEG-D016")
    assert (found.where, found.count) == ("masks/001.png", 1)


def test_image_in_two_splits_is_a_warning(tmp_path: Path) -> None:
    dataset = sound(tmp_path, *[PATCH] * 4, val=2)
    (tmp_path / "images" / "003.png").write_bytes((tmp_path / "images" / "000.png").read_bytes())
    found = only(examine(dataset).warnings, "SEG-D018")
    assert "images/003.png (val) is the same picture as images/000.png (train)" in found.message


def test_image_in_train_and_in_val_is_an_error(tmp_path: Path) -> None:
    sound(tmp_path, *[PATCH] * 4)
    examination = check(f"folder:{tmp_path}?val=train")
    assert re.search(r"is listed in train and in val, as are (\d) of the \1 images", examination.errors[0].message)
    assert "SEG-D018" not in codes(examination.warnings)
    with pytest.raises(FullyconvError, match=r"SEG-T020.*LAYOUT:PATH\?train=NAME&val=NAME"):
        examination.refuse_if_broken()


def test_images_of_equal_length_and_beginning_are_read_whole(tmp_path: Path) -> None:
    dataset = sound(tmp_path, PATCH, PATCH, val=1)
    start = (tmp_path / "images" / "000.png").read_bytes() + bytes(70000)
    (tmp_path / "images" / "000.png").write_bytes(start + b"a")
    (tmp_path / "images" / "001.png").write_bytes(start + b"b")
    assert "SEG-D018" not in codes(examine(dataset).warnings)


def test_grey_among_colour_is_a_warning(tmp_path: Path) -> None:
    dataset = sound(tmp_path, *[PATCH] * 3)
    save(tmp_path / "images" / "001.png", photo(1)[..., 0])
    found = only(examine(dataset).warnings, "SEG-D019")
    assert (found.where, found.count) == ("images/001.png", 1)


def test_tiny_sets_are_a_warning(tmp_path: Path) -> None:
    found = only(examine(sound(tmp_path, PATCH, PATCH, val=1)).warnings, "SEG-D020")
    assert "train has only 1 and val has only 1" in found.message


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    dataset = sound(tmp_path / "data", PATCH)
    save(tmp_path / "clean" / "mine.png", PATCH)
    with pytest.raises(FullyconvError, match="SEG-D023"):
        write_cleaned(dataset, tmp_path / "clean")
    assert [path.name for path in (tmp_path / "clean").iterdir()] == ["mine.png"]


def test_copy_of_a_manifest_leaves_originals_and_neighbours_alone(tmp_path: Path) -> None:
    for number, folder in enumerate(("one", "two")):
        save(tmp_path / "data" / folder / "a.png", photo(number))
        save(tmp_path / "data" / folder / "m.png", PATCH)
    before = {path: path.read_bytes() for path in (tmp_path / "data").rglob("*.png")}
    list_file = tmp_path / "data" / "lists" / "list.csv"
    list_file.parent.mkdir()
    rows = f"{tmp_path}/data/one/a.png,{tmp_path}/data/one/m.png\n../two/a.png,../two/m.png\n"
    list_file.write_text("image,mask\n" + rows)
    check(str(list_file), fix=tmp_path / "clean")
    assert {path: path.read_bytes() for path in before} == before
    assert {path.name for path in tmp_path.iterdir()} == {"data", "clean"}
    copied = {read_image(path).sum().item() for path in (tmp_path / "clean" / "images").rglob("*.png")}
    assert copied == {int(photo(number).sum()) for number in (0, 1)}


def test_copy_never_writes_over_a_file(tmp_path: Path) -> None:
    source, target = save(tmp_path / "a.png", photo(0)), save(tmp_path / "b.png", photo(1))
    before = target.read_bytes()
    with pytest.raises(FullyconvError, match=r"SEG-D023 .*another image would both be written to b\.png"):
        mending._link(source, target)
    assert target.read_bytes() == before


def test_failed_copy_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = sound(tmp_path / "data", PATCH)
    monkeypatch.setattr("fullyconv.doctor.mending.write_mask", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_cleaned(dataset, tmp_path / "clean")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_killed_copy_is_in_nobodys_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, drafts = sound(tmp_path / "data", PATCH), list[Path]()

    def stop(file: Path, *arguments: object) -> None:
        drafts.append(tmp_path / file.relative_to(tmp_path).parts[0])
        raise KeyboardInterrupt

    monkeypatch.setattr("fullyconv.doctor.mending.write_mask", stop)
    with pytest.raises(KeyboardInterrupt):
        write_cleaned(dataset, tmp_path / "clean")
    monkeypatch.undo()
    save(drafts[0] / "images" / "train" / "000.png", PATCH)
    write_cleaned(dataset, tmp_path / "clean")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clean", "data"]


@pytest.mark.parametrize("absolute", [False, True])
def test_copy_in_the_place_that_one_is_in_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absolute: bool
) -> None:
    dataset, here = sound(tmp_path / "data", PATCH), tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    with pytest.raises(FullyconvError, match=r"SEG-D023 .*is the folder that you are in"):
        write_cleaned(dataset, here if absolute else Path())


def test_copy_keeps_splits_and_repeats_no_pair(tmp_path: Path) -> None:
    dataset = sound(tmp_path / "data", *[PATCH] * 4, val=1)
    every = tuple(pair for pairs in dataset.splits.values() for pair in pairs)
    write_cleaned(replace(dataset, splits={**dataset.splits, "trainval": every}), tmp_path / "clean")
    copied = open_dataset(tmp_path / "clean")
    assert {split: [pair.name for pair in pairs] for split, pairs in copied.splits.items()} == {
        "train": ["images/train/000", "images/train/001", "images/train/002"],
        "val": ["images/val/003"],
    }


def test_copy_keeps_what_is_held_out_and_folders_of_any_name(tmp_path: Path) -> None:
    for number in range(4):
        save(tmp_path / "data" / "a" / "images" / f"{number}.png", photo(number))
        save(tmp_path / "data" / "a" / "masks" / f"{number}.png", PATCH)
    rows = [f"a/images/{number}.png,a/masks/{number}.png,{split}" for number, split in enumerate(HELD_OUT)]
    (tmp_path / "data" / "list.csv").write_text("\n".join(["image,mask,split", *rows]))
    found = check(str(tmp_path / "data" / "list.csv"), fix=tmp_path / "clean")
    assert (found.errors, found.splits) == ((), dict.fromkeys(HELD_OUT, 1))
    copied = open_dataset(tmp_path / "clean")
    for number, split in enumerate(HELD_OUT):
        (pair,) = copied.pairs(split)
        assert pair.mask is not None
        assert np.array_equal(read_image(pair.image).permute(1, 2, 0).numpy(), photo(number))
        assert np.array_equal(read_mask(pair.mask, copied.labels).numpy(), PATCH)


def test_examination_in_json_has_the_promised_keys(tmp_path: Path) -> None:
    found = json.loads(json.dumps(examine(sound(tmp_path, PATCH * 9)).to_json()))
    assert {"errors", "warnings", "splits", "classes"} <= found.keys()
    assert found["errors"][0].keys() == {"code", "where", "count", "message", "fix", "files"}
    assert found["classes"][0].keys() == {"name", "pixels", "images"}


def test_examination_reads_well() -> None:
    finding = Finding("SEG-D016", "a.png", 2, "a.png holds nothing but ignored pixels", "label the images")
    classes = ({"name": "road", "pixels": 9990, "images": 3}, {"name": "car", "pixels": 1, "images": 1})
    text = str(Examination("folder at data", {"train": 3}, classes, 3, (), (finding,), ("0 is background",)))
    assert text.splitlines() == [
        "folder at data: 2 classes; train 3",
        "",
        "  class  pixels   masks (of 3)",
        "  road   100.0%       3",
        "  car     <0.1%       1",
        "",
        "note  0 is background",
        "",
        "warning SEG-D016  a.png holds nothing but ignored pixels",
        "          fix: label the images",
        "",
        "No errors, 1 warning.",
    ]


def test_several_errors_are_counted(tmp_path: Path) -> None:
    dataset = sound(tmp_path, PATCH * 9, PATCH)
    save(tmp_path / "masks" / "001.png", np.zeros((4, 5), np.uint8))
    with pytest.raises(FullyconvError, match=r"SEG-D008 .*\(1 more error: see fullyconv check\)"):
        examine(dataset).refuse_if_broken()


def test_every_code_of_the_doctor_is_in_the_catalogue() -> None:
    source = "".join(path.read_text() for path in Path(fullyconv.doctor.__file__).parent.glob("*.py"))
    assert {source[at : at + 8] for at in range(len(source)) if source.startswith("SEG-D", at)} <= set(FAULTS)


@pytest.mark.parametrize("name", ["camvid", "voc2012_subset", "dsb2018_nuclei", "isbi2012_em", "labelmefacade"])
def test_real_set_may_be_trained_on(data_root: Path, name: str) -> None:
    if not (data_root / name).is_dir():
        pytest.skip(f"{name} is not among the data in {data_root}")
    found = examine(open_dataset(data_root / name), limit=20)
    assert found.errors == ()


def test_real_wrong_classes_and_smoothing_are_told(data_root: Path) -> None:
    for name, code in (("dubai_mbrsc", "SEG-D014"), ("magnetic_tile", "SEG-D013")):
        if not (data_root / name).is_dir():
            pytest.skip(f"{name} is not among the data in {data_root}")
        assert code in codes(examine(open_dataset(data_root / name), limit=5).warnings)


def test_real_mixed_palette_and_colour_set_is_cleaned(data_root: Path, tmp_path: Path) -> None:
    if not (data_root / "ycb_video_sample").is_dir():
        pytest.skip(f"ycb_video_sample is not among the data in {data_root}")
    found = check(str(data_root / "ycb_video_sample"), fix=tmp_path / "clean")
    assert found.errors == ()
    assert sum(found.splits.values()) == 8
    assert found.classes[1]["name"] == "002_master_chef_can"
