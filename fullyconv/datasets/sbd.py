"""SBD, the Semantic Boundaries Dataset: img/, cls/ with .mat files, train.txt and val.txt."""

import re
from pathlib import Path

from fullyconv.datasets import voc as pascal_voc
from fullyconv.datasets.classes import find_classes_file
from fullyconv.datasets.dataset import Dataset, Layout, Pair, distinct, files_in, masks_in, split_lists
from fullyconv.errors import FullyconvError


def recognise(root: Path) -> bool:
    """Whether the folder, its dataset/ or its benchmark_RELEASE/dataset/ holds img/, and cls/ with .mat files, and no
    classes of the user's own."""
    home = _home(root)
    return home is not None and any((home / "cls").glob("*.mat")) and find_classes_file([root, home]) is None


def read(root: Path, *, voc: str | None = None) -> Dataset:
    """The pairs of train.txt and val.txt, whose classes are PASCAL VOC's; without lists, all pairs as train.

    Args:
        root: The folder.
        voc: A folder of PASCAL VOC, which adds the split on which the paper validates: the images of VOC's val that are
            not in SBD's train, with VOC's masks. It is named after the year: seg11valid for VOC2011.
    """
    home = _home(root)
    if home is None:
        raise FullyconvError("SEG-D003", f"{root} holds no img/ beside a cls/")
    images = {path.stem: path for path in files_in(home / "img")}
    masks = masks_in(home / "cls")
    names = split_lists(home)
    splits = {
        split: distinct(
            Pair(name, images.get(name, home / "img" / f"{name}.jpg"), masks.get(name, home / "cls" / f"{name}.mat"))
            for name in listed
        )
        for split, listed in (names or {"train": list(masks)}).items()
    }
    notes = () if names else ("there is no train.txt or val.txt, so that all pairs are in train",)
    if voc is not None:
        splits |= _unseen(pascal_voc.read(Path(voc)), splits.get("train", ()))
    return Dataset("sbd", root, pascal_voc.LABELS, splits, notes)


def _unseen(voc: Dataset, trained: tuple[Pair, ...]) -> dict[str, tuple[Pair, ...]]:
    names = {pair.name for pair in trained}
    pairs = tuple(pair for pair in voc.pairs("val") if pair.name not in names)
    year = re.fullmatch(r"VOC20(\d\d)", pairs[0].image.parents[1].name) if pairs else None
    return {f"seg{year[1] if year else ''}valid": pairs}


def _home(root: Path) -> Path | None:
    folders = (root, root / "dataset", root / "benchmark_RELEASE" / "dataset")
    return next((folder for folder in folders if (folder / "img").is_dir() and (folder / "cls").is_dir()), None)


LAYOUT = Layout("img/, cls/*.mat, train.txt and val.txt (SBD)", recognise, read, options=("voc",))
