"""What a data set is: pairs of image and mask in splits, with their labels; and what its readers share."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import chain, count, takewhile
from pathlib import Path, PureWindowsPath

from fullyconv.errors import FullyconvError
from fullyconv.images import IMAGE_SUFFIXES, MASK_SUFFIXES
from fullyconv.labels import LabelSet

VAL_SHARE = 0.2
NO_VAL = "there is no val split"
SPLITS = ("train", "val", "test")
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Pair:
    """An image and its mask.

    Args:
        name: Unique within its split, without suffix; with slashes where only sub-folders keep names apart. A relative
            path, so that a copy may be named after it.
        image: The image file. A list may name files that do not exist; the doctor reports them.
        mask: The mask file; None for an image that nobody has labelled.
        more: Further pictures of the same scene, such as its depth. Their bands follow those of the image.
    """

    name: str
    image: Path
    mask: Path | None
    more: tuple[Path, ...] = ()

    @property
    def pictures(self) -> tuple[Path, ...]:
        """The image and the further pictures of its scene."""
        return (self.image, *self.more)


@dataclass(frozen=True)
class Dataset:
    """Pairs in splits, and what their masks mean.

    Args:
        layout: The key of `LAYOUTS` that read it.
        root: The folder or file that it was read from.
        labels: The classes, and which raw value or colour stands for which.
        splits: The pairs of each split, such as train, val and test.
        notes: What was inferred and not read, in sentences for the user.
        unpaired: Images without a mask and masks without an image, which are in no split.
        also: The same images under other labels, such as geometric classes beside semantic ones. Their pairs have the
            names of this one's; a network learns a further head from each.
        name: What the head that learns these labels is called; after the folder of the masks if left out.
        given: What `open_dataset` opened, such as `LAYOUT:PATH?option=value`.
        val_from_train: Whether its val was taken from its train, for want of one.
    """

    layout: str
    root: Path
    labels: LabelSet
    splits: dict[str, tuple[Pair, ...]]
    notes: tuple[str, ...] = ()
    unpaired: tuple[Path, ...] = ()
    also: tuple["Dataset", ...] = ()
    name: str = ""
    given: str = ""
    val_from_train: bool = False

    def __post_init__(self) -> None:
        for split, pairs in self.splits.items():
            names = [pair.name for pair in pairs]
            if len(set(names)) < len(names):
                twice = sorted(name for name, times in Counter(names).items() if times > 1)
                raise ValueError(f"pairs of a split must differ in name, but in {split} these repeat: {twice[:5]}")
            outside = [name for name in names if _leads_outside(name)]
            if _leads_outside(split):
                raise FullyconvError(
                    "SEG-D006",
                    f"{self} names a split {split!r}, and a folder of that name would lie outside a copy; call splits "
                    "train, val or the like",
                )
            if outside:
                raise ValueError(f"names of pairs are relative paths without .., got {outside[0]!r} in {split}")

    def __str__(self) -> str:
        """How a command names it, as far as that can be."""
        return self.given or str(self.root)

    @property
    def heads(self) -> dict[str, "Dataset"]:
        """The data set of each head that a network learns from it, by the head's name; itself first."""
        return {head.head: head for head in (self, *self.also)}

    @property
    def head(self) -> str:
        """The name of the head that learns these labels: letters, digits, - and _."""
        masks = [pair.mask.parent.absolute() for pairs in self.splits.values() for pair in pairs if pair.mask]
        folder = Path(os.path.commonpath(masks)).name if masks else ""
        return self.name or re.sub(r"[^\w-]+", "_", folder) or "labels"

    def pairs(self, split: str) -> tuple[Pair, ...]:
        """The pairs of one split.

        Raises:
            FullyconvError: SEG-D005 if there is no such split.
        """
        if split not in self.splits:
            there = ", ".join(f"{name} ({len(pairs)})" for name, pairs in self.splits.items())
            raise FullyconvError("SEG-D005", f"{self} has no split {split!r}; it has {there}")
        return self.splits[split]

    def undivided(self, split: str) -> "Dataset":
        """The data set with train and val in one of the two, if its val was taken from its train; else as it is."""
        if not self.val_from_train:
            return self

        def joined(one: Dataset) -> Dataset:
            others = {name: pairs for name, pairs in one.splits.items() if name not in ("train", "val")}
            return replace(one, splits={split: (*one.pairs("train"), *one.pairs("val")), **others})

        notes = tuple(note for note in self.notes if not note.startswith(NO_VAL))
        also = tuple(map(joined, self.also))
        return replace(joined(self), notes=notes, also=also, val_from_train=False)


def _leads_outside(name: str) -> bool:
    """Whether a file of this name would not be below the folder that it is meant for."""
    return name.startswith("/") or ".." in re.split(r"[/\\]", name)


@dataclass(frozen=True)
class Layout:
    """One way of keeping a data set on disk.

    Args:
        title: What it looks like, in one line, for help and errors.
        recognise: Whether a path looks like it; quick, and never raises.
        read: The data set at a path.
        options: The keyword arguments of `read`, which `LAYOUT:PATH?option=value` gives as text.
    """

    title: str
    recognise: Callable[[Path], bool]
    read: Callable[..., Dataset]
    options: tuple[str, ...] = ()


