"""PASCAL-Context: the photographs of VOC2010, and trainval/*.mat with 459 labels for 59 classes and background."""

from pathlib import Path

from fullyconv.datasets.dataset import Dataset, Layout, Pair, distinct, files_in, name_in, read_list
from fullyconv.errors import FullyconvError
from fullyconv.labels import LabelSet

# The 59 classes in the order of the authors' release (data/pascal-context/classes-59.txt), each with its number in the
# labels.txt of the annotation, where diningtable is called table, clothes cloth, and bedcloth bedclothes.
# fmt: off
CLASSES = {
    "aeroplane": 2, "bicycle": 23, "bird": 25, "boat": 31, "bottle": 34, "bus": 45, "car": 59, "cat": 65, "chair": 72,
    "cow": 98, "diningtable": 397, "dog": 113, "horse": 207, "motorbike": 258, "person": 284, "pottedplant": 308,
    "sheep": 347, "sofa": 368, "train": 416, "tvmonitor": 427, "bag": 9, "bed": 18, "bench": 22, "book": 33,
    "building": 44, "cabinet": 46, "ceiling": 68, "clothes": 80, "computer": 85, "cup": 104, "door": 115, "fence": 144,
    "floor": 158, "flower": 159, "food": 162, "grass": 187, "ground": 189, "keyboard": 220, "light": 232,
    "mountain": 259, "mouse": 260, "curtain": 105, "platform": 296, "sign": 355, "plate": 295, "road": 324, "rock": 326,
    "shelves": 349, "sidewalk": 354, "sky": 360, "snow": 366, "bedcloth": 19, "track": 415, "tree": 420, "truck": 424,
    "wall": 440, "water": 445, "window": 454, "wood": 458,
}
# fmt: on
# Source: 33_labels.txt of the data set: VOC's 20 objects, and these.
CONTEXT_OF_33 = "sky grass ground road building tree water mountain wall floor track keyboard ceiling"
RAW_LABELS = 459
OBJECTS = 20


def labels_of(classes: str) -> LabelSet:
    """The label set of a task.

    Args:
        classes: `60` for the 59 classes with everything else as background, as the nets of the paper score; `59` and
            `33` for the classes alone, everything else ignored.

    Raises:
        FullyconvError: SEG-D025 for another task.
    """
    tasks = {
        "60": ("background", *CLASSES),
        "59": (*CLASSES,),
        "33": (*list(CLASSES)[:OBJECTS], *CONTEXT_OF_33.split()),
    }
    if classes not in tasks:
        raise FullyconvError("SEG-D025", f"classes is {', '.join(tasks)}; got {classes!r}")
    names = tasks[classes]
    index_of = {CLASSES[name]: index for index, name in enumerate(names) if name in CLASSES}
    rest = 0 if classes == "60" else 255
    return LabelSet(names, table=tuple((raw, index_of.get(raw, rest)) for raw in range(RAW_LABELS + 1)))


def recognise(root: Path) -> bool:
    """Whether the folder, its VOC2010/ or VOCdevkit/VOC2010/ holds JPEGImages/, and it or any folder in it
    trainval/*.mat."""
    return _photographs(root) is not None and _annotation(root) is not None


def read(root: Path, *, classes: str = "60") -> Dataset:
    """The pairs of ImageSets/Main/train.txt and val.txt; without lists, all as train.

    Args:
        root: The folder.
        classes: 60 (59 and background), 59 or 33, as in `labels_of`.
    """
    labels = labels_of(classes)
    year, annotation = _photographs(root), _annotation(root)
    if year is None or annotation is None:
        raise FullyconvError("SEG-D003", f"{root} holds no JPEGImages/ of VOC2010 together with trainval/*.mat")
    lists = {split: year / "ImageSets" / "Main" / f"{split}.txt" for split in ("train", "val")}
    names = {split: [name_in(entry[0]) for entry in read_list(path)] for split, path in lists.items() if path.is_file()}
    splits = {
        split: distinct(Pair(name, year / "JPEGImages" / f"{name}.jpg", annotation / f"{name}.mat") for name in listed)
        for split, listed in (names or {"train": [path.stem for path in files_in(annotation, {".mat"})]}).items()
    }
    notes = () if names else ("there are no lists in ImageSets/Main, so that all pairs are in train",)
    return Dataset("pascal_context", root, labels, splits, notes)


def _photographs(root: Path) -> Path | None:
    years = (root, root / "VOC2010", root / "VOCdevkit" / "VOC2010")
    return next((year for year in years if (year / "JPEGImages").is_dir()), None)


def _annotation(root: Path) -> Path | None:
    folders = [root / "trainval", *root.glob("*/trainval"), *root.glob("VOCdevkit/*/trainval")]
    return next((folder for folder in folders if next(folder.glob("*.mat"), None)), None)


LAYOUT = Layout(
    "VOC2010/JPEGImages/, VOC2010/ImageSets/Main/ and trainval/*.mat (PASCAL-Context, 59 classes and background)",
    recognise,
    read,
    options=("classes",),
)
