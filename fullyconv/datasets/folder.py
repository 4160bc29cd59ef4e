"""A folder of one's own: images and masks in folders of any usual names, or side by side, paired by name."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Literal

from fullyconv.datasets.classes import find_classes_file, labels_of
from fullyconv.datasets.dataset import (
    SPLIT_WORDS,
    SPLITS,
    Dataset,
    Layout,
    Pair,
    distinct,
    name_in,
    nearest,
    read_list,
    shared_ends,
)
from fullyconv.errors import FullyconvError
from fullyconv.images import IMAGE_SUFFIXES, MASK_SUFFIXES
from fullyconv.wording import counted, shortened

Role = Literal["image", "mask", "other"]
Key = tuple[str, ...]

# The words of folder and file names that say what a picture is. In order of preference: DRIVE keeps the vessels in
# 1st_manual/ and the field of view in mask/.
MASK_WORDS = {
    "manual": "manual",
    "manual1": "manual",
    "mask": "mask",
    "masks": "mask",
    "label": "label",
    "labels": "label",
    "lab": "label",
    "labelids": "label",
    "annotation": "annotation",
    "annotations": "annotation",
    "ann": "annotation",
    "annot": "annotation",
    "gt": "truth",
    "gts": "truth",
    "truth": "truth",
    "groundtruth": "truth",
    "target": "target",
    "targets": "target",
    "cls": "segmentation",
    "seg": "segmentation",
    "segmentation": "segmentation",
    "segmentations": "segmentation",
    "segmentationclass": "segmentation",
}
PREFERENCE = tuple(dict.fromkeys(MASK_WORDS.values()))
IMAGE_NAMES = "color colour im image images img imgs input inputs original photo photos picture pictures rgb sat"
OTHER_NAMES = (
    "depth disparity edge edges heatmap inst instance instanceids instances meta object overlay overlays vis "
    "visualization visualizations viz"
)
FORMAT_NAMES = "1st 2nd bmp class dir files gif ground jpeg jpg png semantic tif tiff"
IMAGE_WORDS = frozenset(IMAGE_NAMES.split())
OTHER_WORDS = frozenset(OTHER_NAMES.split())
FORMAT_WORDS = frozenset(FORMAT_NAMES.split())
COLLECTION_WORDS = frozenset({"data", "dataset", "datasets"})  # "segmentation dataset/" holds images, too
LIST_FOLDERS = ("", "splits", "lists", "ImageSets", "ImageSets/Segmentation")


@dataclass(frozen=True)
class Found:
    """A picture in the tree.

    Args:
        path: Where it is.
        role: What its folders say that it is; None if they say nothing.
        kind: The word that made it a mask.
        group: Its folders, without the words for roles: those of an image and its mask agree.
        split: The split that a folder names.
        own_role: What its own name says that it is.
        own_kind: The word in its own name.
    """

    path: Path
    role: Role | None
    kind: str
    group: tuple[str, ...]
    split: str | None
    own_role: Role | None = None
    own_kind: str = ""


def recognise(root: Path) -> bool:
    """Whether there are pictures anywhere in the folder."""
    return root.is_dir() and next(_walk(root), None) is not None


def read(root: Path, *, images: str | None = None, masks: str | None = None, more: str | None = None) -> Dataset:
    """The pairs of a folder, its splits, and its classes from a classes file or from the masks.

    Args:
        root: The folder.
        images: How the image files are named, relative to `root`, such as `img/{name}.jpg`; `{name}` is what image and
            mask share and may hold folders, `{split}` one folder that names the split.
        masks: The same for the masks, such as `gt/{name}_L.png`.
        more: The same for further pictures of each scene, such as `depth/{name}.png`, with ; between several kinds;
            their bands follow the image's.
    """
    paths = [path.relative_to(root) for path in _walk(root)]
    if images is None and masks is None and more is None:
        found = [_look(path) for path in paths]
        chosen_images, chosen_masks = _roles(found)
        pairs, unpaired, told = _match(chosen_images, chosen_masks)
    elif images is None or masks is None:
        raise FullyconvError("SEG-D003", "give both templates, images and masks: folder:PATH?images=...&masks=...")
    else:
        chosen_images, chosen_masks = _by_template(paths, images, "image"), _by_template(paths, masks, "mask")
        pairs, unpaired = _match_groups(chosen_images, chosen_masks)
        told = []
    if not pairs:
        raise _nothing_paired(root, chosen_images, chosen_masks)
    named = _named(root, pairs)
    splits, notes = _splits(root, named, [image.split for image, _ in pairs])
    splits |= _unlabelled(root, chosen_images, {image.path for image, _ in pairs}, splits)
    if more is not None:
        splits = _with_more(root, splits, chosen_images, more.split(";"))
    unlabelled = {pair.image for split in splits.values() for pair in split if pair.mask is None}
    files = [pair.mask for split in splits.values() for pair in split if pair.mask is not None and pair.mask.is_file()]
    labels, inferred = labels_of(files, find_classes_file(_folders_above(root, files)))
    left = tuple(root / one.path for one in unpaired if root / one.path not in unlabelled)
    return Dataset("folder", root, labels, splits, (*notes, *inferred, *told, *_told_unpaired(root, left)), left)


def _walk(root: Path) -> Iterator[Path]:
    """Every picture and .mat file below a folder, in a stable order; hidden folders are skipped."""
    for folder, names, files in os.walk(root, followlinks=True):
        names[:] = sorted(name for name in names if not name.startswith((".", "__")))
        for name in sorted(files):
            if os.path.splitext(name)[1].lower() in MASK_SUFFIXES and not name.startswith("."):
                yield Path(folder, name)


def _words(name: str) -> list[str]:
    """The words of a name in lower case: cut at signs, and at capitals as in groundTruth."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    words = re.findall(r"[a-z0-9]+", parted.lower())
    # SegNet writes trainannot/.
    return [
        part for word in words for part in ([word[:-5], "annot"] if word.endswith("annot") and word[:-5] else [word])
    ]


