"""The dataset doctor: what is wrong with a data set, how many files it concerns, and the fix."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from fullyconv.datasets import Dataset, Pair, open_dataset
from fullyconv.datasets.classes import hexadecimal
from fullyconv.datasets.dataset import SPLITS
from fullyconv.datasets.overlap import same_collection, shared
from fullyconv.doctor.examination import Examination, Finding
from fullyconv.doctor.mending import is_smoothed, reads_foreground_as_ignored, total_counts, write_cleaned
from fullyconv.doctor.observation import Observation, observe, splits_once
from fullyconv.images import Header
from fullyconv.labels import LabelSet, Raw
from fullyconv.wording import counted, shortened

__all__ = ["Examination", "Finding", "check", "examine"]

CHECK_LIMIT = 2000
FEW_TRAIN, FEW_VAL = 20, 5
# Annotators' masks have at most 0.03, the same masks resized bilinearly at least 0.32 (eight real sets).
BETWEEN_LIMIT = 0.15
FIX = "fullyconv check DATA --fix DIR"


def check(data: str, *, fix: Path | None = None) -> Examination:
    """Say what is wrong with a data set's images and masks, and how to mend it.

    Args:
        data: A folder whose layout is recognised, LAYOUT:PATH, or a manifest.
        fix: Write a cleaned copy to this new folder: masks as index PNGs with their classes in classes.json, images
            linked where the disk allows it, pairs and splits in manifest.csv. Pairs beyond mending are left out.

    Returns:
        What was found; with `fix`, what was found in the copy.

    Example:
        fullyconv check data/ --fix data-clean/
    """
    dataset = open_dataset(data)
    if fix is None:
        return examine(dataset, splits=splits_once(dataset), limit=CHECK_LIMIT)
    notes = write_cleaned(dataset, fix)
    copy = open_dataset(f"manifest:{fix}")
    return examine(copy, splits=splits_once(copy), limit=CHECK_LIMIT).with_notes(*notes)


def examine(dataset: Dataset, *, splits: Sequence[str] | None = None, limit: int | None = 200) -> Examination:
    """The state of a data set: every pair's files and sizes, and the pixels of some.

    Args:
        dataset: What to examine.
        splits: Which splits; those that do not exist are passed over. train, val and test if left out.
        limit: How many evenly spaced pairs are decoded; None for all.
    """
    usual = [split for split in splits or SPLITS if split in dataset.splits]
    names = usual or list(dataset.splits)
    observations = observe(dataset, names, limit)
    examined = [one for one in observations if one.counts]
    errors = (
        *_missing(dataset, observations),
        *_undecodable(dataset, observations),
        *_unlike_sizes(dataset, observations),
        *_unlike_pictures(dataset, observations),
        *_illegal_values(dataset, examined),
        *_trained_on(dataset),
    )
    classes = _classes(dataset.labels, examined)
    warnings = (
        *_coded_notes(dataset),
        *_turned(dataset, observations),
        *_smoothed(dataset, examined),
        *_empty_classes(dataset, classes, examined, observations),
        *_all_ignored(dataset, examined),
        *_duplicates(dataset, observations),
        *_mixed_channels(dataset, observations),
        *_tiny(dataset),
    )
    return Examination(
        title=f"{dataset.layout} at {dataset.root}",
        splits={split: len(pairs) for split, pairs in dataset.splits.items()},
        classes=classes,
        examined=len(examined),
        masks=sum(one.pair.mask is not None for one in observations),
        errors=errors,
        warnings=warnings,
        notes=tuple(note for note in dataset.notes if not note.startswith("SEG-")),
    )


def _missing(dataset: Dataset, observations: Sequence[Observation]) -> Iterable[Finding]:
    files = [path for one in observations for path in one.missing]
    if files:
        where = _relative(dataset, files[0])
        told = f"{where} is listed, but is not there; {counted(len(files), 'listed file')} missing in all"
        cure = f"add the files, take them off the list, or {FIX} leaves them out"
        yield _finding(dataset, "SEG-D021", files, told, cure)


def _undecodable(dataset: Dataset, observations: Sequence[Observation]) -> Iterable[Finding]:
    by_code = defaultdict(list)
    for one in observations:
        for path, fault in one.faults:
            by_code[fault.code].append((path, fault))
    for code, faults in by_code.items():
        _, fault = faults[0]
        more = f" ({len(faults)} such files)" if len(faults) > 1 else ""
        cure = f"copy the file anew; or {FIX} leaves such pairs out"
        yield _finding(dataset, code, [path for path, _ in faults], fault.message + more, cure)


def _unlike_sizes(dataset: Dataset, observations: Sequence[Observation]) -> Iterable[Finding]:
    unlike = [one for one in observations if one.differs_in_size]
    for group in ([one for one in unlike if one.lost_turn], [one for one in unlike if not one.lost_turn]):
        if not group or group[0].headers is None:
            continue
        image, mask = group[0].headers
        where = _relative(dataset, group[0].mask_path)
        counted = f"{len(group)} of {len(observations)} pairs are unlike"
        told = f"{where} is {_size(mask)} pixels, its image {_size(image)}; {counted}"
        if group[0].lost_turn:
            told += f". The image lies on its side by EXIF (Orientation {image.orientation}), the mask does not"
            cure = f"{FIX} turns such masks"
        else:
            cure = (
                f"export the masks at the image's size with nearest-neighbour sampling; or {FIX} leaves such pairs out"
            )
        yield _finding(dataset, "SEG-D008", [one.mask_path for one in group], told, cure)


def _unlike_pictures(dataset: Dataset, observations: Sequence[Observation]) -> Iterable[Finding]:
    unlike = [one for one in observations if one.unlike_pictures]
    if unlike and unlike[0].image is not None:
        path = unlike[0].unlike_pictures[0]
        told = (
            f"{_relative(dataset, path)} is {_size(unlike[0].more[path])} pixels, its image {_size(unlike[0].image)}; "
            f"{len(unlike)} of {len(observations)} scenes are unlike"
        )
        cure = f"export the pictures of a scene at one size, pixel upon pixel; or {FIX} leaves such scenes out"
        yield _finding(dataset, "SEG-D030", [path for one in unlike for path in one.unlike_pictures], told, cure)


def _size(header: Header) -> str:
    """Width and height as people say them."""
    return f"{header.size[1]}x{header.size[0]}"


def _illegal_values(dataset: Dataset, examined: Sequence[Observation]) -> Iterable[Finding]:
    """SEG-D012 for foreground that is ignored, SEG-D013 for the values of smoothing, else SEG-D010."""
    if not examined:
        return
    if reads_foreground_as_ignored(dataset.labels, total_counts(examined)):
        yield _foreground_ignored(dataset, examined)
        return
    known = {raw for raw, _ in dataset.labels.table}
    broken = [one for one in examined if not one.counts.keys() <= known]
    if not broken:
        return
    strays = Counter({raw: count for raw, count in total_counts(broken).items() if raw not in known})
    share = strays.total() / sum(total_counts(examined).values())
    where = _relative(dataset, broken[0].mask_path)
    worst = shortened([f"{shown(raw)} ({counted(count, 'pixel')})" for raw, count in strays.most_common()])
    kind = "colours" if any(isinstance(raw, tuple) for raw in strays) else "values"
    told = (
        f"{where} holds {kind} that no class stands for, as do {len(broken)} of {len(examined)} masks: {worst}; "
        f"{share:.2%} of all pixels"
    )
    files = [one.mask_path for one in broken]
    if is_smoothed(dataset.labels, strays, share):
        cure = f"export the masks without smoothing; or {FIX} gives each such pixel its nearest class"
        yield _finding(dataset, "SEG-D013", files, f"{told}, as smoothing or JPEG leaves them", cure)
    else:
        cure = f"add them to classes.json; or {FIX} writes a copy in which they are ignored"
        yield _finding(dataset, "SEG-D010", files, told, cure)


def _foreground_ignored(dataset: Dataset, examined: Sequence[Observation]) -> Finding:
    holding = [one for one in examined if 255 in one.counts]
    one = holding[0]
    where = _relative(dataset, one.mask_path)
    share = one.counts[255] / sum(one.counts.values())
    name = dataset.labels.names[1]
    return _finding(
        dataset,
        "SEG-D012",
        [one.mask_path for one in holding],
        f"{where} holds 255 in {share:.0%} of its pixels, as do {len(holding)} of {len(examined)} masks, and no mask "
        f'holds 1. 255 is ignored, so class 1 ("{name}") would never be trained',
        f"if 255 is {name}, {FIX} writes masks that say so",
    )


def _in_train_and_val(dataset: Dataset) -> list[Path]:
    train = {pair.image for pair in dataset.splits.get("train", ())}
    return [pair.image for pair in dataset.splits.get("val", ()) if pair.image in train]


def _trained_on(dataset: Dataset) -> Iterable[Finding]:
    both = _in_train_and_val(dataset)
    if both:
        told = (
            f"{_relative(dataset, both[0])} is listed in train and in val, as are {len(both)} of the "
            f"{len(dataset.pairs('val'))} images of val; scores on them would flatter"
        )
        cure = "take them off one of the lists, or name splits that share none: LAYOUT:PATH?train=NAME&val=NAME"
        yield _finding(dataset, "SEG-T020", both, told, cure)


def _coded_notes(dataset: Dataset) -> Iterable[Finding]:
    """What the reader of the layout noted with a code."""
    for note in dataset.notes:
        code, _, message = note.partition("  ")
        if code.startswith("SEG-"):
            files = dataset.unpaired if code == "SEG-D021" else [dataset.root]
            yield _finding(dataset, code, files, message, CURES[code])


CURES = {
    "SEG-D013": f"{FIX} writes masks of two values",
    "SEG-D014": "correct the classes file, so that classes get their names",
    "SEG-D021": "add the missing files, or delete those without a partner",
}


def _turned(dataset: Dataset, observations: Sequence[Observation]) -> Iterable[Finding]:
    """Pairs whose sizes agree although only one of them is turned, in a way that sizes cannot tell."""
    doubtful = [one for one in observations if _may_be_turned(one)]
    if doubtful and doubtful[0].headers is not None:
        image, mask = doubtful[0].headers
        where = _relative(dataset, doubtful[0].pair.image)
        told = (
            f"{where} has the EXIF orientation {image.orientation}, its mask {mask.orientation}; {len(doubtful)} of "
            f"{len(observations)} pairs are like that, and the masks may be turned against the images"
        )
        cure = "look at one such pair; if it is turned, write the images anew without the tag"
        yield _finding(dataset, "SEG-D017", [one.pair.image for one in doubtful], told, cure)


def _may_be_turned(one: Observation) -> bool:
    """Whether only one of image and mask is turned, in a way that sizes cannot tell.

    A mask drawn on the upright picture needs no tag. A turn to the side shows in the sizes, unless they are square.
    """
    if one.headers is None or one.differs_in_size:
        return False
    image, mask = one.headers
    sideways = max(image.orientation, mask.orientation) >= 5
    return image.orientation != mask.orientation and (not sideways or image.size[0] == image.size[1])


def _smoothed(dataset: Dataset, examined: Sequence[Observation]) -> Iterable[Finding]:
    resampled = sorted(
        (one for one in examined if one.between > BETWEEN_LIMIT), key=lambda one: one.between, reverse=True
    )
    if resampled:
        one = resampled[0]
        where = _relative(dataset, one.mask_path)
        told = (
            f"{where} looks resampled: at {one.between:.0%} of its class borders lies a pixel of a value in between; "
            f"{len(resampled)} of {len(examined)} masks are like that"
        )
        cure = "export the masks again with nearest-neighbour sampling; wrong classes along borders cannot be mended"
        yield _finding(dataset, "SEG-D013", [one.mask_path for one in resampled], told, cure)


def _classes(labels: LabelSet, examined: Sequence[Observation]) -> tuple[dict[str, Any], ...]:
    class_of = dict(labels.table)
    pixels, images = Counter[int](), Counter[int]()
    for one in examined:
        held = Counter[int]()
        for raw, count in one.counts.items():
            held[class_of.get(raw, labels.ignore_index)] += count
        pixels.update(held)
        images.update(held.keys())
    return tuple(
        {"name": name, "pixels": pixels[index], "images": images[index]} for index, name in enumerate(labels.names)
    )


def _empty_classes(
    dataset: Dataset,
    classes: Sequence[dict[str, Any]],
    examined: Sequence[Observation],
    observations: Sequence[Observation],
) -> Iterable[Finding]:
    empty = [entry["name"] for entry in classes if not entry["pixels"]]
    if examined and empty:
        looked = "the masks" if len(examined) == len(observations) else f"the {len(examined)} masks examined"
        told = f"{len(empty)} of {len(classes)} classes occur in none of {looked}: {shortened(empty, 6)}"
        yield Finding(
            "SEG-D015",
            str(dataset.root),
            len(empty),
            told,
            "label some, or take the class out; as it is, it cannot be learnt, and its score is undefined",
        )


def _all_ignored(dataset: Dataset, examined: Sequence[Observation]) -> Iterable[Finding]:
    ignored = {raw for raw, index in dataset.labels.table if index == dataset.labels.ignore_index}
    blank = [one for one in examined if one.counts.keys() <= ignored]
    if blank:
        where = _relative(dataset, blank[0].mask_path)
        told = f"{where} holds nothing but ignored pixels, as do {len(blank)} of {len(examined)} masks"
        cure = "label the images, or take the pairs out"
        yield _finding(dataset, "SEG-D016", [one.mask_path for one in blank], told, cure)


def _duplicates(dataset: Dataset, observations: Sequence[Observation]) -> Iterable[Finding]:
    """Images that are in two splits."""
    members: dict[str, list[Pair]] = defaultdict(list)
    for one in observations:
        if one.image is not None:
            members[one.split].append(one.pair)
    by_name = same_collection(dataset, dataset)
    told_already = set(_in_train_and_val(dataset))
    doubles = {
        pair.image: (like, before, split)
        for before, split in combinations(members, 2)
        for like, pair in shared(members[before], members[split], by_name=by_name)
        if pair.image not in told_already
    }
    if doubles:
        image, (like, before, split) = next(iter(doubles.items()))
        where, other = _relative(dataset, image), _relative(dataset, like.image)
        told = (
            f"{where} ({split}) is the same picture as {other} ({before}); "
            f"{counted(len(doubles), 'picture')} in two splits, and scores on them flatter"
        )
        yield _finding(dataset, "SEG-D018", list(doubles), told, "take them out of one of the splits")


def _mixed_channels(dataset: Dataset, observations: Sequence[Observation]) -> Iterable[Finding]:
    read = [one for one in observations if one.image is not None]
    grey = [one for one in read if one.image and one.image.bands == 1]
    if 0 < len(grey) < len(read):
        rarer = grey if 2 * len(grey) <= len(read) else [one for one in read if one not in grey]
        where = _relative(dataset, rarer[0].pair.image)
        told = (
            f"{counted(len(grey), 'grey image')} beside {len(read) - len(grey)} in colour; {where} is one of the fewer"
        )
        cure = "nothing, if the images to come will be mixed, too"
        yield _finding(dataset, "SEG-D019", [one.pair.image for one in rarer], told, cure)


def _tiny(dataset: Dataset) -> Iterable[Finding]:
    counts = {split: len(pairs) for split, pairs in dataset.splits.items()}
    few = {"train": FEW_TRAIN, "val": FEW_VAL}
    short = [f"{split} has only {counts[split]}" for split, least in few.items() if counts.get(split, least) < least]
    if short:
        told = f"few pairs: {' and '.join(short)}; the scores will depend on chance"
        yield Finding(
            "SEG-D020", str(dataset.root), sum(counts.values()), told, "add images, or judge by several seeds"
        )


def shown(raw: Raw) -> str:
    """A raw value as people write it."""
    return hexadecimal(raw) if isinstance(raw, tuple) else str(raw)


def _finding(dataset: Dataset, code: str, paths: Sequence[Path], message: str, fix: str) -> Finding:
    """A finding about some files."""
    files = tuple(_relative(dataset, path) for path in paths)
    return Finding(code, files[0], len(files), message, fix, files)


def _relative(dataset: Dataset, path: Path) -> str:
    inside = path != dataset.root and path.is_relative_to(dataset.root)
    return str(path.relative_to(dataset.root)) if inside else str(path)
