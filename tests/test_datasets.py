import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fullyconv.datasets import LAYOUTS, Dataset, open_dataset
from fullyconv.datasets.classes import Entry, read_classes
from fullyconv.datasets.dataset import Pair, distinct, name_in, read_list, split_by_name
from fullyconv.errors import FullyconvError
from fullyconv.images import read_image, read_mask
from fullyconv.labels import LabelSet

Array = np.ndarray[Any, Any]
PATCH = np.array([[0, 1], [1, 2]], np.uint8)


def save(path: Path, pixels: Array | None = None) -> None:
    """A picture of a few pixels; an image if none are given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((2, 2, 3), 100, np.uint8) if pixels is None else pixels).save(path)


def save_pairs(root: Path, image: str, mask: str, names: str = "abcde", pixels: Array = PATCH) -> None:
    for name in names:
        save(root / image.format(name))
        save(root / mask.format(name), pixels)


def names_of(dataset: Dataset, split: str) -> list[str]:
    return [pair.name for pair in dataset.pairs(split)]


def files(dataset: Dataset) -> dict[str, str]:
    """Which mask each image has, relative to the root."""
    return {
        pair.image.relative_to(dataset.root).as_posix(): pair.mask.relative_to(dataset.root).as_posix()
        for pairs in dataset.splits.values()
        for pair in pairs
        if pair.mask is not None
    }


# The door


def test_open_dataset_passes_a_dataset_through(tmp_path: Path) -> None:
    dataset = Dataset("folder", tmp_path, LabelSet(("a",)), {})
    assert open_dataset(dataset) is dataset


def test_missing_path_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "camvid").mkdir()
    with pytest.raises(FullyconvError, match=r"SEG-D001  there is no .*camvdi; did you mean .*camvid\?"):
        open_dataset(tmp_path / "camvdi")
    with pytest.raises(FullyconvError, match=r"SEG-D001 .*nearest folder that exists"):
        open_dataset(tmp_path / "zzzz" / "deeper")


def test_unknown_layout_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(FullyconvError, match=r"SEG-D004  there is no layout 'fodler'; .*did you mean folder:"):
        open_dataset(f"fodler:{tmp_path}")


def test_unrecognised_folder_says_what_is_there_and_what_would_work(tmp_path: Path) -> None:
    (tmp_path / "notes.md").touch()
    with pytest.raises(FullyconvError, match=r"SEG-D002 .*notes\.md.*What would work: .*images/ and masks/"):
        open_dataset(tmp_path)
    with pytest.raises(FullyconvError, match=r"SEG-D002 .*a file that ends in \.md"):
        open_dataset(tmp_path / "notes.md")


def test_path_with_a_colon_is_a_path(tmp_path: Path) -> None:
    save_pairs(tmp_path / "a:b", "images/{}.jpg", "masks/{}.png")
    assert open_dataset(tmp_path / "a:b").layout == "folder"
    with pytest.raises(FullyconvError, match="SEG-D001"):
        open_dataset("C:\\data")


def test_unknown_split_names_those_there_are(tmp_path: Path) -> None:
    save_pairs(tmp_path, "images/{}.jpg", "masks/{}.png")
    with pytest.raises(FullyconvError, match=r"SEG-D005 .*no split 'test'; it has train \(\d\), val \(\d\)"):
        open_dataset(tmp_path).pairs("test")


# The known layouts


def test_camvid_reads_lists_of_another_machine(tmp_path: Path) -> None:
    save_pairs(tmp_path, "train/{}.png", "trainannot/{}.png", "ab")
    save_pairs(tmp_path, "val/{}.png", "valannot/{}.png", "c")
    save(tmp_path / "test" / "d.png")
    (tmp_path / "train.txt").write_text("/SegNet/train/b.png /SegNet/trainannot/b.png\n/SegNet/train/a.png /x/a.png\n")
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "camvid"
    assert names_of(dataset, "train") == ["b", "a"]
    assert names_of(dataset, "val") == ["c"]
    assert dataset.pairs("test")[0].mask is None
    assert dataset.labels.encode(np.array([[0, 11]], np.uint8)).tolist() == [[0, 255]]


def test_listed_files_that_are_missing_stay_in_the_split(tmp_path: Path) -> None:
    save_pairs(tmp_path, "train/{}.png", "trainannot/{}.png", "a")
    (tmp_path / "train.txt").write_text("train/a.png trainannot/a.png\ntrain/gone.png trainannot/gone.png\n")
    (tmp_path / "val").mkdir()
    save(tmp_path / "val" / "b.png")
    assert not open_dataset(tmp_path).pairs("train")[1].image.exists()


@pytest.mark.parametrize("home", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_voc_is_found_from_any_level(tmp_path: Path, home: str) -> None:
    year = tmp_path / home
    save_pairs(year, "JPEGImages/{}.jpg", "SegmentationClass/{}.png", "abc")
    save(year / "JPEGImages" / "t.jpg")
    lists = year / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, names in {"val": "c", "train": "b\na", "seg11valid": "c", "test": "t"}.items():
        (lists / f"{split}.txt").write_text(names)
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "voc"
    assert list(dataset.splits) == ["train", "val", "test", "seg11valid"]
    assert names_of(dataset, "train") == ["b", "a"]
    assert dataset.pairs("test")[0].mask is None
    assert dataset.labels.names[15] == "person"


def test_labelme_export_keeps_its_own_classes(tmp_path: Path) -> None:
    save_pairs(tmp_path, "JPEGImages/{}.jpg", "SegmentationClass/{}.png")
    save_pairs(tmp_path, "SegmentationClassVisualization/{}.jpg", "SegmentationObject/{}.png")
    (tmp_path / "class_names.txt").write_text("_background_\ncat\ndog\n")
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, dataset.labels.names) == ("folder", ("_background_", "cat", "dog"))
    assert files(dataset) == {f"JPEGImages/{name}.jpg": f"SegmentationClass/{name}.png" for name in "abcde"}
    assert dataset.unpaired == ()


def test_cvat_export_keeps_its_own_classes_and_can_be_trained_on(tmp_path: Path) -> None:
    colors = np.array([[[0, 0, 0], [250, 50, 83]]], np.uint8)
    save_pairs(tmp_path, "JPEGImages/{}.jpg", "SegmentationClass/{}.png", pixels=colors)
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "default.txt").write_text("a\nb\nc\nd\ne\n")
    map_file = tmp_path / "labelmap.txt"
    map_file.write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\nwall:250,50,83::\n")
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, dataset.labels.names) == ("folder", ("background", "wall"))
    assert len(dataset.pairs("train")) + len(dataset.pairs("val")) == 5
    map_file.unlink()
    assert list(open_dataset(tmp_path).splits) == ["train", "val"]


def test_own_classes_beside_camvid_folders_are_kept(tmp_path: Path) -> None:
    save_pairs(tmp_path, "train/{}.png", "trainannot/{}.png", "ab")
    (tmp_path / "class_names.txt").write_text("ground\nroad\ncar\n")
    assert open_dataset(tmp_path).labels.names == ("ground", "road", "car")


def test_masks_of_ones_own_in_cls_keep_their_own_classes(tmp_path: Path) -> None:
    save_pairs(tmp_path, "img/{}.jpg", "cls/{}.png", "abc")
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, len(dataset.labels)) == ("folder", 3)
    assert files(dataset)["img/a.jpg"] == "cls/a.png"


def test_sbd_reads_mat_files(tmp_path: Path) -> None:
    from scipy.io import savemat

    home = tmp_path / "dataset"
    save(home / "img" / "a.jpg")
    (home / "cls").mkdir()
    savemat(home / "cls" / "a.mat", {"GTcls": {"Segmentation": PATCH}})
    (home / "train.txt").write_text("a\n")
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "sbd"
    (pair,) = dataset.pairs("train")
    assert pair.mask is not None
    assert read_mask(pair.mask, dataset.labels).tolist() == PATCH.tolist()


@pytest.mark.parametrize(
    ("end", "raw", "expected"), [("labelIds", [7, 0, 33], [0, 255, 18]), ("labelTrainIds", [0, 255, 18], [0, 255, 18])]
)
def test_cityscapes_maps_ids_to_the_19_classes(tmp_path: Path, end: str, raw: list[int], expected: list[int]) -> None:
    save(tmp_path / "leftImg8bit" / "val" / "ulm" / "ulm_1_2_leftImg8bit.png")
    save(tmp_path / "gtFine" / "val" / "ulm" / f"ulm_1_2_gtFine_{end}.png", np.array([raw], np.uint8))
    dataset = open_dataset(tmp_path)
    (pair,) = dataset.pairs("val")
    assert (dataset.layout, pair.name, len(dataset.labels)) == ("cityscapes", "ulm_1_2", 19)
    assert pair.mask is not None
    assert read_mask(pair.mask, dataset.labels).tolist() == [expected]


def test_cityscapes_without_masks_says_what_it_looked_for(tmp_path: Path) -> None:
    save(tmp_path / "leftImg8bit" / "val" / "ulm" / "ulm_1_2_leftImg8bit.png")
    (tmp_path / "gtFine").mkdir()
    with pytest.raises(FullyconvError, match=r"SEG-D003  1 images, but none has .*ulm_1_2_gtFine_labelIds\.png"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("folders", [("training/", "validation/"), ("", "")])
def test_ade20k_ignores_0(tmp_path: Path, folders: tuple[str, str]) -> None:
    save_pairs(tmp_path, f"images/{folders[0]}ADE_train_{{}}.jpg", f"annotations/{folders[0]}ADE_train_{{}}.png", "12")
    save_pairs(tmp_path, f"images/{folders[1]}ADE_val_{{}}.jpg", f"annotations/{folders[1]}ADE_val_{{}}.png", "3")
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, len(dataset.labels)) == ("ade20k", 150)
    assert {split: len(pairs) for split, pairs in dataset.splits.items()} == {"train": 2, "val": 1}
    assert dataset.labels.encode(np.array([[0, 1, 150]], np.uint8)).tolist() == [[255, 0, 149]]


@pytest.mark.parametrize("layout", ["camvid", "voc", "sbd", "cityscapes", "ade20k", "folder"])
def test_forced_layout_that_does_not_fit_is_refused(tmp_path: Path, layout: str) -> None:
    with pytest.raises(FullyconvError, match="SEG-D003"):
        open_dataset(f"{layout}:{tmp_path}")


# Manifests


def test_manifest_csv(tmp_path: Path) -> None:
    save_pairs(tmp_path, "x/{}.jpg", "y/{}_m.png", "abc")
    rows = "\n".join(
        f"x/{name}.jpg,y/{name}_m.png,{split}" for name, split in zip("abc", ("train", "train", "valid"), strict=True)
    )
    (tmp_path / "list.csv").write_text("Image,Mask,Split\n" + rows)
    (tmp_path / "classes.txt").write_text("ground\nroad\ncar\n")
    dataset = open_dataset(tmp_path / "list.csv")
    assert (dataset.layout, names_of(dataset, "train"), names_of(dataset, "val")) == (
        "manifest",
        ["x/a", "x/b"],
        ["x/c"],
    )
    assert dataset.labels.names == ("ground", "road", "car")


def test_a_class_of_two_names_in_a_list_is_told(tmp_path: Path) -> None:
    save_pairs(tmp_path, "images/{}.jpg", "masks/{}.png", "abc")
    (tmp_path / "classes.txt").write_text("road\nsky\nroad\n")
    dataset = open_dataset(tmp_path)
    assert dataset.labels.names == ("road", "sky")
    assert "named more than once, so one class: road" in dataset.notes


def test_manifest_lists_further_pictures(tmp_path: Path) -> None:
    save_pairs(tmp_path, "{}.jpg", "{}.png", "ab")
    (tmp_path / "csv.csv").write_text("image,mask,split,more\na.jpg,a.png,train,d/a.png; h/a.png\n")
    (tmp_path / "json.jsonl").write_text('{"image": "a.jpg", "mask": "a.png", "more": ["d/a.png", "h/a.png"]}')
    for name in ("csv.csv", "json.jsonl"):
        assert open_dataset(tmp_path / name).pairs("train")[0].more == (tmp_path / "d/a.png", tmp_path / "h/a.png")
    (tmp_path / "uneven.csv").write_text("image,mask,more\na.jpg,a.png,d/a.png\nb.jpg,b.png,\n")
    with pytest.raises(FullyconvError, match=r"SEG-D030 .*lists 1 further pictures for a, and 0 for b"):
        open_dataset(tmp_path / "uneven.csv")


def test_a_split_named_as_val_takes_nothing_from_train(tmp_path: Path) -> None:
    save_pairs(tmp_path, "i/{}.png", "m/{}.png", "abcdefgh")
    rows = [f"i/{name}.png,m/{name}.png,{'holdout' if name == 'h' else 'train'}" for name in "abcdefgh"]
    (tmp_path / "list.csv").write_text("\n".join(["image,mask,split", *rows]))
    dataset = open_dataset(f"manifest:{tmp_path / 'list.csv'}?val=holdout")
    assert (len(dataset.pairs("train")), names_of(dataset, "val")) == (7, ["i/h"])
    assert len(open_dataset(tmp_path / "list.csv").pairs("train")) < 7


def test_manifest_jsonl_without_splits_is_split(tmp_path: Path) -> None:
    save_pairs(tmp_path, "{}.jpg", "{}_m.png", "abc")
    lines = (json.dumps({"image": f"{name}.jpg", "mask": f"{name}_m.png"}) for name in "abc")
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines))
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "manifest"
    assert sorted(names_of(dataset, "train") + names_of(dataset, "val")) == ["a", "b", "c"]
    assert "no val split" in dataset.notes[-1]


@pytest.mark.parametrize(("line", "told"), [("[1, 2]", "line 2 is no object"), ("{", "line 2: Expecting")])
def test_manifest_line_that_is_no_object_is_named(tmp_path: Path, line: str, told: str) -> None:
    (tmp_path / "list.jsonl").write_text('{"image": "a.jpg", "mask": "a.png"}\n' + line)
    with pytest.raises(FullyconvError, match=f"SEG-D006 .*list\\.jsonl cannot be read: {told}"):
        open_dataset(tmp_path / "list.jsonl")


def test_manifest_names_differ_and_stay_below_a_copy(tmp_path: Path) -> None:
    for folder in ("x", "y", "m/deep"):
        save_pairs(tmp_path, f"{folder}/{{}}.jpg", f"{folder}/{{}}.png", "a")
    rows = (tmp_path / "x" / "a.jpg", "../../y/a.jpg", "a.jpg", "../../y/a.jpg")
    masks = ("../../x/a.png", "../../y/a.png", "a.png", "../../y/a.png")
    text = "\n".join(f"{image},{mask}" for image, mask in zip(rows, masks, strict=True))
    (tmp_path / "m" / "deep" / "list.csv").write_text("image,mask\n" + text)
    dataset = open_dataset(tmp_path / "m" / "deep" / "list.csv")
    assert sorted(names_of(dataset, "train") + names_of(dataset, "val")) == ["m/deep/a", "x/a", "y/a"]


def test_pairs_that_share_a_name_are_numbered_and_repetitions_dropped() -> None:
    first, second = Pair("a", Path("x/a.jpg"), None), Pair("a", Path("y/a.jpg"), None)
    assert [pair.name for pair in distinct([first, second, first])] == ["a", "a-2"]


@pytest.mark.parametrize("names", [("a", "a"), ("../a",), ("/a",), ("x/../../a",)])
def test_dataset_refuses_names_that_repeat_or_lead_outside(names: tuple[str, ...]) -> None:
    pairs = tuple(Pair(name, Path("a.jpg"), None) for name in names)
    with pytest.raises(ValueError, match=r"pairs of a split must differ|relative paths without \.\."):
        Dataset("folder", Path(), LabelSet(("a",)), {"train": pairs})


@pytest.mark.parametrize("split", ["../../elsewhere", "/elsewhere", ".."])
def test_split_whose_folder_would_lie_elsewhere_is_refused(tmp_path: Path, split: str) -> None:
    save_pairs(tmp_path, "{}.jpg", "{}.png", "a")
    (tmp_path / "list.csv").write_text(f"image,mask,split\na.jpg,a.png,{split}\n")
    with pytest.raises(FullyconvError, match=rf"SEG-D006  .*list\.csv names a split '{split}'"):
        open_dataset(tmp_path / "list.csv")


def test_list_entry_given_twice_is_one_pair(tmp_path: Path) -> None:
    save_pairs(tmp_path, "images/{}.jpg", "masks/{}.png")
    (tmp_path / "train.txt").write_text("a\nb\na\n")
    (tmp_path / "val.txt").write_text("c\n")
    assert names_of(open_dataset(tmp_path), "train") == ["a", "b"]


@pytest.mark.parametrize("text", ["picture,mask\na.jpg,b.png\n", "", "image,mask\n"])
def test_manifest_without_its_columns_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(FullyconvError, match=r"SEG-D006 .*list\.csv.*expected the columns image"):
        open_dataset(tmp_path / "list.csv")


# Folders: finding and pairing


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/{}.jpg", "masks/{}.png"),
        ("imgs/{}.png", "labels/{}.png"),
        ("Image/{}.jpg", "Annotation/{}.png"),
        ("img_dir/{}.png", "ann_dir/{}.png"),
        ("images/{}.jpg", "groundTruth/{}.png"),
        ("JPEGImages/{}.jpg", "GT/{}.bmp"),
        ("images/{}_training.tif", "1st_manual/{}_manual1.gif"),
        ("images/{}.jpg", "masks/{}_mask.png"),
        ("images/img_{}.jpg", "masks/mask_{}.png"),
        ("images/scan {}_HE.jpg", "masks/scan {}-binary.png"),
        ("train/{}.jpg", "train_masks/{}_mask.gif"),
        ("{}.jpg", "{}.png"),
        ("{}.png", "{}_mask.png"),
        ("{}.png", "{}-label.png"),
        ("{}_sat.jpg", "{}_gt.png"),
        ("images/{}.png", "images/{}_mask.png"),
        ("images/{}_L.png", "masks/{}_L.png"),
        ("{}.png", "{}_L.png"),
        ("{}-color.png", "{}-label.png"),
        ("deep/er/Imgs/{}.jpg", "deep/er/Imgs/{}.png"),
        ("segmentation dataset/Tile 1/images/{}.jpg", "segmentation dataset/Tile 1/masks/{}.png"),
    ],
)
def test_folder_pairs_by_name(tmp_path: Path, image: str, mask: str) -> None:
    save_pairs(tmp_path, image, mask, ("001", "002", "010"), np.where(PATCH > 0, 255, 0).astype(np.uint8))
    dataset = open_dataset(f"folder:{tmp_path}")
    assert files(dataset) == {image.format(name): mask.format(name) for name in ("001", "002", "010")}
    assert dataset.unpaired == ()


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/{0}/{1}.jpg", "masks/{0}/{1}.png"),
        ("{0}/images/{1}.jpg", "{0}/masks/{1}.png"),
        ("{0}_images/{1}.jpg", "{0}_masks/{1}.png"),
        ("images/{0}/{1}.jpg", "masks/{1}.png"),
        ("{0}/{1}.jpg", "{0}annot/{1}.png"),
    ],
)
@pytest.mark.parametrize(
    "words",
    [
        ("train", "val", "test"),
        ("Training", "validation", "testing"),
        ("train2017", "val2017", "test2017"),
        ("Trainset", "valset1", "test1"),
    ],
)
def test_folder_finds_splits_in_either_order(
    tmp_path: Path, image: str, mask: str, words: tuple[str, str, str]
) -> None:
    for word, names in zip(words, ("ab", "c", "d"), strict=True):
        save_pairs(tmp_path, image.format(word, "{}"), mask.format(word, "{}"), names)
    dataset = open_dataset(f"folder:{tmp_path}")
    assert {split: names_of(dataset, split) for split in dataset.splits} == {
        "train": ["a", "b"],
        "val": ["c"],
        "test": ["d"],
    }


@pytest.mark.parametrize(
    ("image", "mask"),
    [("2020_01_{}.jpg", "2021_01_{}.png"), ("{}_t1.jpg", "{}_t2.png"), ("scene01-{}.jpg", "x-{}.png")],
)
def test_numbers_that_all_names_share_tell_them_apart(tmp_path: Path, image: str, mask: str) -> None:
    save_pairs(tmp_path, f"images/{image}", f"masks/{mask}")
    with pytest.raises(FullyconvError, match="SEG-D003"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("image", "mask", "told"),
    [
        ("images/img_{}.jpg", "masks/cut_{}.png", "paired by name without 'img_' / 'cut_': images/img_a.jpg with"),
        ("images/{}.jpg", "masks/{}_mask.png", "paired by name without words such as mask and train: images/a.jpg"),
        ("images/x/{}.jpg", "masks/y/{}.png", "paired by name whatever the folder: images/x/a.jpg with masks/y/a.png"),
    ],
)
def test_what_pairing_left_out_of_names_is_said(tmp_path: Path, image: str, mask: str, told: str) -> None:
    save_pairs(tmp_path, image, mask)
    assert any(note.startswith(told) for note in open_dataset(tmp_path).notes)


def test_spaces_and_letters_of_all_scripts_may_stand_in_paths(tmp_path: Path) -> None:
    root = tmp_path / "Straßen 道路"
    save_pairs(root, "images/été {} é.jpg", "masks/été {} é.png")
    (root / "train.txt").write_text("été a é\nimages/été b é.jpg\nété c é.jpg\n", encoding="utf-8")
    (root / "val.txt").write_text("été d é\n", encoding="utf-8")
    dataset = open_dataset(root)
    assert names_of(dataset, "train") == [f"été {name} é" for name in "abc"]
    assert all(pair.image.is_file() for pair in dataset.pairs("train"))


def test_folder_keeps_names_apart_that_repeat(tmp_path: Path) -> None:
    for tile in ("Tile 1", "Tile 2"):
        save_pairs(tmp_path, f"set/{tile}/images/{{}}.jpg", f"set/{tile}/masks/{{}}.png", "ab")
    dataset = open_dataset(tmp_path)
    assert sorted(pair.name for pairs in dataset.splits.values() for pair in pairs) == [
        "Tile 1/a",
        "Tile 1/b",
        "Tile 2/a",
        "Tile 2/b",
    ]
    assert files(dataset)["set/Tile 2/images/a.jpg"] == "set/Tile 2/masks/a.png"


def test_folder_is_not_confused_by_other_pictures(tmp_path: Path) -> None:
    save_pairs(tmp_path, "images/{}.png", "masks/{}.png")
    for name in "abcde":
        for other in ("instances", "depth", "derived/semantic", "overlays"):
            save(tmp_path / other / f"{name}.png")
    dataset = open_dataset(tmp_path)
    assert files(dataset) == {f"images/{name}.png": f"masks/{name}.png" for name in "abcde"}


def test_folder_prefers_manual_masks_to_the_field_of_view(tmp_path: Path) -> None:
    save_pairs(tmp_path, "training/images/{}_training.tif", "training/1st_manual/{}_manual1.gif", ("21", "22"))
    save_pairs(tmp_path, "training/images/{}_training.tif", "training/mask/{}_training_mask.gif", ("21", "22"))
    assert set(files(open_dataset(tmp_path)).values()) == {f"training/1st_manual/{n}_manual1.gif" for n in ("21", "22")}


def test_folder_takes_templates(tmp_path: Path) -> None:
    save_pairs(tmp_path, "train/p{}q.jpg", "truth/train/{}.png", "abc")
    save_pairs(tmp_path, "holdout/p{}q.jpg", "truth/holdout/{}.png", "d")
    dataset = open_dataset(f"folder:{tmp_path}?images={{split}}/p{{name}}q.jpg&masks=truth/{{split}}/{{name}}.png")
    assert files(dataset)["train/pbq.jpg"] == "truth/train/b.png"
    assert names_of(dataset, "holdout") == ["pdq"]


@pytest.mark.parametrize(
    "more", ["more=depth/{name}.png;hha/{split}/{name}.jpg", "more=depth/{name}.png&more=hha/{split}/{name}.jpg"]
)
def test_folder_takes_templates_for_further_pictures(tmp_path: Path, more: str) -> None:
    save_pairs(tmp_path, "train/{}-color.jpg", "train/{}-label.png", "ab")
    save_pairs(tmp_path, "val/{}-color.jpg", "val/{}-label.png", "c")
    images, masks = "images={split}/{name}-color.jpg", "masks={split}/{name}-label.png"
    dataset = open_dataset(f"folder:{tmp_path}?{images}&{masks}&{more}")
    assert dataset.pairs("val")[0].more == (tmp_path / "depth" / "c.png", tmp_path / "hha" / "val" / "c.jpg")
    assert [pair.more[0].name for pair in dataset.pairs("train")] == ["a.png", "b.png"]
    assert open_dataset(f"folder:{tmp_path}?{images}&{masks}").pairs("val")[0].more == ()


def test_folder_takes_templates_to_the_letter(tmp_path: Path) -> None:
    save_pairs(tmp_path, "rgb+d/{}.png", "50%25 = half/{}.png", "ab")
    dataset = open_dataset(f"folder:{tmp_path}?images=rgb+d/{{name}}.png&masks=50%25 = half/{{name}}.png")
    assert files(dataset)["rgb+d/a.png"] == "50%25 = half/a.png"


@pytest.mark.parametrize("query", ["images=a.jpg&masks={name}.png", "images={name}.jpg", "more=depth/{name}.png"])
def test_folder_refuses_half_a_template(tmp_path: Path, query: str) -> None:
    with pytest.raises(FullyconvError, match=r"SEG-D003 .*template"):
        open_dataset(f"folder:{tmp_path}?{query}")


def test_zero_pairs_say_what_was_found_and_the_nearest(tmp_path: Path) -> None:
    save(tmp_path / "images" / "street_0001.jpg")
    save(tmp_path / "masks" / "streets_0001a.png", PATCH)
    expected = r"found 1 images \(images/street_0001\.jpg\) and 1 masks .*nearest names are .*streets_0001a\.png"
    with pytest.raises(FullyconvError, match=r"SEG-D003 .*" + expected):
        open_dataset(tmp_path)


def test_unpaired_files_are_noted(tmp_path: Path) -> None:
    save_pairs(tmp_path, "images/{}.jpg", "masks/{}.png")
    save(tmp_path / "images" / "widow.jpg")
    save(tmp_path / "masks" / "widower.png", PATCH)
    dataset = open_dataset(tmp_path)
    assert {path.name for path in dataset.unpaired} == {"widow.jpg", "widower.png"}
    assert any(note.startswith("SEG-D021  2 files without a partner") for note in dataset.notes)


def test_unlabelled_test_images_are_a_split(tmp_path: Path) -> None:
    save_pairs(tmp_path, "train/images/{}.jpg", "train/masks/{}.png")
    save(tmp_path / "test" / "images" / "z.jpg")
    dataset = open_dataset(tmp_path)
    assert dataset.pairs("test") == (Pair("z", tmp_path / "test" / "images" / "z.jpg", None),)
    assert dataset.unpaired == ()


# Folders: splits


def test_split_by_name_is_stable_and_about_a_fifth() -> None:
    pairs = [Pair(f"{number:04}", Path(f"x/{number:04}.jpg"), None) for number in range(1000)]
    splits = split_by_name(pairs, Path())
    assert 160 < len(splits["val"]) < 240
    assert not set(splits["train"]) & set(splits["val"])
    fewer = split_by_name(pairs[:500], Path())
    assert set(fewer["val"]) == set(splits["val"]) & set(pairs[:500])
    assert [len(split_by_name(pairs[:2], Path())[split]) for split in ("train", "val")] == [1, 1]


def test_missing_val_is_taken_from_train_and_said(tmp_path: Path) -> None:
    save_pairs(tmp_path, "train/images/{}.jpg", "train/masks/{}.png", "abcdefghij")
    save_pairs(tmp_path, "test/images/{}.jpg", "test/masks/{}.png", "z")
    dataset = open_dataset(tmp_path)
    assert len(dataset.pairs("train")) + len(dataset.pairs("val")) == 10
    assert names_of(dataset, "test") == ["z"]
    assert any("there is no val split" in note and "of 10 pairs" in note for note in dataset.notes)


def test_another_folder_moves_no_pair_to_another_split(tmp_path: Path) -> None:
    names = [f"{number:02}" for number in range(20)]
    save_pairs(tmp_path, "north/images/{}.jpg", "north/masks/{}.png", names)
    before = {pair.image for pair in open_dataset(tmp_path).pairs("val")}
    save_pairs(tmp_path, "south/images/{}.jpg", "south/masks/{}.png", names)
    after = {pair.image for pair in open_dataset(tmp_path).pairs("val")}
    assert {image for image in after if "north" in image.parts} == before


@pytest.mark.parametrize(("image", "mask"), [("JPEGImages", "SegmentationClass"), ("train", "trainannot")])
def test_known_layout_without_val_takes_it_from_train(tmp_path: Path, image: str, mask: str) -> None:
    save_pairs(tmp_path, f"{image}/{{}}.png", f"{mask}/{{}}.png")
    dataset = open_dataset(tmp_path)
    assert dataset.layout in {"voc", "camvid"}
    assert len(dataset.pairs("train")) + len(dataset.pairs("val")) == 5
    assert "there is no val split" in dataset.notes[-1]


def test_lists_decide_splits(tmp_path: Path) -> None:
    save_pairs(tmp_path, "images/{}.jpg", "masks/{}.png")
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "train.txt").write_text("b\nimages/a.jpg\n/their/machine/images/gone.jpg\n")
    (tmp_path / "splits" / "val.txt").write_text("images/c.jpg masks/c.png\n")
    dataset = open_dataset(tmp_path)
    assert names_of(dataset, "train") == ["b", "a", "gone"]
    assert names_of(dataset, "val") == ["c"]
    assert "2 pairs are in no list (train.txt, val.txt) and left out" in dataset.notes


def test_list_of_strangers_is_refused(tmp_path: Path) -> None:
    save_pairs(tmp_path, "images/{}1.jpg", "masks/{}1.png")
    (tmp_path / "train.txt").write_text("a2\n")
    with pytest.raises(FullyconvError, match=r"SEG-D006  none of the 1 names in .*train\.txt"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("split", ["train", "val"])
def test_empty_list_is_refused(tmp_path: Path, split: str) -> None:
    save_pairs(tmp_path, "images/{}.jpg", "masks/{}.png")
    for name in ("train", "val"):
        (tmp_path / f"{name}.txt").write_text("" if name == split else "a\nb\n")
    with pytest.raises(FullyconvError, match=rf"SEG-D006  the list .*{split}\.txt is empty"):
        open_dataset(tmp_path)


def test_list_entries_tell_apart_equal_stems(tmp_path: Path) -> None:
    for tile in ("Tile 1", "Tile 2"):
        save_pairs(tmp_path, f"{tile}/images/{{}}.jpg", f"{tile}/masks/{{}}.png", "ab")
    (tmp_path / "train.txt").write_text("Tile 2/images/a.jpg\n")
    (tmp_path / "val.txt").write_text("Tile 1/images/a.jpg\n")
    dataset = open_dataset(tmp_path)
    assert (names_of(dataset, "train"), names_of(dataset, "val")) == (["Tile 2/a"], ["Tile 1/a"])


def test_read_list_keeps_names_with_spaces(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("my image.jpg my mask.png\n\nplain\nx.jpg,y.png\n2007_000121 -1\n")
    expected = [["my image.jpg", "my mask.png"], ["plain"], ["x.jpg", "y.png"], ["2007_000121 -1"]]
    assert read_list(tmp_path / "a.txt") == expected


def test_name_in_drops_foreign_folders_and_suffix() -> None:
    assert name_in("C:\\data\\images\\a.b.png") == "a.b"
    assert name_in("/x/2007_000121") == "2007_000121"


# Folders: classes


def folder_of(tmp_path: Path, *masks: Array) -> Path:
    for number, mask in enumerate(masks):
        save(tmp_path / "images" / f"{number}.png")
        save(tmp_path / "masks" / f"{number}.png", mask)
    return tmp_path


def levels(*values: int) -> Array:
    return np.array([values], np.uint8)


@pytest.mark.parametrize(
    ("values", "names", "mask"),
    [
        ((0, 255), ("background", "foreground"), [0, 1]),
        ((0, 1), ("background", "foreground"), [0, 1]),
        ((0, 1, 2), ("class 0", "class 1", "class 2"), [0, 1, 2]),
        ((0, 2, 255), ("class 0", "class 1", "class 2"), [0, 2, 255]),
        ((0, 127, 255), ("value 0", "value 127", "value 255"), [0, 1, 2]),
        ((1, 255), ("background", "foreground"), [1, 255]),
        ((0,), ("background", "foreground"), [0]),
        ((0, 64), ("value 0", "value 64"), [0, 1]),
        ((0, 127), ("value 0", "value 127"), [0, 1]),
    ],
)
def test_classes_inferred_from_numbers(
    tmp_path: Path, values: tuple[int, ...], names: tuple[str, ...], mask: list[int]
) -> None:
    dataset = open_dataset(folder_of(tmp_path, levels(*values)))
    assert dataset.labels.names == names
    assert dataset.labels.encode(levels(*values)).tolist() == [mask]


def test_noise_between_0_and_255_is_cut_in_the_middle_and_said(tmp_path: Path) -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 10:30] = 255
    mask[9, 10:20] = np.linspace(5, 240, 10)
    dataset = open_dataset(folder_of(tmp_path, mask))
    assert dataset.labels.names == ("background", "foreground")
    assert dataset.labels.encode(levels(0, 127, 128, 254)).tolist() == [[0, 0, 1, 1]]
    assert any(note.startswith("SEG-D013") and "with 10 stray values" in note for note in dataset.notes)


@pytest.mark.parametrize("quality", [60, 75, 95])
@pytest.mark.parametrize("side", [6, 11, 30])
def test_compressed_binary_masks_are_binary(tmp_path: Path, quality: int, side: int) -> None:
    mask = np.zeros((120, 120), np.uint8)
    mask[21 : 21 + 3 * side, 13 : 13 + side] = 255
    (tmp_path / "masks").mkdir()
    save(tmp_path / "images" / "0.png", np.zeros((120, 120, 3), np.uint8))
    Image.fromarray(mask).save(tmp_path / "masks" / "0.jpg", quality=quality)
    labels = open_dataset(f"folder:{tmp_path}").labels
    assert labels.names == ("background", "foreground")
    assert np.array_equal(read_mask(tmp_path / "masks" / "0.jpg", labels).numpy(), mask // 255)


def test_indices_with_special_values_are_not_taken_for_compression(tmp_path: Path) -> None:
    mask = np.repeat(np.array([*range(19), 253, 254, 255], np.uint8), 20)[None]
    mask[:, 20:200] = 0
    assert len(open_dataset(folder_of(tmp_path, mask)).labels) == 255


def test_many_classes_are_not_taken_for_noise(tmp_path: Path) -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[0, :30] = np.arange(0, 150, 5)
    mask[1:4] = 255
    assert len(open_dataset(folder_of(tmp_path, mask)).labels) == 146


def test_depth_maps_and_photographs_are_refused(tmp_path: Path) -> None:
    wide = np.arange(2000, dtype=np.uint16).reshape(40, 50)
    with pytest.raises(FullyconvError, match=r"SEG-D022 .*2000 different values up to 1999"):
        open_dataset(folder_of(tmp_path / "a", wide))
    photo = np.arange(256, dtype=np.uint8).reshape(16, 16)
    with pytest.raises(FullyconvError, match=r"SEG-D022 .*256 of the 256 grey levels"):
        open_dataset(folder_of(tmp_path / "b", photo))


def test_colours_become_classes_named_by_their_code(tmp_path: Path) -> None:
    mask = np.array([[[255, 0, 0], [0, 0, 128]]], np.uint8)
    dataset = open_dataset(folder_of(tmp_path, mask))
    assert dataset.labels.names == ("#000080", "#FF0000")
    assert dataset.labels.colors == ((0, 0, 128), (255, 0, 0))
    assert dataset.labels.encode(mask).tolist() == [[1, 0]]


def test_smoothed_colours_are_refused(tmp_path: Path) -> None:
    mask = np.zeros((20, 20, 3), np.uint8)
    mask[..., 0] = np.arange(20)[:, None]
    mask[..., 1] = np.arange(20)
    with pytest.raises(FullyconvError, match=r"SEG-D013 .*400 different colours"):
        open_dataset(folder_of(tmp_path, mask))


def test_broken_mask_is_left_to_the_doctor(tmp_path: Path) -> None:
    root = folder_of(tmp_path, levels(0, 255), levels(0, 255))
    (root / "masks" / "0.png").write_bytes(b"rubbish")
    assert open_dataset(root).labels.names == ("background", "foreground")
    (root / "masks" / "1.png").write_bytes(b"rubbish")
    with pytest.raises(FullyconvError, match="SEG-D009"):
        open_dataset(root)


def test_palette_and_rgb_masks_mix(tmp_path: Path) -> None:
    colors = np.array([[[255, 0, 0], [0, 0, 128]]], np.uint8)
    root = folder_of(tmp_path, colors, colors)
    Image.fromarray(colors).quantize().save(root / "masks" / "1.png")
    dataset = open_dataset(root)
    assert dataset.labels.names == ("#000080", "#FF0000")
    for pairs in dataset.splits.values():
        assert pairs[0].mask is not None
        assert read_mask(pairs[0].mask, dataset.labels).tolist() == [[1, 0]]


def test_palettes_that_differ_are_read_by_colour(tmp_path: Path) -> None:
    root = folder_of(tmp_path, *[levels(0, 1)] * 3)
    red, blue = [255, 0, 0], [0, 0, 128]
    for number, colors in enumerate([red + blue, blue + red, red + blue]):
        image = Image.fromarray(levels(0, 1))
        image.putpalette(colors)
        image.save(root / "masks" / f"{number}.png")
    dataset = open_dataset(root)
    assert dataset.labels.names == ("#000080", "#FF0000")
    assert read_mask(root / "masks" / "0.png", dataset.labels).tolist() == [[1, 0]]
    assert read_mask(root / "masks" / "1.png", dataset.labels).tolist() == [[0, 1]]
    assert any("because the palettes of the masks differ" in note for note in dataset.notes)
    (root / "classes.json").write_text('{"roof": 0, "sea": 1}')
    assert open_dataset(root).labels.encode(levels(0, 1)).tolist() == [[0, 1]]


def test_unused_palette_entries_may_differ(tmp_path: Path) -> None:
    root = folder_of(tmp_path, *[levels(0, 1)] * 2)
    for number in range(2):
        image = Image.fromarray(levels(0, 1))
        image.putpalette([10, 20, 30, 40, 50, 60, number, 80, 90])
        image.save(root / "masks" / f"{number}.png")
    assert open_dataset(root).labels.colors == ((0, 0, 0), (128, 0, 0))


def test_palette_of_index_masks_colours_the_classes(tmp_path: Path) -> None:
    root = folder_of(tmp_path, PATCH)
    image = Image.fromarray(PATCH)
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.save(root / "masks" / "0.png")
    assert open_dataset(root).labels.colors == ((10, 20, 30), (40, 50, 60), (70, 80, 90))


def test_names_cover_binary_masks(tmp_path: Path) -> None:
    root = folder_of(tmp_path, levels(0, 255))
    (root / "classes.txt").write_text("crack\n")
    assert open_dataset(root).labels.names == ("background", "crack")
    (root / "classes.txt").write_text("road\ncrack\n")
    assert open_dataset(root).labels.encode(levels(0, 255)).tolist() == [[0, 1]]


def test_16_bit_masks_of_two_values_are_binary(tmp_path: Path) -> None:
    mask = np.array([[0, 65535]], np.uint16)
    labels = open_dataset(folder_of(tmp_path, mask)).labels
    assert labels.names == ("background", "foreground")
    assert labels.encode(mask).tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("values", "names", "expected"),
    [
        ((0, 127, 255), "sky,road,car", [0, 1, 2]),
        ((0, 128), "sky,road", [0, 1]),
        ((0, 128, 255), "sky,road", [0, 1, 255]),
        ((0, 20, 40), "sky,road,car", [0, 1, 2]),
        ((1, 2, 3), "sky,road,car", [0, 1, 2]),
        ((1, 3, 255), "sky,road,car", [0, 2, 255]),
        ((0, 1, 2), "sky,road,car", [0, 1, 2]),
        ((0, 1, 2), "sky,road,void", [0, 1, 255]),
    ],
)
def test_names_fall_on_the_values_that_they_can_mean(
    tmp_path: Path, values: tuple[int, ...], names: str, expected: list[int]
) -> None:
    root = folder_of(tmp_path, levels(*values))
    (root / "classes.txt").write_text(names.replace(",", "\n"))
    labels = open_dataset(root).labels
    assert labels.names == tuple(name for name in names.split(",") if name != "void")
    assert labels.encode(levels(*values)).tolist() == [expected]


def test_one_name_too_few_with_a_background_is_refused(tmp_path: Path) -> None:
    root = folder_of(tmp_path, levels(0, 1, 2))
    (root / "classes.txt").write_text("_background_\nroad\n")
    with pytest.raises(FullyconvError, match=r"SEG-D014 .*names 2 classes, background among them, .* hold 0 to 2"):
        open_dataset(root)


def test_one_name_too_few_makes_0_the_background(tmp_path: Path) -> None:
    root = folder_of(tmp_path, levels(0, 1, 2))
    (root / "classes.txt").write_text("001_can\n002_box\n")
    dataset = open_dataset(root)
    assert dataset.labels.names == ("background", "001_can", "002_box")
    assert any(note.startswith("SEG-D014") and "0 is background and 1 is 001_can" in note for note in dataset.notes)


def test_more_values_than_names_are_added_and_said(tmp_path: Path) -> None:
    root = folder_of(tmp_path, levels(0, 1, 3))
    (root / "classes.txt").write_text("a\nb\n")
    dataset = open_dataset(root)
    assert dataset.labels.names == ("a", "b", "class 2", "class 3")
    assert dataset.notes[0].startswith("SEG-D014")


def test_colours_of_the_classes_file_name_the_classes(tmp_path: Path) -> None:
    root = folder_of(tmp_path, np.array([[[255, 0, 0], [0, 0, 128], [9, 9, 9]]], np.uint8))
    (root / "classes.json").write_text('{"roof": "#FF0000", "sea": [0, 0, 128], "void": "#090909"}')
    dataset = open_dataset(root)
    assert dataset.labels.names == ("roof", "sea")
    assert dataset.labels.encode(np.array([[[9, 9, 9], [0, 0, 128]]], np.uint8)).tolist() == [[255, 1]]
    assert any("ignored by its name: void" in note for note in dataset.notes)


def test_colours_that_match_no_mask_give_way_to_those_found(tmp_path: Path) -> None:
    root = folder_of(tmp_path, np.array([[[255, 0, 0], [0, 0, 128]]], np.uint8))
    (root / "classes.json").write_text('{"roof": "#50E3C2", "sea": "#F5A623"}')
    dataset = open_dataset(root)
    assert dataset.labels.names == ("#000080", "#FF0000")
    assert any(note.startswith("SEG-D014") and "0 occur" in note for note in dataset.notes)


def test_values_of_the_classes_file_are_obeyed(tmp_path: Path) -> None:
    root = folder_of(tmp_path, levels(0, 10, 20))
    (root / "classes.json").write_text('{"void": 0, "road": 10, "car": 20}')
    assert open_dataset(root).labels.encode(levels(0, 10, 20)).tolist() == [[255, 0, 1]]


def test_label_set_written_by_us_is_read_whole(tmp_path: Path) -> None:
    root = folder_of(tmp_path, levels(0, 7))
    labels = LabelSet(("a", "b"), ((1, 2, 3), (4, 5, 6)), ((0, 0), (7, 1), (9, 255)))
    (root / "classes.json").write_text(json.dumps(labels.to_dict()))
    assert open_dataset(root).labels == labels


RED_SEA = (Entry("red roof", color=(255, 0, 0)), Entry("sea", color=(0, 0, 128)))
VALUED = (Entry("red roof", value=0), Entry("sea", value=5))
NAMED = (Entry("red roof"), Entry("sea 2"))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.txt", "red roof\nsea 2\n", NAMED),
        ("a.txt", "# comment\n0 red roof\n5 sea\n", VALUED),
        ("a.txt", "0: red roof\n5: sea\n", VALUED),
        ("a.txt", "red roof, 0\nsea, 5\n", VALUED),
        ("a.txt", "255 0 0\tred roof\n0 0 128\tsea\n", RED_SEA),
        ("a.txt", "red roof 255 0 0\nsea 0 0 128\n", RED_SEA),
        ("a.txt", "red roof = 255:0:0\nsea = 0:0:128\n", RED_SEA),
        ("a.txt", "red roof:255,0,0::\nsea:0,0,128::\n", RED_SEA),
        ("a.txt", "#FF0000 red roof\nsea #000080\n", RED_SEA),
        ("a.csv", "name,r,g,b\nred roof,255,0,0\nsea,0,0,128\n", RED_SEA),
        ("a.txt", "7 255 0 0 roof\n", (Entry("roof", 7, (255, 0, 0)),)),
        ("a.txt", "7 roof 255 0 0\n", (Entry("roof", 7, (255, 0, 0)),)),
        ("a.json", '["red roof", "sea 2"]', NAMED),
        ("a.json", '{"0": "red roof", "5": "sea"}', VALUED),
        ("a.json", '{"red roof": 0, "sea": 5}', VALUED),
        ("a.json", '{"red roof": "#ff0000", "sea": [0, 0, 128]}', RED_SEA),
        ("a.json", '{"#ff0000": "red roof", "#000080": "sea"}', RED_SEA),
        (
            "a.json",
            '{"classes": [{"title": "red roof", "color": "#FF0000"}, {"title": "sea", "color": "#000080"}]}',
            RED_SEA,
        ),
        ("a.json", '{"classes": ["red roof", "sea"], "palette": [[255, 0, 0], [0, 0, 128]]}', RED_SEA),
        ("a.json", '{"names": {"0": "red roof", "5": "sea"}}', VALUED),
        ("a.json", '[{"name": "roof", "id": 7, "color": [255, 0, 0]}]', (Entry("roof", 7, (255, 0, 0)),)),
        ("a.json", '{"7": {"name": "roof", "color": [255, 0, 0]}}', (Entry("roof", 7, (255, 0, 0)),)),
    ],
)
def test_classes_files_of_many_forms(tmp_path: Path, name: str, text: str, expected: tuple[Entry, ...]) -> None:
    (tmp_path / name).write_text(text)
    assert read_classes(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", "{"),
        ("a.json", "7"),
        ("a.json", '[{"id": 1}]'),
        ("a.json", '{"a": "red"}'),
        ("a.txt", ""),
        ("a.txt", "a 1 2 3\nb\nc\n"),
        ("a.json", '{"classes": {"cat": 1, "dog": 2, "cat": 3}}'),
    ],
)
def test_unreadable_classes_file_is_named(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(FullyconvError, match=rf"SEG-D007  .*{name} cannot be read"):
        read_classes(tmp_path / name)


@pytest.mark.parametrize(
    ("mask", "listed", "told"),
    [
        ([[1, 2]], {"road": 1, "lane": 1, "sky": 2}, "1 to both 'road' and 'lane'"),
        ([[[9, 0, 0]]], {"road": "#090000", "void": "#090000"}, "#090000 to both 'road' and 'void'"),
    ],
)
def test_raw_value_of_two_classes_is_refused(tmp_path: Path, mask: Any, listed: dict[str, Any], told: str) -> None:
    root = folder_of(tmp_path, np.array(mask, np.uint8))
    (root / "classes.json").write_text(json.dumps(listed))
    with pytest.raises(FullyconvError, match=rf"SEG-D007 .*classes\.json gives {told}"):
        open_dataset(root)


def test_of_more_than_255_classes_255_is_one(tmp_path: Path) -> None:
    mask = np.array([[*range(300), 65535]], np.uint16)
    root = folder_of(tmp_path, mask)
    assert open_dataset(root).labels.encode(mask).tolist() == mask.tolist()
    assert any("0 to 299, inferred from the masks; 65535 is ignored" in note for note in open_dataset(root).notes)
    (root / "classes.txt").write_text("\n".join(f"name {index}" for index in range(300)))
    labels = open_dataset(root).labels
    assert labels.encode(mask).tolist() == labels.decode(mask).tolist() == mask.tolist()


def test_void_of_more_than_255_classes_is_ignored(tmp_path: Path) -> None:
    root = folder_of(tmp_path, levels(0, 1))
    (root / "classes.json").write_text(json.dumps({"void": 0, **{f"name {value}": value for value in range(1, 301)}}))
    labels = open_dataset(root).labels
    assert labels.encode(np.array([[0, 1, 255, 300]], np.uint16)).tolist() == [[65535, 0, 254, 299]]


def test_only_void_is_no_class(tmp_path: Path) -> None:
    root = folder_of(tmp_path, levels(0))
    (root / "classes.json").write_text('{"void": 0}')
    with pytest.raises(FullyconvError, match=r"SEG-D007 .*no class to learn, only void"):
        open_dataset(root)


# The real sets


REAL: dict[str, tuple[str, dict[str, int], tuple[str, ...]]] = {
    "camvid": ("camvid", {"train": 367, "val": 101}, ("Sky", "Building", "Pole")),
    "voc2012_subset": ("voc", {"train": 140, "val": 50, "trainval": 190}, ("background", "aeroplane")),
    "voc2012_subset/VOCdevkit": ("voc", {"train": 140, "val": 50, "trainval": 190}, ("background", "aeroplane")),
    "labelmefacade": (
        "folder",
        {"": 100},
        ("#000000", "#000080", "#008000", "#008080", "#800000", "#800080", "#804000"),
    ),
    "dsb2018_nuclei": ("folder", {"": 60}, ("background", "foreground")),
    "isbi2012_em": ("folder", {"": 10}, ("background", "foreground")),
    "drive": ("folder", {"": 6}, ("background", "foreground")),
    "crackforest": ("folder", {"": 20}, ("background", "foreground")),
    "magnetic_tile": ("folder", {"": 45}, ("background", "foreground")),
    "dubai_mbrsc": ("folder", {"": 21}, ("#000000", "#3C1098", "#6EC1E4", "#8429F6", "#E2A929", "#FEDD3A")),
    "cityscapes_sample": ("cityscapes", {"val": 1}, ("road", "sidewalk")),
    "ycb_video_sample": ("folder", {"": 8}, ("background", "002_master_chef_can")),
    "layout_samples/ade20k": ("ade20k", {"val": 3}, ("wall", "building")),
    "layout_samples/loveda": ("folder", {"": 1}, ("class 0", "class 1")),
    "layout_samples/potsdam": ("folder", {"": 1}, ("class 0", "class 1")),
    "layout_samples/vaihingen": ("folder", {"": 1}, ("class 0", "class 1")),
}
CLASS_COUNTS = {"camvid": 11, "labelmefacade": 9, "dubai_mbrsc": 6, "ycb_video_sample": 22, "layout_samples/loveda": 8}


@pytest.mark.parametrize("name", REAL)
def test_real_set_opens_and_its_pairs_agree(data_root: Path, name: str) -> None:
    if not (data_root / name).is_dir():
        pytest.skip(f"{name} is not among the data in {data_root}")
    layout, counts, names = REAL[name]
    dataset = open_dataset(data_root / name)
    assert dataset.layout == layout
    found = {split: len(pairs) for split, pairs in dataset.splits.items()}
    assert found == counts or {"": sum(found.values())} == counts
    assert dataset.labels.names[: len(names)] == names
    assert len(dataset.labels) == CLASS_COUNTS.get(name, len(dataset.labels))
    for pairs in dataset.splits.values():
        assert pairs[0].mask is not None
        image, mask = read_image(pairs[0].image), read_mask(pairs[0].mask, dataset.labels)
        assert image.shape[1:] == mask.shape


def test_real_wrong_classes_file_is_told(data_root: Path) -> None:
    if not (data_root / "dubai_mbrsc").is_dir():
        pytest.skip(f"dubai_mbrsc is not among the data in {data_root}")
    notes = open_dataset(data_root / "dubai_mbrsc").notes
    assert any(note.startswith("SEG-D014") for note in notes)
    assert any("ignored by its name: Unlabeled" in note for note in notes)


def test_real_depth_is_no_mask(data_root: Path) -> None:
    if not (data_root / "layout_samples" / "nyu").is_dir():
        pytest.skip(f"nyu is not among the data in {data_root}")
    with pytest.raises(FullyconvError, match="SEG-D022"):
        open_dataset(data_root / "layout_samples" / "nyu")


def test_layouts_recognise_only_their_own(tmp_path: Path) -> None:
    save_pairs(tmp_path, "images/{}.jpg", "masks/{}.png")
    assert [name for name, layout in LAYOUTS.items() if layout.recognise(tmp_path)] == ["folder"]