def _role(words: Sequence[str]) -> tuple[Role | None, str]:
    """What words make of a picture; of several, the mask wins: label_images/ holds labels."""
    if any(word in OTHER_WORDS for word in words):
        return "other", ""
    masks = [MASK_WORDS[word] for word in words if word in MASK_WORDS]
    if masks and not COLLECTION_WORDS.intersection(words):
        return "mask", masks[0]
    return ("image", "") if IMAGE_WORDS.intersection(words) else (None, "")


def _split(words: Sequence[str]) -> str | None:
    """The split that one of the words names, such as train, valset or COCO's val2017."""
    plain = (word.rstrip("0123456789").removesuffix("set") for word in words)
    return next((SPLIT_WORDS[word] for word in plain if word in SPLIT_WORDS), None)


def _look(path: Path) -> Found:
    """A picture with what its folders say, the deepest that says something first, and what its own name says."""
    role: Role | None = None
    kind = ""
    group: list[str] = []
    split = None
    for part in reversed(path.parts[:-1]):
        words = _words(part)
        folder_role, folder_kind = _role(words)
        split = split or _split(words)
        if folder_role is None:
            group.insert(0, part)
            continue
        if role is None:
            role, kind = folder_role, folder_kind
        left = [word for word in words if _role([word])[0] is None and word not in FORMAT_WORDS]
        group[:0] = [" ".join(left)] if left else []
    own_role, own_kind = _ends(path.stem) if path.suffix.lower() in IMAGE_SUFFIXES else ("mask", "mat")
    return Found(path, role, kind, tuple(group), split, own_role, own_kind)


def _ends(stem: str) -> tuple[Role | None, str]:
    """What the last word of a file name makes of it, else the first; CamVid ends its masks in _L."""
    parts = re.split(r"[_\-. ]+", stem)
    if len(parts) < 2:
        return None, ""
    if parts[-1] == "L":
        return "mask", "label"
    last = _role([parts[-1].lower()])
    return last if last[0] is not None else _role([parts[0].lower()])


def _roles(found: Sequence[Found]) -> tuple[list[Found], list[Found]]:
    """The images and the masks among the pictures: by their folders; without a folder of masks, by their own names;
    and where those do not tell either, by their formats."""
    masks = [one for one in found if one.role == "mask"]
    pictures = [one for one in found if one.role in {"image", None} and one.path.suffix.lower() in IMAGE_SUFFIXES]
    if masks:
        return [one for one in pictures if one.role == "image"] or pictures, masks
    told = [replace(one, role=one.own_role or one.role, kind=one.own_kind) for one in found if one.role != "other"]
    masks = [one for one in told if one.role == "mask"]
    images = [one for one in told if one.role == "image"] or [one for one in told if one.role is None]
    return (images, masks) if masks else _twins(images)


