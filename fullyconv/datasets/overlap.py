"""Which images two sets of pairs share: a score on images that were trained on flatters.

Files of equal content are one image. Of collections whose names are those of the photographs, so are files of one name,
however they are encoded: PASCAL-Context and SBD annotate the images of PASCAL VOC.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any

from fullyconv.datasets.dataset import Dataset, Pair
from fullyconv.errors import FullyconvError
from fullyconv.wording import counted, shortened

# The collection whose photographs a layout keeps; folders of one's own number their images as they like.
COLLECTIONS = {
    **dict.fromkeys(("voc", "sbd", "pascal_context"), "PASCAL VOC"),
    **{layout: layout for layout in ("ade20k", "camvid", "cityscapes", "nyud", "siftflow")},
}
BEGINNING = 65536  # bytes that tell most images of equal length apart
HASH_BYTES = 5  # a chance of 1e-5 that any of 1,449 images agrees with any of 8,498 others
CURES = {
    "PASCAL VOC": "sbd:SBD?voc=VOC2011 has the paper's seg11valid, the images of VOC's val that are not in SBD's train"
}


@dataclass(frozen=True)
class Seen:
    """Which images a model was trained on, in short hashes: enough to know them again, too little to show them.

    Args:
        collection: Of `COLLECTIONS`; empty if names tell nothing.
        names: Hashes of the files' names without suffix; none without a collection.
        contents: Hashes of the files.
    """

    collection: str
    names: frozenset[str]
    contents: frozenset[str]

    @classmethod
    def of(cls, dataset: Dataset) -> "Seen":
        """The images of a data set's train split."""
        collection = COLLECTIONS.get(dataset.layout, "")
        files = [pair.image for pair in dataset.pairs("train")]
        names = frozenset(_name(file) for file in files) if collection else frozenset()
        return cls(collection, names, frozenset(map(_content, files)))

    def among(self, dataset: Dataset, split: str) -> list[Pair]:
        """The pairs of a split whose images were seen."""
        by_name = self.collection == COLLECTIONS.get(dataset.layout)
        there = (pair for pair in dataset.pairs(split) if pair.image.is_file())
        return [
            pair
            for pair in there
            if (by_name and _name(pair.image) in self.names) or _content(pair.image) in self.contents
        ]

    def to_json(self) -> dict[str, str]:
        """Plain values: the hashes as one text each."""
        names, contents = ("".join(sorted(hashes)) for hashes in (self.names, self.contents))
        return {"collection": self.collection, "names": names, "contents": contents}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Seen":
        """What `to_json` gave."""
        return cls(values["collection"], _hashes_in(values["names"]), _hashes_in(values["contents"]))


def shared(first: Sequence[Pair], second: Sequence[Pair], *, by_name: bool = False) -> list[tuple[Pair, Pair]]:
    """The images of the second that are in the first, each with its like there.

    Args:
        first: Pairs whose image files exist.
        second: The same.
        by_name: Whether files of one name are one image.
    """
    groups: Iterable[tuple[list[Pair], list[Pair]]] = [(list(first), list(second))]
    for trait in (_length, _beginning, _content):  # only files of equal length and beginning are read whole
        groups = [alike for group in groups for alike in _alike(group, trait)]
    likes = {pair: ones[0] for ones, others in groups for pair in others}
    if by_name:
        named = {pair.image.stem: pair for pair in first}
        likes = {pair: named[pair.image.stem] for pair in second if pair.image.stem in named} | likes
    return [(likes[pair], pair) for pair in second if pair in likes]


def same_collection(first: Dataset, second: Dataset) -> bool:
    """Whether files of one name in the two are one image."""
    collection = COLLECTIONS.get(first.layout)
    return collection is not None and collection == COLLECTIONS.get(second.layout)


def validated_on(dataset: Dataset, other: Dataset) -> Dataset:
    """The data set with another's val split in place of its own.

    A val that was taken from train goes back there; and where that is so in the other, all of it is val.

    Raises:
        FullyconvError: SEG-T020 if they share images, SEG-T021 if their masks do not mean the same.
    """
    regrouped = dataset.val_from_train or other.val_from_train
    dataset, other = dataset.undivided("train"), other.undivided("val")
    if [_meaning(head) for head in (dataset, *dataset.also)] != [_meaning(head) for head in (other, *other.also)]:
        raise FullyconvError(
            "SEG-T021",
            f"the masks of {other} do not mean what those of {dataset} do: their classes are "
            f"{shortened(other.labels.names)}, and those to train on are {shortened(dataset.labels.names)}; "
            "give both the same classes.json",
        )
    train, val = (
        [pair for pair in pairs if pair.image.is_file()] for pairs in (dataset.pairs("train"), other.pairs("val"))
    )
    both = shared(train, val, by_name=same_collection(dataset, other))
    if both:
        cure = CURES.get(COLLECTIONS.get(dataset.layout, ""), "take them out of one of the two")
        raise FullyconvError(
            "SEG-T020",
            f"{len(both)} of the {len(val)} images for validation in {other} are trained on, such as "
            f"{both[0][1].name}, and the scores would flatter; {cure}",
        )
    also = tuple(
        replace(head, splits={**head.splits, "val": others.pairs("val")})
        for head, others in zip(dataset.also, other.also, strict=True)
    )
    told = f"{counted(len(train), 'pair')} of {dataset} are trained on, {len(val)} of {other} are validated on"
    notes = (*dataset.notes, told) if regrouped else dataset.notes
    return replace(dataset, splits={**dataset.splits, "val": other.pairs("val")}, notes=notes, also=also)


def _meaning(dataset: Dataset) -> Hashable:
    labels = dataset.labels
    return labels.names, labels.table, labels.ignore_index


def _alike(
    group: tuple[list[Pair], list[Pair]], trait: Callable[[Path], Hashable]
) -> Iterator[tuple[list[Pair], list[Pair]]]:
    """The pairs of both sides that share a trait of their images, for each trait that both sides have."""
    sides: dict[Hashable, tuple[list[Pair], list[Pair]]] = defaultdict(lambda: ([], []))
    for side, pairs in enumerate(group):
        for pair in pairs:
            sides[trait(pair.image)][side].append(pair)
    return ((ones, others) for ones, others in sides.values() if ones and others)


def _length(file: Path) -> int:
    return file.stat().st_size


def _beginning(file: Path) -> bytes:
    with file.open("rb") as opened:
        return blake2b(opened.read(BEGINNING)).digest()


def _content(file: Path) -> str:
    with file.open("rb") as opened:
        return file_digest(opened, lambda: blake2b(digest_size=HASH_BYTES)).hexdigest()


def _name(file: Path) -> str:
    return blake2b(file.stem.encode(), digest_size=HASH_BYTES).hexdigest()


def _hashes_in(text: str) -> frozenset[str]:
    return frozenset(text[start : start + 2 * HASH_BYTES] for start in range(0, len(text), 2 * HASH_BYTES))
