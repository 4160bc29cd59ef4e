"""The data sets of the paper, made of a few pixels in the exact form of their files on disk."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from fullyconv.datasets import Dataset, open_dataset
from fullyconv.datasets.pascal_context import CLASSES, labels_of
from fullyconv.errors import FullyconvError
from fullyconv.images import read_image, read_mask, stack

Array = np.ndarray[Any, Any]
GREY = np.full((2, 3, 3), 100, np.uint8)
OUTDOOR = "spatial_envelope_256x256_static_8outdoorcategories"


def save(path: Path, pixels: Array = GREY) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def save_map(path: Path, variable: str, labels: list[list[int]], kind: type, **beside: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {variable: np.array(labels, kind), **beside})


def lists(folder: Path, **names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, members in names.items():
        (folder / f"{name}.txt").write_text(members.replace(" ", "\n") + "\n")


def names_of(dataset: Dataset, split: str) -> list[str]:
    return [pair.name for pair in dataset.pairs(split)]


def mask_of(dataset: Dataset, split: str, position: int = 0) -> list[list[int]]:
    mask = dataset.pairs(split)[position].mask
    assert mask is not None
    return read_mask(mask, dataset.labels).tolist()


# NYUDv2


@pytest.fixture
def nyud(tmp_path: Path) -> Path:
    for number in ("5001", "5002", "5003"):
        save(tmp_path / "data" / "images" / f"img_{number}.png")
        save(tmp_path / "data" / "depth" / f"img_{number}.png", np.full((2, 3), 2550, np.uint16))
        save(tmp_path / "data" / "hha" / f"img_{number}.png")
        save_map(tmp_path / "segmentation" / f"img_{number}.mat", "segmentation", [[0, 1, 2], [40, 39, 0]], np.uint8)
    lists(tmp_path, train="5002", val="5001", test="5003")
    return tmp_path


def test_nyud_rotates_its_labels_and_ignores_0(nyud: Path) -> None:
    dataset = open_dataset(nyud)
    assert (dataset.layout, len(dataset.labels)) == ("nyud", 40)
    assert (dataset.labels.names[0], dataset.labels.names[23], dataset.labels.names[39]) == (
        "wall",
        "refridgerator",
        "otherprop",
    )
    assert mask_of(dataset, "train") == [[255, 0, 1], [39, 38, 255]]
    assert [names_of(dataset, split) for split in ("train", "val", "test")] == [
        ["img_5002"],
        ["img_5001"],
        ["img_5003"],
    ]


@pytest.mark.parametrize(
    ("inputs", "folders", "bands"),
    [("color", ["images"], 3), ("hha", ["hha"], 3), ("color,depth", ["images", "depth"], 4),
     ("color,hha", ["images", "hha"], 6)],
)  # fmt: skip
def test_nyud_reads_the_inputs_asked_for(nyud: Path, inputs: str, folders: list[str], bands: int) -> None:
    (pair,) = open_dataset(f"nyud:{nyud}?inputs={inputs}").pairs("val")
    pictures = (pair.image, *pair.more)
    assert [picture.parent.name for picture in pictures] == folders
    counts = [len(read_image(picture, channels=None)) for picture in pictures]
    assert len(stack(pictures, counts)) == bands


def test_nyud_without_lists_is_all_train(nyud: Path) -> None:
    for split in ("train", "val", "test"):
        (nyud / f"{split}.txt").unlink()
    dataset = open_dataset(nyud)
    assert len(dataset.pairs("train")) + len(dataset.pairs("val")) == 3
    assert "there is no train.txt" in dataset.notes[0]


@pytest.mark.parametrize(
    ("listed", "together"),
    [
        ({"train": "5002", "val": "5001"}, ["img_5002", "img_5001"]),
        ({"train": "5002", "val": "5001", "trainval": "5001 5002"}, ["img_5001", "img_5002"]),
        ({"val": "5001", "trainval": "5001 5002"}, ["img_5001", "img_5002"]),
    ],
)
def test_nyud_has_trainval_by_its_list_or_from_its_parts(
    nyud: Path, listed: dict[str, str], together: list[str]
) -> None:
    (nyud / "train.txt").unlink()
    lists(nyud, **listed)
    found = {split: [pair.name for pair in pairs] for split, pairs in open_dataset(nyud).splits.items()}
    assert found == {"train": ["img_5002"], "val": ["img_5001"], "test": ["img_5003"], "trainval": together}
    assert names_of(open_dataset(f"nyud:{nyud}?train=trainval&val=test"), "train") == together


# SIFT Flow


@pytest.fixture
def siftflow(tmp_path: Path) -> Path:
    for name in ("coast_a1", "coast_a2", "street_urb506"):
        save(tmp_path / "Images" / OUTDOOR / f"{name}.jpg")
        beside = {"names": np.array(["awning", "balcony"], object), "metaData": {"tool": "LabelMe"}}
        save_map(tmp_path / "SemanticLabels" / OUTDOOR / f"{name}.mat", "S", [[0, 1, 33]], np.float64, **beside)
        save_map(tmp_path / "GeoLabels" / OUTDOOR / f"{name}.mat", "S", [[-1, 1, 3]], np.int16, **beside)
    lists(tmp_path, trainval="coast_a2 street_urb506", test="coast_a1")
    return tmp_path


def test_sift_flow_has_two_labellings_of_one_image(siftflow: Path) -> None:
    dataset = open_dataset(siftflow)
    (geometric,) = dataset.also
    assert (dataset.layout, len(dataset.labels), geometric.labels.names) == (
        "siftflow",
        33,
        ("sky", "horizontal", "vertical"),
    )
    assert mask_of(dataset, "test") == [[255, 0, 32]]
    assert mask_of(geometric, "test") == [[255, 0, 2]]
    assert [pair.image for pair in geometric.pairs("test")] == [pair.image for pair in dataset.pairs("test")]


def test_sift_flow_leaves_out_what_nobody_annotated(siftflow: Path) -> None:
    dataset = open_dataset(siftflow)
    assert names_of(dataset, "train") == ["coast_a2"]
    assert dataset.notes == ("left out, for nobody has annotated them: street_urb506",)


def test_sift_flow_validates_on_its_val_where_there_is_a_list(siftflow: Path) -> None:
    (siftflow / "trainval.txt").unlink()
    lists(siftflow, train="coast_a2", val="coast_a1")
    for dataset in (open_dataset(siftflow), *open_dataset(siftflow).also):
        found = {split: names_of(dataset, split) for split in ("train", "val", "trainval")}
        assert found == {"train": ["coast_a2"], "val": ["coast_a1"], "trainval": ["coast_a2", "coast_a1"]}


def test_sift_flow_heads_share_the_split_that_is_taken_from_train(siftflow: Path) -> None:
    for name in ("trainval", "test"):
        (siftflow / f"{name}.txt").unlink()
    dataset = open_dataset(siftflow)
    assert len(names_of(dataset, "val")) == len(names_of(dataset, "train")) == 1
    assert names_of(dataset.also[0], "val") == names_of(dataset, "val")


# PASCAL-Context


@pytest.fixture
def context(tmp_path: Path) -> Path:
    for name in ("2008_000002", "2008_000003"):
        save(tmp_path / "VOC2010" / "JPEGImages" / f"{name}.jpg")
        (tmp_path / "VOC2010" / "SegmentationClass").mkdir(exist_ok=True)
        # table, bedclothes, cloth; wood, an ashtray, unknown
        save_map(
            tmp_path / "context" / "trainval" / f"{name}.mat", "LabelMap", [[397, 19, 80], [458, 6, 431]], np.uint16
        )
    lists(tmp_path / "VOC2010" / "ImageSets" / "Main", train="2008_000003", val="2008_000002", dog_train="2008_000003")
    return tmp_path


def test_pascal_context_makes_everything_else_background(context: Path) -> None:
    dataset = open_dataset(context)
    assert (dataset.layout, len(dataset.labels), list(dataset.splits)) == ("pascal_context", 60, ["train", "val"])
    assert mask_of(dataset, "val") == [[11, 52, 28], [59, 0, 0]]
    assert [dataset.labels.names[index] for index in (11, 52, 28, 59)] == ["diningtable", "bedcloth", "clothes", "wood"]


def test_smaller_tasks_of_pascal_context_ignore_everything_else(context: Path) -> None:
    assert mask_of(open_dataset(f"pascal_context:{context}?classes=59"), "val") == [[10, 51, 27], [58, 255, 255]]
    of_33 = open_dataset(f"pascal_context:{context}?classes=33")
    assert mask_of(of_33, "val") == [[10, 255, 255], [255, 255, 255]]
    assert (of_33.labels.names[20], of_33.labels.names[32]) == ("sky", "ceiling")


def test_classes_of_pascal_context_are_the_59_most_frequent_labels() -> None:
    # As listed elsewhere: https://e-com-net.com/article/1188431481903620096.htm
    listed = """2 259 260 415 324 9 258 144 18 19 22 23 397 25 284 158 159 416 33 162 420 454 295 296 427 44 45 46 308
        59 440 445 31 232 65 354 424 68 326 72 458 34 207 80 355 85 347 220 349 360 98 187 104 105 366 189 368 113
        115"""
    assert sorted(CLASSES.values()) == sorted(int(number) for number in listed.split())
    assert len(labels_of("60").table) == 460


def test_labels_of_pascal_context_are_numbered_by_the_alphabet() -> None:
    # As in its labels.txt, where these three are called otherwise.
    aliases = {"diningtable": "table", "clothes": "cloth", "bedcloth": "bedclothes"}
    numbered = [aliases.get(name, name) for name in sorted(CLASSES, key=CLASSES.__getitem__)]
    assert numbered == sorted(numbered)


def test_classes_of_pascal_context_are_in_the_order_of_the_release() -> None:
    # classes-59.txt of the authors' release, where background is 0
    listed = """aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person
        pottedplant sheep sofa train tvmonitor bag bed bench book building cabinet ceiling clothes computer cup door
        fence floor flower food grass ground keyboard light mountain mouse curtain platform sign plate road rock shelves
        sidewalk sky snow bedcloth track tree truck wall water window wood"""
    assert list(labels_of("60").names) == ["background", *listed.split()]
    assert list(labels_of("59").names) == listed.split()


def test_photographs_and_annotation_of_pascal_context_may_lie_in_one_folder(context: Path) -> None:
    (context / "context" / "trainval").rename(context / "VOC2010" / "trainval")
    assert open_dataset(context / "VOC2010").layout == "pascal_context"


# The images on which the paper validates


def test_seg11valid_is_voc_2011_val_without_sbd_train(tmp_path: Path) -> None:
    voc, sbd = tmp_path / "VOC2011", tmp_path / "sbd"
    for name in ("2007_a", "2008_b", "2008_c"):
        save(voc / "JPEGImages" / f"{name}.jpg")
        save(voc / "SegmentationClass" / f"{name}.png", np.array([[0, 255, 20]], np.uint8))
        save(sbd / "img" / f"{name}.jpg")
        save_map(sbd / "cls" / f"{name}.mat", "GTcls", [[0]], np.uint8)
    lists(voc / "ImageSets" / "Segmentation", train="2007_a", val="2008_b 2008_c")
    lists(sbd, train="2007_a 2008_c", val="2008_b")
    dataset = open_dataset(f"sbd:{sbd}?voc={voc}&val=seg11valid")
    assert names_of(dataset, "train") == ["2007_a", "2008_c"]
    assert names_of(dataset, "val") == names_of(dataset, "seg11valid") == ["2008_b"]
    assert mask_of(dataset, "val") == [[0, 255, 20]]


# Options


def test_any_split_may_stand_for_train_and_val(nyud: Path) -> None:
    dataset = open_dataset(f"nyud:{nyud}?train=val&val=test")
    assert [names_of(dataset, split) for split in ("train", "val")] == [["img_5001"], ["img_5003"]]
    with pytest.raises(FullyconvError, match="SEG-D005"):
        open_dataset(f"nyud:{nyud}?val=none")


def test_options_need_no_name_of_the_layout(nyud: Path) -> None:
    assert open_dataset(f"{nyud}?inputs=hha").pairs("val") == open_dataset(f"nyud:{nyud}?inputs=hha").pairs("val")


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("colour=hha", "has no option 'colour'; it has inputs, train, val"),
        ("inputs=hha,smell", "color, depth, hha, each once; got 'hha,smell'"),
        ("inputs=hha,hha", "each once; got 'hha,hha'"),
    ],
)
def test_unknown_options_are_refused(nyud: Path, query: str, told: str) -> None:
    with pytest.raises(FullyconvError, match=f"SEG-D025  .*{told}"):
        open_dataset(f"nyud:{nyud}?{query}")


def test_unknown_task_of_pascal_context_is_refused(context: Path) -> None:
    with pytest.raises(FullyconvError, match="SEG-D025  classes is 60, 59, 33; got '20'"):
        open_dataset(f"pascal_context:{context}?classes=20")


@pytest.mark.parametrize("layout", ["nyud", "siftflow", "pascal_context"])
def test_forced_layout_that_does_not_fit_is_refused(tmp_path: Path, layout: str) -> None:
    with pytest.raises(FullyconvError, match="SEG-D003"):
        open_dataset(f"{layout}:{tmp_path}")


# The real ones, where they are


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("sbd:{0}/sbd?voc={0}/VOCdevkit/VOC2011", {"train": 8498, "seg11valid": 736}),
        ("nyud:{0}/nyud", {"train": 381, "val": 414, "test": 654}),
        ("siftflow:{0}/siftflow?val=test", {"train": 2486, "test": 200}),
        ("pascal_context:{0}/pascal_context", {"train": 4998, "val": 5105}),
    ],
)
def test_real_splits_have_the_papers_sizes(data_root: Path, data: str, expected: dict[str, int]) -> None:
    folder = Path(data.partition(":")[2].partition("?")[0].format(data_root))
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    splits = open_dataset(data.format(data_root)).splits
    assert {split: len(splits[split]) for split in expected} == expected
