"""Write a cleaned copy of a data set: index masks, one classes.json, and no pair that cannot be used."""

import csv
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fullyconv.datasets import Dataset, Pair
from fullyconv.datasets.classes import lie_apart
from fullyconv.doctor.observation import Observation, observe, splits_once
from fullyconv.errors import FullyconvError
from fullyconv.images import TURNS, read_mask, write_mask
from fullyconv.labels import LabelSet, Raw
from fullyconv.wording import counted, shortened
from fullyconv.writing import whole

Array = np.ndarray[Any, Any]

MANY_STRAYS = 16
SMALL_SHARE = 0.2


def write_cleaned(dataset: Dataset, out: Path) -> tuple[str, ...]:
    """Write the pairs that can be used to a new folder: images/SPLIT/, masks/SPLIT/, classes.json and manifest.csv.

    Further pictures of a scene come to more1/SPLIT/, more2/SPLIT/, ... What belongs together, and to which split, is
    read from the manifest: names alone would not tell a split of any name, nor a name that holds folders.

    Values that no class stands for become the nearest class where smoothing made them, else ignored; masks of 0 and 255
    become background and foreground; masks that lost their image's EXIF turn are turned.

    Returns:
        What was done, in sentences.

    Raises:
        FullyconvError: SEG-D023 if the folder is not empty, or the one you are in, or two pairs would be written to one
            file.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FullyconvError("SEG-D023", f"{out} exists and is not empty; name a folder that does not exist yet")
    if out.resolve() == Path.cwd():
        raise FullyconvError("SEG-D023", f"{out} is the folder that you are in; name one that does not exist yet")
    observations = observe(dataset, splits_once(dataset), None)
    labels = mended_labels(dataset.labels, total_counts(observations))
    with whole(out) as draft:
        draft.mkdir()
        usable = [_write_pair(one, labels, draft) for one in observations]
        kept = list(compress(observations, usable))
        _write_manifest(kept, draft)
        plain = LabelSet(labels.names, labels.colors, ignore_index=labels.ignore_index)
        (draft / "classes.json").write_text(json.dumps(plain.to_dict(), indent=1))
    left_out = [one.pair for one, written in zip(observations, usable, strict=True) if not written]
    notes = [
        f"{out} is a cleaned copy of {dataset.root}: {counted(len(kept), 'pair')}, masks as index PNGs, classes in "
        "classes.json"
    ]
    if left_out:
        names = shortened([pair.name for pair in left_out])
        notes.append(f"{counted(len(left_out), 'pair')} beyond mending, left out: {names}")
    return tuple(notes)


def total_counts(observations: Iterable[Observation]) -> Counter[Raw]:
    """Pixels of each raw value or colour in all the masks examined."""
    total = Counter[Raw]()
    for one in observations:
        total.update(one.counts)
    return total


def mended_labels(labels: LabelSet, counts: Mapping[Raw, int]) -> LabelSet:
    """The label set whose table knows every raw value that was counted."""
    if reads_foreground_as_ignored(labels, counts):
        kept = tuple((raw, index) for raw, index in labels.table if raw != 255)
        labels = replace(labels, table=(*kept, (255, 1)))
    known = dict(labels.table)
    alike = tuple if labels.coded_by_color else int
    strays = {raw: count for raw, count in counts.items() if raw not in known and isinstance(raw, alike)}
    share = sum(strays.values()) / max(1, sum(counts.values()))
    smoothed = is_smoothed(labels, strays, share)
    extra = tuple((raw, known[nearest_raw(raw, known)] if smoothed else labels.ignore_index) for raw in strays)
    return replace(labels, table=(*labels.table, *extra))


def reads_foreground_as_ignored(labels: LabelSet, counts: Mapping[Raw, int]) -> bool:
    """Whether masks for two classes hold 0 and 255 alone, and 255 is ignored or unknown."""
    ignored = dict(labels.table).get(255, labels.ignore_index) == labels.ignore_index
    return len(labels) == 2 and ignored and 255 in counts and counts.keys() <= {0, 255}


def is_smoothed(labels: LabelSet, strays: Mapping[Raw, int], share: float) -> bool:
    """Whether unknown values look like the work of smoothing: many of them in few pixels, between codes that lie so
    far apart that the nearest one means something."""
    values = sorted(raw for raw, _ in labels.table if isinstance(raw, int))
    return len(strays) > MANY_STRAYS and share < SMALL_SHARE and (labels.coded_by_color or lie_apart(values))


def nearest_raw(raw: Raw, known: Mapping[Raw, int]) -> Raw:
    """The known value or colour at the smallest distance."""
    own = np.atleast_1d(raw)
    return min(known, key=lambda other: int(((np.atleast_1d(other) - own) ** 2).sum()))


def _copy_of(one: Observation) -> Pair:
    """Where the files of a pair come to stand, relative to the copy."""
    pair = one.pair
    return Pair(
        pair.name,
        Path("images", one.split, f"{pair.name}{pair.image.suffix}"),
        Path("masks", one.split, f"{pair.name}.png") if pair.mask else None,
        tuple(
            Path(f"more{number}", one.split, f"{pair.name}{path.suffix}")
            for number, path in enumerate(pair.more, start=1)
        ),
    )


def _write_manifest(kept: Iterable[Observation], out: Path) -> None:
    with (out / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "mask", "split", "more"])
        for one in kept:
            copy = _copy_of(one)
            more = ";".join(path.as_posix() for path in copy.more)
            writer.writerow([copy.image.as_posix(), copy.mask.as_posix() if copy.mask else "", one.split, more])


def _write_pair(one: Observation, labels: LabelSet, out: Path) -> bool:
    """Write one pair; False if it cannot be used."""
    pair = one.pair
    known = {raw for raw, _ in labels.table}
    unlike = (one.differs_in_size and not one.lost_turn) or one.unlike_pictures
    if one.missing or one.faults or unlike or not one.counts.keys() <= known:
        return False
    copy = _copy_of(one)
    for source, target in zip(pair.pictures, copy.pictures, strict=True):
        (out / target).parent.mkdir(parents=True, exist_ok=True)
        _link(source, out / target)
    if pair.mask is not None and copy.mask is not None:
        (out / copy.mask).parent.mkdir(parents=True, exist_ok=True)
        write_mask(out / copy.mask, _mended(one, pair.mask, labels), labels)
    return True


def _mended(one: Observation, path: Path, labels: LabelSet) -> Array:
    mask = read_mask(path, labels).numpy()
    if one.headers is None or not one.lost_turn:
        return mask
    image, _ = one.headers
    return np.array(Image.fromarray(mask).transpose(TURNS[image.orientation]))


def _link(source: Path, target: Path) -> None:
    """A hard link, or a copy where the disk has none; never over a file, which may be a link to another original."""
    if target.exists():
        raise FullyconvError("SEG-D023", f"{source} and another image would both be written to {target.name}")
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