def distinct(pairs: Iterable[Pair]) -> tuple[Pair, ...]:
    """Each pair once; of different pairs that share a name, the second is called name-2, the third name-3."""
    taken: dict[str, Pair] = {}
    for pair in dict.fromkeys(pairs):
        candidates = chain([pair.name], (f"{pair.name}-{number}" for number in count(2)))
        name = next(name for name in candidates if name not in taken)
        taken[name] = replace(pair, name=name)
    return tuple(taken.values())


def files_in(folder: Path, suffixes: Iterable[str] = IMAGE_SUFFIXES) -> list[Path]:
    """The pictures directly in a folder, sorted by name; none if there is no such folder."""
    wanted = frozenset(suffixes)
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not entry.name.startswith(".")]
    return [folder / name for name in sorted(names) if os.path.splitext(name)[1].lower() in wanted]


def masks_in(folder: Path) -> dict[str, Path]:
    """The mask files directly in a folder by stem."""
    return {path.stem: path for path in files_in(folder, MASK_SUFFIXES)}


def read_list(path: Path) -> list[list[str]]:
    """The entries of a list file: one line each, split at white space only where it follows a picture's suffix.

    Names may hold spaces; an image and its mask on one line are kept apart all the same.

    Raises:
        FullyconvError: SEG-D006 if it cannot be read or is empty.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FullyconvError("SEG-D006", f"the list {path} cannot be read: {error}") from None
    entries = [_columns(line.strip()) for line in lines if line.strip()]
    if not entries:
        raise FullyconvError("SEG-D006", f"the list {path} is empty; name its images in it, one a line, or remove it")
    return entries


def split_lists(folder: Path) -> dict[str, list[str]]:
    """The names in a folder's train.txt, val.txt, test.txt and trainval.txt, by split, as far as these are there.

    trainval is train and val together and train is trainval without val, where the one has no list and the other has.
    """
    files = {split: folder / f"{split}.txt" for split in (*SPLITS, "trainval")}
    names = {split: [name_in(entry[0]) for entry in read_list(file)] for split, file in files.items() if file.is_file()}
    if "train" in names and "val" in names:
        names.setdefault("trainval", [*names["train"], *names["val"]])
    elif "trainval" in names and "train" not in names:
        held_out = set(names.get("val", ()))
        names = {"train": [name for name in names["trainval"] if name not in held_out], **names}
    return names


def _columns(line: str) -> list[str]:
    for separator in ("\t", ",", ";"):
        if separator in line:
            return [part.strip() for part in line.split(separator) if part.strip()]
    columns: list[str] = []
    words: list[str] = []
    for word in line.split(" "):
        words.append(word)
        if os.path.splitext(word)[1].lower() in MASK_SUFFIXES:
            columns.append(" ".join(words).strip())
            words = []
    rest = " ".join(words).strip()
    return [*columns, rest] if rest else columns


def name_in(entry: str) -> str:
    """The file name of a list's entry, whose folders may be those of another machine, without its picture's suffix."""
    name = PureWindowsPath(entry).name
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in MASK_SUFFIXES else name


def with_val(dataset: Dataset) -> Dataset:
    """The data set, with val taken from train if it has none, and a note if it was."""
    train = dataset.splits.get("train", ())
    if "val" in dataset.splits or len(train) < 2:
        return dataset
    both = split_by_name(train, dataset.root)
    note = (
        f"{NO_VAL}: {len(both['val'])} of {len(train)} pairs were taken from train, by a hash of their paths, the same "
        "every time"
    )
    return replace(dataset, splits={**dataset.splits, **both}, notes=(*dataset.notes, note), val_from_train=True)


def split_by_name(pairs: Sequence[Pair], root: Path) -> dict[str, tuple[Pair, ...]]:
    """Training and validation pairs, 80 to 20, decided by a hash of each image's path from the root: the same on every
    machine, and adding pairs moves none of the others. At least one pair goes to each side, if there are two."""
    hashes = {pair: _hash(pair, root) for pair in pairs}
    ranked = sorted(pairs, key=lambda pair: hashes[pair])
    number = sum(value < VAL_SHARE for value in hashes.values())
    chosen = set(ranked[: min(max(number, 1), len(ranked) - 1)])
    return {
        "train": tuple(pair for pair in pairs if pair not in chosen),
        "val": tuple(pair for pair in pairs if pair in chosen),
    }


def _hash(pair: Pair, root: Path) -> float:
    """A number in [0, 1) that depends on where the image is below the root, or else on the pair's name, and not on its
    format."""
    inside = pair.image.is_relative_to(root)
    path = pair.image.relative_to(root).with_suffix("").as_posix() if inside else pair.name
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:7]) / 2**56


def shared_ends(stems: Sequence[str]) -> tuple[str, str]:
    """The words with which all stems begin and with which they end, such as `img_` and `_leftImg8bit`; empty for one.

    A part that begins or ends in a digit is a number and no word, even where all stems share it: 2020_01 and 2021_01
    are different things.
    """
    if len(stems) < 2:
        return "", ""
    return _shared_words(stems), _shared_words([stem[::-1] for stem in stems])[::-1]


def _shared_words(stems: Sequence[str]) -> str:
    """What all stems begin with, as far as it is words, each with the sign after it."""
    letters = takewhile(lambda column: len(set(column)) == 1, zip(*stems, strict=False))
    words = re.match(r"(?:(?!\d)[^_\-. ]*(?<!\d)[_\-. ])*", "".join(column[0] for column in letters))
    return words.group() if words else ""


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The most similar of the names; None if none resembles it."""
    by_lower = {other.lower(): other for other in names}
    found = get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None