def _twins(pictures: Sequence[Found]) -> tuple[list[Found], list[Found]]:
    """Images and masks of the same stem side by side: the photograph is the JPEG."""
    by_stem: dict[Path, list[Found]] = defaultdict(list)
    for one in pictures:
        by_stem[one.path.with_suffix("")].append(one)
    twins = [both for both in by_stem.values() if len(both) == 2]
    photographs = {one for both in twins for one in both if one.path.suffix.lower() in {".jpg", ".jpeg"}}
    images = [one for one in pictures if one in photographs or len(by_stem[one.path.with_suffix("")]) == 1]
    return images, [one for both in twins for one in both if one not in photographs]


@dataclass(frozen=True)
class Reading:
    """A way to read from file names which image and mask belong together: where their keys agree.

    Args:
        image: What counts of an image's stem.
        mask: What counts of a mask's stem.
        told: What the keys leave out, for the user; empty if that is nothing.
        foldered: Whether the folders count, too.
    """

    image: Callable[[str], str]
    mask: Callable[[str], str]
    told: str = ""
    foldered: bool = True

    def pairs(self, images: Sequence[Found], masks: Sequence[Found]) -> list[tuple[Found, Found]]:
        """The pairs whose keys agree."""
        return _agreeing(self._keyed(images, self.image), self._keyed(masks, self.mask))

    def _keyed(self, found: Sequence[Found], part: Callable[[str], str]) -> list[tuple[Key, Found]]:
        return [((*(one.group if self.foldered else ()), part(one.path.stem)), one) for one in found]


def _match(images: Sequence[Found], masks: Sequence[Found]) -> tuple[list[tuple[Found, Found]], list[Found], list[str]]:
    """Pairs by the kind of mask, and by the reading of names, that pairs most; what is left over; and a note on the
    reading if it left out anything."""
    kinds = sorted({mask.kind for mask in masks}, key=lambda kind: PREFERENCE.index(kind) if kind in PREFERENCE else 99)
    alike = [[mask for mask in masks if mask.kind == kind] for kind in kinds]
    tried = [
        (reading.pairs(images, of_kind), of_kind, reading.told)
        for of_kind in alike
        for reading in _readings(images, of_kind)
    ]
    pairs, of_kind, told = max(tried, key=lambda one: len(one[0]), default=([], [], ""))
    left = _left_over(images, of_kind, pairs)
    if not told:
        return pairs, left, []
    image, mask = pairs[0]
    return pairs, left, [f"paired by name {told}: {image.path.as_posix()} with {mask.path.as_posix()}"]


def _readings(images: Sequence[Found], masks: Sequence[Found]) -> list[Reading]:
    """Ways to read a key from names, the strictest first."""
    image_ends, mask_ends = (shared_ends([one.path.stem for one in found]) for found in (images, masks))
    role_words = "without words such as mask and train"
    return [
        Reading(str, str),
        Reading(_bare, _bare, role_words),
        Reading(
            partial(_core, ends=image_ends),
            partial(_core, ends=mask_ends),
            f"without {_quoted(image_ends)} / {_quoted(mask_ends)}",
        ),
        Reading(str, str, "whatever the folder", foldered=False),
        Reading(_bare, _bare, f"whatever the folder, {role_words}", foldered=False),
    ]


def _quoted(ends: tuple[str, str]) -> str:
    """Ends as people read them: 'img_', or 'img_' and '_x', or nothing."""
    return " and ".join(repr(end) for end in ends if end) or "nothing"


def _bare(stem: str) -> str:
    """A stem without the words for roles and splits at its ends: 21_training and 21_manual1 are both 21."""
    parts = re.split(r"[_\-. ]+", stem)

    def tells(part: str) -> bool:
        word = part.lower()
        return part == "L" or word in SPLIT_WORDS or _role([word])[0] is not None

    while len(parts) > 1 and tells(parts[-1]):
        parts.pop()
    while len(parts) > 1 and tells(parts[0]):
        parts.pop(0)
    return "_".join(parts)


def _shared(sequences: Sequence[Sequence[str]]) -> int:
    """How many leading elements all the sequences share."""
    columns = zip(*sequences, strict=False)
    return next((i for i, column in enumerate(columns) if len(set(column)) > 1), min(map(len, sequences)))


def _core(stem: str, ends: tuple[str, str]) -> str:
    core = stem.removeprefix(ends[0]).removesuffix(ends[1])
    return core or stem


