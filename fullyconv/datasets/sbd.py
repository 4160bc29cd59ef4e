"""SBD, the Semantic Boundaries Dataset: img/, cls/ with .mat files, train.txt and val.txt."""

from pathlib import Path

from fullyconv.datasets.classes import find_classes_file
from fullyconv.datasets.dataset import SPLITS, Dataset, Layout, Pair, distinct, files_in, masks_in, name_in, read_list
from fullyconv.datasets.voc import LABELS
from fullyconv.errors import FullyconvError


def recognise(root: Path) -> bool:
    """Whether the folder, its dataset/ or its benchmark_RELEASE/dataset/ holds img/ and cls/, and no classes of the
    user's own."""
    home = _home(root)
    return home is not None and find_classes_file([root, home]) is None


def read(root: Path) -> Dataset:
    """The pairs of train.txt and val.txt, whose classes are PASCAL VOC's; without lists, all pairs as train."""
    home = _home(root)
    if home is None:
        raise FullyconvError("SEG-D003", f"{root} holds no img/ beside a cls/")
    images = {path.stem: path for path in files_in(home / "img")}
    masks = masks_in(home / "cls")
    lists = {split: home / f"{split}.txt" for split in SPLITS if (home / f"{split}.txt").is_file()}
    names = {split: [name_in(entry[0]) for entry in read_list(path)] for split, path in lists.items()}
    splits = {
        split: distinct(
            Pair(name, images.get(name, home / "img" / f"{name}.jpg"), masks.get(name, home / "cls" / f"{name}.mat"))
            for name in listed
        )
        for split, listed in (names or {"train": list(masks)}).items()
    }
    notes = () if names else ("there is no train.txt or val.txt, so that all pairs are in train",)
    return Dataset("sbd", root, LABELS, splits, notes)


def _home(root: Path) -> Path | None:
    folders = (root, root / "dataset", root / "benchmark_RELEASE" / "dataset")
    return next((folder for folder in folders if (folder / "img").is_dir() and (folder / "cls").is_dir()), None)


LAYOUT = Layout("img/, cls/*.mat, train.txt and val.txt (SBD)", recognise, read)
