"""NYU Depth v2 as the authors keep it: data/images/, data/depth/ and data/hha/ beside segmentation/, 40 classes."""

from pathlib import Path

from fullyconv.datasets.dataset import Dataset, Layout, Pair, distinct, masks_in, split_lists
from fullyconv.errors import FullyconvError
from fullyconv.labels import LabelSet

# Source: data/nyud/classes.txt of the authors' release, the 40 classes of Gupta, Arbelaez and Malik 2013; 0 is void.
NAMES = (
    "wall, floor, cabinet, bed, chair, sofa, table, door, window, bookshelf, picture, counter, blinds, desk, shelves, "
    "curtain, dresser, pillow, mirror, floor mat, clothes, ceiling, books, refridgerator, television, paper, towel, "
    "shower curtain, box, whiteboard, person, night stand, toilet, sink, lamp, bathtub, bag, otherstructure, "
    "otherfurniture, otherprop"
)
LABELS = LabelSet(tuple(NAMES.split(", ")), table=((0, 255), *((index + 1, index) for index in range(40))))
INPUTS = {"color": "images", "depth": "depth", "hha": "hha"}


def recognise(root: Path) -> bool:
    """Whether the folder or its nyud/ holds segmentation/ beside data/images/."""
    return _home(root) is not None


def read(root: Path, *, inputs: str = "color") -> Dataset:
    """The pairs of train.txt, val.txt, trainval.txt and test.txt; without lists, all pairs as train.

    Args:
        root: The folder.
        inputs: Which pictures of a scene are read, with commas between: color, hha, or depth (16 bits, millimetres; as
            it is: a network whose band it is among `log_bands` takes its logarithm, as the authors do).
    """
    home = _home(root)
    if home is None:
        raise FullyconvError("SEG-D003", f"{root} holds no segmentation/ beside data/images/")
    wanted = inputs.split(",")
    if sorted(wanted) != sorted(set(wanted) & set(INPUTS)):
        raise FullyconvError("SEG-D025", f"inputs are some of {', '.join(INPUTS)}, each once; got {inputs!r}")
    names = split_lists(home)
    splits = {
        split: distinct(_pair(home, _file_name(name), [INPUTS[one] for one in wanted]) for name in listed)
        for split, listed in (names or {"train": list(masks_in(home / "segmentation"))}).items()
    }
    notes = () if names else ("there is no train.txt, val.txt or test.txt, so that all pairs are in train",)
    return Dataset("nyud", root, LABELS, splits, notes)


def _home(root: Path) -> Path | None:
    folders = (root, root / "nyud")
    parts = ("segmentation", "data/images")
    return next((folder for folder in folders if all((folder / part).is_dir() for part in parts)), None)


def _file_name(name: str) -> str:
    """The lists number the scenes, the files are named after the numbers."""
    return f"img_{name}" if name.isdigit() else name


def _pair(home: Path, name: str, folders: list[str]) -> Pair:
    image, *more = (home / "data" / folder / f"{name}.png" for folder in folders)
    return Pair(name, image, home / "segmentation" / f"{name}.mat", tuple(more))


LAYOUT = Layout(
    "data/images/, segmentation/*.mat, train.txt, val.txt, trainval.txt and test.txt (NYUDv2, 40 classes)",
    recognise,
    read,
    options=("inputs",),
)