def _agreeing(images: Sequence[tuple[Key, Found]], masks: Sequence[tuple[Key, Found]]) -> list[tuple[Found, Found]]:
    """The pairs whose keys agree; a key that two images or two masks share decides nothing."""
    image_counts, mask_counts = (Counter(key for key, _ in keyed) for keyed in (images, masks))
    mask_of = {key: mask for key, mask in masks if mask_counts[key] == 1}
    return [(image, mask_of[key]) for key, image in images if image_counts[key] == 1 and key in mask_of]


def _match_groups(images: Sequence[Found], masks: Sequence[Found]) -> tuple[list[tuple[Found, Found]], list[Found]]:
    pairs = _agreeing([(image.group, image) for image in images], [(mask.group, mask) for mask in masks])
    return pairs, _left_over(images, masks, pairs)


def _left_over(images: Sequence[Found], masks: Sequence[Found], pairs: Sequence[tuple[Found, Found]]) -> list[Found]:
    used = {one.path for pair in pairs for one in pair}
    return [one for one in (*images, *masks) if one.path not in used]


def _by_template(paths: Sequence[Path], template: str, role: Role) -> list[Found]:
    """The files that a template such as `{split}/img/{name}.jpg` describes."""
    _refuse_nameless(template)
    pattern = re.escape(template)
    for field, form in (("name", ".+"), ("split", "[^/]+")):
        place = re.escape(f"{{{field}}}")
        pattern = pattern.replace(place, f"(?P<{field}>{form})", 1).replace(place, f"(?P={field})")
    matches = ((path, re.fullmatch(pattern, path.as_posix())) for path in paths)
    return [
        Found(
            path,
            role,
            "",
            (match["name"], match["split"]) if "split" in match.groupdict() else (match["name"],),
            SPLIT_WORDS.get(match["split"].lower(), match["split"]) if "split" in match.groupdict() else None,
        )
        for path, match in matches
        if match
    ]


def _refuse_nameless(template: str) -> None:
    if "{name}" not in template:
        raise FullyconvError(
            "SEG-D003", f"the template {template!r} lacks {{name}}; write for example img/{{name}}.jpg"
        )


def _with_more(
    root: Path, splits: dict[str, tuple[Pair, ...]], images: Sequence[Found], templates: Sequence[str]
) -> dict[str, tuple[Pair, ...]]:
    """The pairs with the further pictures that templates name, whether these are there or not; the doctor looks."""
    for template in templates:
        _refuse_nameless(template)
    found = {root / image.path: image for image in images}

    def filled(pair: Pair, template: str) -> Path:
        name, *split = found[pair.image].group if pair.image in found else (pair.name,)
        return root / template.replace("{name}", name).replace("{split}", split[0] if split else "{split}")

    return {
        split: tuple(replace(pair, more=tuple(filled(pair, template) for template in templates)) for pair in pairs)
        for split, pairs in splits.items()
    }


def _named(root: Path, pairs: Sequence[tuple[Found, Found]]) -> list[Pair]:
    """Pairs named after their image; folders are part of the name where stems alone repeat."""
    stems = Counter(image.path.stem for image, _ in pairs)
    alone = max(stems.values()) == 1
    shared = _shared([image.group for image, _ in pairs])
    return [
        Pair(
            image.path.stem if alone else "/".join((*_without_split(image.group[shared:]), image.path.stem)),
            root / image.path,
            root / mask.path,
        )
        for image, mask in pairs
    ]


def _without_split(group: Sequence[str]) -> list[str]:
    return [part for part in group if part.lower() not in SPLIT_WORDS]


def _splits(
    root: Path, pairs: Sequence[Pair], named: Sequence[str | None]
) -> tuple[dict[str, tuple[Pair, ...]], list[str]]:
    """Splits from list files, else from folders; and a note on pairs that are in none."""
    lists = _lists(root)
    notes: list[str] = []
    if lists:
        splits = {split: distinct(_listed(root, path, pairs)) for split, path in lists.items()}
        listed = {pair.image for members in splits.values() for pair in members}
        left = sum(pair.image not in listed for pair in pairs)
        if left:
            notes.append(
                f"{left} pairs are in no list ({', '.join(path.name for path in lists.values())}) and left out"
            )
    else:
        members: dict[str, list[Pair]] = {split: [] for split in SPLITS}
        for pair, split in zip(pairs, named, strict=True):
            members.setdefault(split or "train", []).append(pair)
        splits = {split: distinct(of_split) for split, of_split in members.items() if of_split}
    return splits, notes


