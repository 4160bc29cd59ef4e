"""ADE20K for scene parsing: images/ and annotations/ with training/ and validation/, 150 classes, 0 is void."""

from pathlib import Path

from fullyconv.datasets.dataset import SPLIT_WORDS, SPLITS, Dataset, Layout, Pair, distinct, files_in, masks_in
from fullyconv.errors import FullyconvError
from fullyconv.labels import LabelSet

# Source: objectInfo150.txt of the SceneParsing benchmark, the first synonym of each.
NAMES = (
    "wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door, "
    "table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, "
    "armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, "
    "chest of drawers, counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, "
    "case, pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, "
    "book, hill, bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, "
    "hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth, television, airplane, dirt "
    "track, apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, "
    "conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, "
    "cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher, screen, "
    "blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen, plate, monitor, "
    "bulletin board, shower, radiator, glass, clock, flag"
)
LABELS = LabelSet(tuple(NAMES.split(", ")), table=((0, 255), *((index + 1, index) for index in range(150))))


def recognise(root: Path) -> bool:
    """Whether the folder or its ADEChallengeData2016/ holds images/ and annotations/ with files named ADE_*."""
    home = _home(root)
    if not ((home / "images").is_dir() and (home / "annotations").is_dir()):
        return False
    return any(path.stem.startswith("ADE_") for folder in _folders(home) for path in files_in(folder)[:1])


def read(root: Path) -> Dataset:
    """The pairs of training and validation, by sub-folder, or by the file names ADE_train_* and ADE_val_*."""
    home = _home(root)
    splits: dict[str, list[Pair]] = {split: [] for split in SPLITS}
    for folder in _folders(home):
        masks = masks_in(home / "annotations" / folder.relative_to(home / "images"))
        for image in files_in(folder):
            words = (folder.name, *image.stem.split("_"))
            split = next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), "train")
            missing = home / "annotations" / folder.relative_to(home / "images") / f"{image.stem}.png"
            splits[split].append(Pair(image.stem, image, masks.get(image.stem, missing) if masks else None))
    found = {split: distinct(pairs) for split, pairs in splits.items() if pairs}
    if not found:
        raise FullyconvError("SEG-D003", f"{root} holds no pictures in images/, images/training/ or images/validation/")
    return Dataset("ade20k", root, LABELS, found)


def _home(root: Path) -> Path:
    inner = root / "ADEChallengeData2016"
    return inner if inner.is_dir() else root


def _folders(home: Path) -> list[Path]:
    return [home / "images", *(home / "images" / name for name in ("training", "validation"))]


LAYOUT = Layout("images/ and annotations/ with training/ and validation/ (ADE20K, 150 classes)", recognise, read)
