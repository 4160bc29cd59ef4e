"""PASCAL VOC: JPEGImages/, SegmentationClass/ and the lists in ImageSets/Segmentation/."""

from collections.abc import Iterable
from pathlib import Path

from fullyconv.datasets.classes import find_classes_file
from fullyconv.datasets.dataset import SPLITS, Dataset, Layout, Pair, distinct, files_in, masks_in, name_in, read_list
from fullyconv.errors import FullyconvError
from fullyconv.labels import LabelSet

# Source: the VOC 2012 development kit. 255 marks the borders of objects and what was too difficult to label.
NAMES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
    "pottedplant sheep sofa train tvmonitor"
)
LABELS = LabelSet(tuple(NAMES.split()))


def recognise(root: Path) -> bool:
    """Whether the folder, its VOC2012/ or its VOCdevkit/VOC2012/ holds JPEGImages/ and SegmentationClass/, and no
    classes of the user's own, as labelme's and CVAT's exports do."""
    years = _years(root)
    return bool(years) and find_classes_file([root, *years]) is None


def read(root: Path) -> Dataset:
    """The pairs of every list, train, val and test first; without lists, all images with a mask as train."""
    years = _years(root)
    if not years:
        raise FullyconvError("SEG-D003", f"{root} holds no JPEGImages/ beside a SegmentationClass/")
    year = years[-1]
    images = {path.stem: path for path in files_in(year / "JPEGImages")}
    masks = masks_in(year / "SegmentationClass")
    lists = _lists(year)
    notes = [] if len(years) == 1 else [f"{len(years)} years were found, and {year.name} was read"]
    names = {split: [name_in(entry[0]) for entry in read_list(lists[split])] for split in _order(lists)}
    if not names:
        names = {"train": list(masks)}
        notes.append("there are no lists in ImageSets/Segmentation, so that all images with a mask are in train")
    splits = {
        split: distinct(
            Pair(
                name,
                images.get(name, year / "JPEGImages" / f"{name}.jpg"),
                # VOC keeps the masks of its test split to itself.
                masks.get(name, None if split == "test" else year / "SegmentationClass" / f"{name}.png"),
            )
            for name in listed
        )
        for split, listed in names.items()
    }
    return Dataset("voc", root, LABELS, splits, tuple(notes))


def _years(root: Path) -> list[Path]:
    folders = [root, *sorted(root.glob("VOC2*")), *sorted(root.glob("VOCdevkit/VOC2*"))]
    return [
        folder for folder in folders if all((folder / part).is_dir() for part in ("JPEGImages", "SegmentationClass"))
    ]


def _lists(year: Path) -> dict[str, Path]:
    """The list files by split; CVAT, where it knows no splits, writes one named default."""
    files = sorted((year / "ImageSets" / "Segmentation").glob("*.txt"))
    lists = {path.stem: path for path in files}
    return {"train": lists["default"]} if list(lists) == ["default"] else lists


def _order(lists: Iterable[str]) -> list[str]:
    return sorted(lists, key=lambda name: (SPLITS.index(name) if name in SPLITS else len(SPLITS), name))


LAYOUT = Layout("JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/ (PASCAL VOC)", recognise, read)
