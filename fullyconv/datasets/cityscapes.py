"""Cityscapes: leftImg8bit/SPLIT/CITY/ and gtFine/SPLIT/CITY/."""

from pathlib import Path

from fullyconv.datasets.dataset import SPLITS, Dataset, Layout, Pair, distinct
from fullyconv.errors import FullyconvError
from fullyconv.labels import LabelSet

# Source: the official table of labels (cityscapesScripts, helpers/labels.py): id of each training class, its colour.
CLASSES = {
    "road": (7, (128, 64, 128)),
    "sidewalk": (8, (244, 35, 232)),
    "building": (11, (70, 70, 70)),
    "wall": (12, (102, 102, 156)),
    "fence": (13, (190, 153, 153)),
    "pole": (17, (153, 153, 153)),
    "traffic light": (19, (250, 170, 30)),
    "traffic sign": (20, (220, 220, 0)),
    "vegetation": (21, (107, 142, 35)),
    "terrain": (22, (152, 251, 152)),
    "sky": (23, (70, 130, 180)),
    "person": (24, (220, 20, 60)),
    "rider": (25, (255, 0, 0)),
    "car": (26, (0, 0, 142)),
    "truck": (27, (0, 0, 70)),
    "bus": (28, (0, 60, 100)),
    "train": (31, (0, 80, 100)),
    "motorcycle": (32, (0, 0, 230)),
    "bicycle": (33, (119, 11, 32)),
}
ID_COUNT = 34
IMAGE_END = "_leftImg8bit.png"
IDS_END = "_gtFine_labelIds.png"
TRAIN_IDS_END = "_gtFine_labelTrainIds.png"


def label_ids() -> LabelSet:
    """The 19 training classes, for masks that hold the 34 ids of the annotation; the other 15 are ignored."""
    index_of = {number: index for index, (number, _) in enumerate(CLASSES.values())}
    ids = ((number, index_of.get(number, 255)) for number in range(ID_COUNT))
    return LabelSet(tuple(CLASSES), _colors(), (*ids, (255, 255)))


def train_ids() -> LabelSet:
    """The 19 training classes, for masks that hold 0 ... 18 already and 255 where ignored."""
    return LabelSet(tuple(CLASSES), _colors())


def recognise(root: Path) -> bool:
    """Whether there are leftImg8bit/ and gtFine/."""
    return (root / "leftImg8bit").is_dir() and (root / "gtFine").is_dir()


def read(root: Path) -> Dataset:
    """The pairs of train, val and test; labelIds if an image has them, else labelTrainIds."""
    images = {split: sorted((root / "leftImg8bit" / split).glob(f"*/*{IMAGE_END}")) for split in SPLITS}
    if not any(images.values()):
        raise FullyconvError("SEG-D003", f"{root} holds no leftImg8bit/SPLIT/CITY/*{IMAGE_END}")
    every = [path for paths in images.values() for path in paths]
    ends = [IDS_END, TRAIN_IDS_END]
    counts = {end: sum(_mask(root, path, end).is_file() for path in every) for end in ends}
    if not any(counts.values()):
        example = _mask(root, every[0], IDS_END)
        raise FullyconvError("SEG-D003", f"{len(every)} images, but none has a mask such as {example}")
    end = max(ends, key=lambda end: counts[end])
    splits = {
        split: distinct(Pair(path.name.removesuffix(IMAGE_END), path, _mask(root, path, end)) for path in paths)
        for split, paths in images.items()
        if paths
    }
    notes = () if end == IDS_END else ("there are no labelIds, so that labelTrainIds were read",)
    return Dataset("cityscapes", root, label_ids() if end == IDS_END else train_ids(), splits, notes)


def _mask(root: Path, image: Path, end: str) -> Path:
    city = image.parent
    return root / "gtFine" / city.parent.name / city.name / (image.name.removesuffix(IMAGE_END) + end)


def _colors() -> tuple[tuple[int, int, int], ...]:
    return tuple(color for _, color in CLASSES.values())


LAYOUT = Layout("leftImg8bit/SPLIT/CITY/ and gtFine/SPLIT/CITY/ (Cityscapes)", recognise, read)
