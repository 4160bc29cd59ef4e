"""SIFT Flow: Images/, SemanticLabels/ and GeoLabels/; 33 semantic classes, and 3 geometric ones of the same images."""

from dataclasses import replace
from pathlib import Path

from fullyconv.datasets.dataset import Dataset, Layout, Pair, distinct, files_in, split_lists
from fullyconv.errors import FullyconvError
from fullyconv.labels import LabelSet

# Source: data/sift-flow/classes.txt of the authors' release. Semantic 0 and geometric -1 are void.
SEMANTIC = (
    "awning balcony bird boat bridge building bus car cow crosswalk desert door fence field grass moon mountain person "
    "plant pole river road rock sand sea sidewalk sign sky staircase streetlight sun tree window"
)
GEOMETRIC = "sky horizontal vertical"
SEMANTIC_LABELS = LabelSet(tuple(SEMANTIC.split()), table=((0, 255), *((index + 1, index) for index in range(33))))
GEOMETRIC_LABELS = LabelSet(tuple(GEOMETRIC.split()), table=((-1, 255), (0, 255), (1, 0), (2, 1), (3, 2)))

COLLECTION = "spatial_envelope_256x256_static_8outdoorcategories"
UNANNOTATED = frozenset({"highway_bost181", "street_urb506"})


def recognise(root: Path) -> bool:
    """Whether the folder holds Images/, SemanticLabels/ and GeoLabels/."""
    return all((root / part).is_dir() for part in ("Images", "SemanticLabels", "GeoLabels"))


def read(root: Path) -> Dataset:
    """The pairs of trainval.txt, train.txt, val.txt and test.txt; without lists, all as train.

    The data set is that of the semantic classes; `also` holds the geometric ones.
    """
    if not recognise(root):
        raise FullyconvError("SEG-D003", f"{root} holds no Images/, SemanticLabels/ and GeoLabels/")
    names, notes = _names(root)
    listed = {split: [name for name in members if name not in UNANNOTATED] for split, members in names.items()}
    left_out = sorted(UNANNOTATED & {name for members in names.values() for name in members})
    if left_out:
        notes.append(f"left out, for nobody has annotated them: {', '.join(left_out)}")
    geometric = Dataset("siftflow", root, GEOMETRIC_LABELS, _splits(root, listed, "GeoLabels"), name="geometric")
    semantic = Dataset("siftflow", root, SEMANTIC_LABELS, _splits(root, listed, "SemanticLabels"), name="semantic")
    return replace(semantic, notes=tuple(notes), also=(geometric,))


def _names(root: Path) -> tuple[dict[str, list[str]], list[str]]:
    names = split_lists(root)
    if names:
        return names, []
    note = "there is no trainval.txt or test.txt, as the authors' release has, so that all pairs are in train"
    return {"train": [path.stem for path in files_in(_inner(root / "Images"))]}, [note]


def _splits(root: Path, names: dict[str, list[str]], kind: str) -> dict[str, tuple[Pair, ...]]:
    images, masks = _inner(root / "Images"), _inner(root / kind)
    return {
        split: distinct(Pair(name, images / f"{name}.jpg", masks / f"{name}.mat") for name in members)
        for split, members in names.items()
    }


def _inner(folder: Path) -> Path:
    return folder / COLLECTION if (folder / COLLECTION).is_dir() else folder


LAYOUT = Layout(
    "Images/, SemanticLabels/, GeoLabels/, trainval.txt and test.txt (SIFT Flow, 33 and 3 classes)", recognise, read
)