def _lists(root: Path) -> dict[str, Path]:
    """List files named after splits, in the first folder that has any."""
    for folder in LIST_FOLDERS:
        files = {path.stem.lower(): path for path in sorted((root / folder).glob("*.txt"))}
        found = {split: files[word] for word, split in SPLIT_WORDS.items() if word in files}
        if found:
            return {split: found[split] for split in SPLITS if split in found}
    return {}


def _listed(root: Path, path: Path, pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs that a list names by path or stem; a name that no pair has becomes a pair of missing files."""
    by_stem: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_stem[pair.image.stem].append(pair)
        if pair.mask is not None and pair.mask.stem != pair.image.stem:
            by_stem[pair.mask.stem].append(pair)
    entries = [columns[0] for columns in read_list(path)]
    found = [_closest(entry, by_stem.get(name_in(entry), [])) for entry in entries]
    if not any(found):
        similar = nearest(name_in(entries[0]), by_stem)
        raise FullyconvError(
            "SEG-D006",
            f"none of the {len(entries)} names in {path}, such as {entries[0]!r}, is that of a pair"
            + (f"; the nearest is {similar!r}" if similar else ""),
        )
    return [
        pair or Pair(name_in(entry), root / entry, root / entry) for pair, entry in zip(found, entries, strict=True)
    ]


def _closest(entry: str, candidates: Sequence[Pair]) -> Pair | None:
    """Of pairs of the same stem, the one whose path shares most of its end with the entry."""
    parts = [os.path.splitext(part)[0] for part in PureWindowsPath(entry).parts][::-1]

    def agreement(pair: Pair) -> int:
        return _shared([parts, [os.path.splitext(part)[0] for part in pair.image.parts][::-1]])

    return max(candidates, key=agreement, default=None)


def _unlabelled(
    root: Path, images: Sequence[Found], paired: set[Path], splits: dict[str, tuple[Pair, ...]]
) -> dict[str, tuple[Pair, ...]]:
    """Splits whose images have no mask at all, as tests often are; but no val, as none could be scored on it."""
    new: dict[str, list[Pair]] = defaultdict(list)
    with_masks = {image.split for image in images if image.path in paired}
    for image in images:
        if image.split is not None and image.split not in {"val", *with_masks, *splits}:
            new[image.split].append(Pair(image.path.stem, root / image.path, None))
    return {split: distinct(pairs) for split, pairs in new.items()}


def _folders_above(root: Path, masks: Sequence[Path]) -> list[Path]:
    """Where a classes file may be: the root, and every folder from there down to the masks."""
    parents = Path(os.path.commonpath([mask.parent for mask in masks])) if masks else root
    inner = [parents, *parents.parents]
    return [root, *(folder for folder in reversed(inner) if folder.is_relative_to(root) and folder != root)]


def _told_unpaired(root: Path, left: Sequence[Path]) -> list[str]:
    if not left:
        return []
    examples = shortened([str(path.relative_to(root)) for path in left], 3)
    return [f"SEG-D021  {counted(len(left), 'file')} without a partner, left out: {examples}"]


def _nothing_paired(root: Path, images: Sequence[Found], masks: Sequence[Found]) -> FullyconvError:
    def told(found: Sequence[Found], what: str) -> str:
        examples = shortened([one.path.as_posix() for one in found], 2)
        return f"{len(found)} {what}" + (f" ({examples})" if found else "")

    similar = ""
    if images and masks:
        stems = {mask.path.stem: mask for mask in masks}
        for image in images[:20]:
            name = nearest(image.path.stem, stems)
            if name:
                similar = f"; the nearest names are {image.path.as_posix()} and {stems[name].path.as_posix()}"
                break
    return FullyconvError(
        "SEG-D003",
        f"{root}: no image has a mask; found {told(images, 'images')} and {told(masks, 'masks')}{similar}; "
        "put masks of the images' names into masks/, or say how names go together: "
        f"'folder:{root}?images=img/{{name}}.jpg&masks=gt/{{name}}_L.png'",
    )


LAYOUT = Layout(
    "images/ and masks/ under any usual names, in splits or not, or side by side",
    recognise,
    read,
    options=("images", "masks", "more"),
)
