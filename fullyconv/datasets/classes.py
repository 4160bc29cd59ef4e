"""Classes of a folder of one's own: read from a classes file, or inferred from the masks."""

import csv
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fullyconv.errors import FullyconvError
from fullyconv.images import palette_colors, read_raw_mask
from fullyconv.labels import MOST_CLASSES, Color, LabelSet, Raw, count_raw, ignore_index_beside, voc_color
from fullyconv.wording import shortened

Item = TypeVar("Item")

CLASSES_FILES = tuple(
    f"{name}.{suffix}"
    for name in ("classes", "labels", "class_names", "class_dict", "label_colors", "labelmap", "palette")
    for suffix in ("json", "txt", "csv")
)
IGNORED_NAMES = frozenset(
    {"void", "ignore", "ignored", "unlabeled", "unlabelled", "dontcare", "dont care", "don't care"}
)
BACKGROUND_NAMES = frozenset({"background", "bg"})
SURVEY_LIMIT = 500
MOST_COLORS = 256
MOST_NUMBERS = 1024
LEVEL_GAP = 8
LOWEST_TOP_LEVEL = 64
MOST_LEVELS = 32


@dataclass(frozen=True)
class Entry:
    """One line of a classes file: a name, and what stands for it in the masks, as far as the file says."""

    name: str
    value: int | None = None
    color: Color | None = None


@dataclass(frozen=True)
class Survey:
    """What masks hold.

    Args:
        counts: Pixels of each raw value, or of each colour if any mask is in colour.
        palette: Colours of the index masks' palette, if they have one.
        examined: How many masks were read.
        total: How many there are.
        palettes_differ: Whether an index stands for different colours in different files, so that colours were counted.
    """

    counts: dict[Raw, int]
    palette: tuple[Color, ...]
    examined: int
    total: int
    palettes_differ: bool = False

    @property
    def coded_by_color(self) -> bool:
        """Whether the masks hold colours."""
        return isinstance(next(iter(self.counts)), tuple)

    @property
    def numbers(self) -> list[int]:
        """The raw values, ascending; none if the masks hold colours."""
        return sorted(raw for raw in self.counts if isinstance(raw, int))

    def share(self, low: int, high: int) -> float:
        """The fraction of pixels whose value is in low ... high."""
        inside = sum(count for raw, count in self.counts.items() if isinstance(raw, int) and low <= raw <= high)
        return inside / max(1, sum(self.counts.values()))


def evenly_spaced(items: Sequence[Item], limit: int) -> list[Item]:
    """At most `limit` of the items, from first to last in equal steps."""
    count = min(limit, len(items))
    return [items[position * len(items) // count] for position in range(count)]


def survey(masks: Sequence[Path], *, limit: int = SURVEY_LIMIT, trust_indices: bool = False) -> Survey:
    """What up to `limit` evenly spaced masks hold; those that cannot be decoded are left to the doctor.

    Args:
        masks: Mask files.
        limit: How many are read.
        trust_indices: Count indices even if every file's palette orders its colours anew.

    Raises:
        FullyconvError: If no mask at all can be decoded.
    """
    chosen = evenly_spaced(masks, limit)
    raws: list[tuple[Path, dict[Raw, int]]] = []
    fault: FullyconvError | None = None
    for path in chosen:
        try:
            raws.append((path, count_raw(without_grey_channels(read_raw_mask(path)))))
        except FullyconvError as error:
            fault = error
    if not raws:
        raise fault or FullyconvError("SEG-D003", "there are no masks to look at")
    palette = _shared_palette(raws)
    palettes_differ = palette is None and not trust_indices
    in_color = palettes_differ or any(isinstance(raw, tuple) for _, counts in raws for raw in counts)
    counts: Counter[Raw] = Counter()
    for path, own in raws:
        coded_alike = not in_color or isinstance(next(iter(own)), tuple)
        counts.update(own if coded_alike else count_raw(read_raw_mask(path, colors=True)))
    return Survey(dict(counts), () if in_color else palette or (), len(raws), len(masks), palettes_differ)


def _shared_palette(raws: Sequence[tuple[Path, dict[Raw, int]]]) -> tuple[Color, ...] | None:
    """The palette of index masks, empty without one; None if an index in use has another colour in another file."""
    used: dict[Raw, Color] = {}
    whole: tuple[Color, ...] = ()
    for path, counts in raws:
        palette = () if path.suffix.lower() == ".mat" else tuple(palette_colors(path) or ())
        whole = whole or palette
        for raw in counts if palette else ():
            if isinstance(raw, int) and used.setdefault(raw, palette[raw]) != palette[raw]:
                return None
    return tuple(used.get(index, color) for index, color in enumerate(whole))


def without_grey_channels(raw: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Numbers `(H, W)` of a mask whose three channels are equal; colours stay as they are."""
    if raw.ndim == 3 and (raw[..., 0] == raw[..., 1]).all() and (raw[..., 1] == raw[..., 2]).all():
        return raw[..., 0]
    return raw


def find_classes_file(folders: Sequence[Path]) -> Path | None:
    """The first classes file in the first folder that has one."""
    candidates = (folder / name for folder in folders for name in CLASSES_FILES)
    return next((path for path in candidates if path.is_file()), None)


def labels_of(masks: Sequence[Path], classes_file: Path | None) -> tuple[LabelSet, tuple[str, ...]]:
    """The label set of masks, and notes on what was inferred.

    Args:
        masks: Every mask file; a classes file that says everything saves reading them.
        classes_file: A file for `read_classes`, or None to infer everything.
    """
    if classes_file is None:
        return infer(survey(masks))
    listed = read_classes(classes_file)
    if isinstance(listed, LabelSet):
        return listed, ()
    indices_told = all(entry.value is not None for entry in listed)
    return fit(listed, survey(masks, trust_indices=indices_told), classes_file)


def fit(entries: Sequence[Entry], found: Survey, source: Path) -> tuple[LabelSet, tuple[str, ...]]:
    """The label set that a classes file and what the masks hold agree on; what the masks hold wins."""
    codes = [entry.color if found.coded_by_color else entry.value for entry in entries]
    _refuse_shared(entries, codes, source)
    if found.coded_by_color:
        return _fit_colors(entries, found, source)
    if None not in codes:
        return _build(entries, codes, source)
    return _fit_names(entries, found, source)


def _refuse_shared(entries: Sequence[Entry], codes: Sequence[Raw | None], source: Path) -> None:
    """Raises SEG-D007 if one value or colour is to stand for two classes."""
    named: dict[Raw, str] = {}
    for entry, code in zip(entries, codes, strict=True):
        name = "ignored" if _is_ignored(entry) else entry.name
        if code is not None and named.setdefault(code, name) != name:
            shown = hexadecimal(code) if isinstance(code, tuple) else code
            raise FullyconvError(
                "SEG-D007",
                f"{source} gives {shown} to both {named[code]!r} and {entry.name!r}; a value or colour stands for one "
                "class: correct one of them, or take it out",
            )


def infer(found: Survey) -> tuple[LabelSet, tuple[str, ...]]:
    """The label set of masks of which nothing is known but their content.

    0 and 255, also smoothed, or 0 and 65535 are background and foreground. Small numbers are class indices, with 255
    ignored, or 65535 if 255 is one of them. Numbers at wide steps, such as 0, 127, 255, are one class each, and so is
    each colour.

    Raises:
        FullyconvError: SEG-D022 for more different numbers, SEG-D013 for more different colours, than classes have.
    """
    where = (
        f"inferred from {found.examined} of {found.total} masks"
        if found.examined < found.total
        else "inferred from the masks"
    )
    if found.coded_by_color:
        labels, notes = _colors_found(found, {})
        reason = ", because the palettes of the masks differ" if found.palettes_differ else ""
        return labels, (f"the {len(labels)} classes are the colours of the masks, {where}{reason}", *notes)
    numbers = found.numbers
    if _is_binary(found) or (set(numbers) <= {0, 1, 255} and len(numbers) <= 2):
        return _binary(found, ("background", "foreground"))
    if _are_levels(numbers):
        table = tuple((value, index) for index, value in enumerate(numbers))
        labels = LabelSet(tuple(f"value {value}" for value in numbers), table=table)
        return labels, (
            f"the masks hold {', '.join(map(str, numbers))}, {where}: each is a class, and none is ignored",
        )
    highest = _highest_class(numbers)
    _refuse_pictures(numbers, highest)
    labels = LabelSet(tuple(f"class {index}" for index in range(highest + 1)), _palette_for(found, highest + 1))
    ignored = f"; {labels.ignore_index} is ignored" if labels.ignore_index in numbers else ""
    return labels, (f"the classes are the values 0 to {highest}, {where}{ignored}",)


def is_noisy_binary(found: Survey) -> bool:
    """Whether masks are 0 and 255 with stray values that resampling or compression left, and that no class explains."""
    if found.coded_by_color or found.numbers[-1] > 255 or not {0, 255} <= found.counts.keys():
        return False
    return _is_smoothed_binary(found) or _is_compressed_binary(found)


def _is_smoothed_binary(found: Survey) -> bool:
    """Whether both ends hold nearly all pixels, and the middle stray values."""
    middle = [value for value in found.numbers if 64 <= value < 192]
    upper = [value for value in found.numbers if 192 <= value < 255]
    if len(middle) < 3 or not upper:
        return False
    typical = sum(found.counts[value] for value in middle) / len(middle)
    ends = found.share(0, 31) + found.share(224, 255)
    return ends >= 0.9 and found.share(0, 0) + found.share(255, 255) >= 0.6 and found.counts[255] >= 5 * typical


def _is_compressed_binary(found: Survey) -> bool:
    """Whether values swing about as far above 0 as below 255 and leave the middle all but empty, as JPEG's do.

    They swing by 52 levels at quality 60, by 7 at quality 95.

    Indices with 255 ignored swing around 0 alone.
    """
    above = {value: found.counts[value] for value in found.numbers if 0 < value < 64}
    below = {255 - value: found.counts[value] for value in found.numbers if 191 < value < 255}
    if min(len(above), len(below)) < 2 or found.share(64, 191) > 0.05:
        return False
    near, far = sorted((max(above), max(below)))
    ends = ((found.counts[0], above), (found.counts[255], below))
    return far <= 3 * near and all(end * len(swing) >= 2 * sum(swing.values()) for end, swing in ends)


def _is_binary(found: Survey) -> bool:
    """Whether the masks hold 0 and the highest value of 8 or 16 bits, and at most noise between."""
    return set(found.numbers) in ({255}, {0, 255}, {0, 65535}) or is_noisy_binary(found)


def _binary(found: Survey, names: tuple[str, str]) -> tuple[LabelSet, tuple[str, ...]]:
    numbers = found.numbers
    if set(numbers) <= {0, 1}:
        return LabelSet(names), ()
    if set(numbers) <= {0, 255} or numbers == [0, 65535]:
        top = numbers[-1]
        return LabelSet(names, table=((0, 0), (top, 1))), (
            f"the masks hold 0 and {top}: 0 is {names[0]}, {top} is {names[1]}",
        )
    if set(numbers) <= {1, 255}:
        return LabelSet(names), ("255 is ignored",)
    table = ((0, 0), (255, 1), *((value, int(value >= 128)) for value in range(1, 255)))
    between = 1 - found.share(0, 0) - found.share(255, 255)
    return LabelSet(names, table=table), (
        f"SEG-D013  the masks are 0 and 255 with {len(numbers) - 2} stray values between, in {between:.2%} of the "
        f"pixels, as smoothing or JPEG compression leaves them: below 128 is {names[0]}, from 128 on {names[1]}; "
        "fullyconv check DATA --fix DIR writes a clean copy",
    )


def _highest_class(numbers: Sequence[int], named: int = 0) -> int:
    """The highest of class indices, of which at least `named` are known; the value to ignore is none of them."""
    ignored = ignore_index_beside(max([named, *(value for value in numbers if value != MOST_CLASSES)]))
    return max((value for value in numbers if value != ignored), default=0)


def _refuse_pictures(numbers: Sequence[int], highest: int) -> None:
    if highest >= MOST_NUMBERS:
        raise FullyconvError(
            "SEG-D022",
            f"the masks are no label maps: they hold {len(numbers)} different values up to {numbers[-1]}, as depth and "
            "instance maps do; point to the class masks: folder:PATH?images=rgb/{name}.png&masks=classes/{name}.png",
        )
    if len(numbers) > 200 and numbers[-1] == 255:
        raise FullyconvError(
            "SEG-D022",
            f"the masks are no label maps: they hold {len(numbers)} of the 256 grey levels, as photographs do; "
            "point to the class masks: folder:PATH?images=rgb/{name}.png&masks=classes/{name}.png",
        )


def _are_levels(numbers: Sequence[int]) -> bool:
    """Whether classes are a few grey levels at wide steps, such as 0, 127, 255, and not indices from 0 up."""
    return numbers[-1] >= LOWEST_TOP_LEVEL and len(numbers) <= MOST_LEVELS and lie_apart(numbers)


def lie_apart(numbers: Sequence[int]) -> bool:
    """Whether ascending values are several and so far apart that what lies between two of them is neither."""
    return len(numbers) > 1 and bool((np.diff(numbers) >= LEVEL_GAP).all())


def _palette_for(found: Survey, count: int) -> tuple[Color, ...]:
    """The masks' own palette, if it tells the classes apart."""
    colors = found.palette[:count]
    return colors if len(colors) == count and len(set(colors)) == count else ()


def _colors_found(found: Survey, names: dict[Color, str]) -> tuple[LabelSet, tuple[str, ...]]:
    """A class for each colour in the masks, named `#RRGGBB` where no name is known."""
    colors = sorted(raw for raw in found.counts if isinstance(raw, tuple))
    if len(colors) > MOST_COLORS:
        raise FullyconvError(
            "SEG-D013",
            f"the masks hold {len(colors)} different colours, as smoothing or JPEG compression leave them; export them "
            "as PNG without smoothing, or list the true colours in classes.json and run fullyconv check DATA --fix DIR",
        )
    return _build([Entry(names.get(color, hexadecimal(color)), color=color) for color in colors], list(colors), None)


def _fit_colors(entries: Sequence[Entry], found: Survey, source: Path) -> tuple[LabelSet, tuple[str, ...]]:
    names = {entry.color: entry.name for entry in entries if entry.color is not None}
    matched = {color: name for color, name in names.items() if color in found.counts}
    covered = sum(found.counts[color] for color in matched) / sum(found.counts.values())
    if covered >= 0.5 and len(names) == len(entries):
        return _build(entries, [entry.color for entry in entries], source)
    labels, notes = _colors_found(found, matched)
    listed = f"{len(names)} colours, of which {len(matched)} occur in the masks ({covered:.1%} of the pixels)"
    told = listed if names else "names without colours, while the masks are in colour"
    return labels, (
        f"SEG-D014  {source} lists {told}; the {len(labels)} classes are the colours found: "
        f"{shortened(labels.names, 12)}",
        *notes,
    )


def _fit_names(entries: Sequence[Entry], found: Survey, source: Path) -> tuple[LabelSet, tuple[str, ...]]:
    """Names in order, for masks of numbers. Colours beside the names are for show."""
    names = [entry.name for entry in entries]
    numbers = found.numbers
    if _is_binary(found) and len(names) <= 2:
        both = (names[0], names[1]) if len(names) == 2 else ("background", names[0])
        return _binary(found, both)
    values = [value for value in numbers if value != ignore_index_beside(len(names))]
    levels = next((some for some in (numbers, values) if len(some) == len(names) and lie_apart(some)), None)
    if levels is not None:
        labels, more = _build(entries, levels, source)
        told = ", ".join(f"{value} is {name}" for value, name in zip(levels[:4], names, strict=False))
        return labels, (f"the masks hold as many values as {source} has names: {told}", *more)
    highest = _highest_class(numbers, len(names))
    if highest == len(names) and 0 not in numbers:
        labels, more = _build(entries, range(1, len(entries) + 1), source)
        return labels, (f"the masks hold 1 to {highest}: 1 is {names[0]}, the first name in {source}", *more)
    notes = []
    if highest == len(names):
        entries = _with_background(entries, source)
        notes.append(
            f"SEG-D014  {source} names {len(names)} classes, one fewer than the masks have values, 0 to {highest}: it "
            f"was supposed that 0 is background and 1 is {names[0]}; if 0 is {names[0]}, add a last line void"
        )
    elif highest >= len(names):
        _refuse_pictures(numbers, highest)
        entries = [*entries, *(Entry(f"class {index}") for index in range(len(names), highest + 1))]
        notes.append(
            f"SEG-D014  {source} names {len(names)} classes, but the masks hold values up to {highest}: "
            f"class {len(names)} to class {highest} were added"
        )
    labels, more = _build(entries, list(range(len(entries))), source)
    return labels, (*notes, *more)


def _with_background(entries: Sequence[Entry], source: Path) -> list[Entry]:
    """The entries after one for the background, unless they have it already."""
    if any(entry.name.strip(" _").lower() in BACKGROUND_NAMES for entry in entries):
        raise FullyconvError(
            "SEG-D014",
            f"{source} names {len(entries)} classes, background among them, but the masks hold 0 to {len(entries)}; "
            f"write a name for {len(entries)} as well, void if it is to be ignored",
        )
    return [Entry("background"), *entries]


def _build(
    entries: Sequence[Entry], raws: Sequence[Raw | None], source: Path | None
) -> tuple[LabelSet, tuple[str, ...]]:
    """The label set of entries that stand for these raw values; those named as void are ignored."""
    kept = [entry for entry in entries if not _is_ignored(entry)]
    ignored = [entry.name for entry in entries if _is_ignored(entry)]
    if not kept:
        raise FullyconvError("SEG-D007", f"{source} names no class to learn, only {', '.join(ignored) or 'nothing'}")
    index_of: dict[str, int] = {}
    for entry in kept:
        index_of.setdefault(entry.name, len(index_of))
    ignore_index = ignore_index_beside(len(index_of))
    table = [
        (raw, ignore_index if _is_ignored(entry) else index_of[entry.name])
        for entry, raw in zip(entries, raws, strict=True)
        if raw is not None
    ]
    if not any(isinstance(raw, tuple) or raw == ignore_index for raw, _ in table):
        table.append((ignore_index, ignore_index))
    color_of = {entry.name: entry.color or voc_color(index_of[entry.name]) for entry in reversed(kept)}
    labels = LabelSet(tuple(index_of), tuple(color_of[name] for name in index_of), tuple(table))
    shared = [name for name, times in Counter(entry.name for entry in kept).items() if times > 1]
    notes = [f"ignored by its name: {', '.join(ignored)}"] if ignored else []
    notes += [f"named more than once, so one class: {shortened(shared)}"] if shared else []
    return labels, tuple(notes)


def _is_ignored(entry: Entry) -> bool:
    return entry.name.strip().lower() in IGNORED_NAMES


def hexadecimal(color: Color) -> str:
    """A colour as `#RRGGBB`."""
    return "#{:02X}{:02X}{:02X}".format(*color)


def read_classes(path: Path) -> LabelSet | tuple[Entry, ...]:
    """The classes that a file lists; a whole label set if it is one that `LabelSet.to_dict` wrote.

    JSON: names; names to values or colours, or the other way round; objects with name (or title, label), value (or id)
    and color; any of these under "classes", "labels", "names". Text: a line per class, the name alone, or with
    its value, with red, green and blue, or with #RRGGBB, on either side and with any separator.

    Raises:
        FullyconvError: SEG-D007 if the file has none of these forms.
    """
    try:
        if path.suffix != ".json":
            return _from_lines(path.read_text(encoding="utf-8-sig").splitlines())
        values = read_json(path)
        if isinstance(values, dict) and "names" in values and "table" in values:
            return LabelSet.from_dict(values)
        return tuple(_from_json(values))
    except FullyconvError:
        raise
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise FullyconvError(
            "SEG-D007",
            f"{path} cannot be read as a list of classes: {error}; write for example "
            '["background", "road"] or {"background": 0, "road": "#804080"}',
        ) from None


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: If it holds no JSON, or a key twice, of which JSON's readers drop one without a word.
    """
    return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_without_repeats)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    twice = [key for key in keys if keys.count(key) > 1]
    if twice:
        raise ValueError(f"it has the key {twice[0]!r} twice")
    return dict(pairs)


def read_labels(path: Path) -> LabelSet:
    """The label set that a file lists: its classes in their order, without those named as void.

    Raises:
        FullyconvError: SEG-D007 if the file has none of the forms of `read_classes`.
    """
    found = read_classes(path)
    return found if isinstance(found, LabelSet) else _build(found, range(len(found)), path)[0]


def _from_json(values: Any) -> list[Entry]:
    if isinstance(values, dict):
        inner = next((key for key in ("classes", "labels", "names", "categories") if key in values), None)
        if inner is not None and isinstance(values[inner], dict | list):
            entries = _from_json(values[inner])
            colors = values.get("palette") or values.get("colors")
            if isinstance(colors, list) and len(colors) == len(entries):
                return [replace(entry, color=_color(color)) for entry, color in zip(entries, colors, strict=True)]
            return entries
        return [_from_item(key, value) for key, value in values.items()]
    if not isinstance(values, list) or not values:
        raise ValueError(f"expected a list or an object, got {type(values).__name__}")
    return [_from_element(element) for element in values]


def _from_item(key: str, value: Any) -> Entry:
    """`"road": 3`, `"road": [r, g, b]`, `"road": "#RRGGBB"`, `"3": "road"`, `"#RRGGBB": "road"`, or an object."""
    if isinstance(value, dict):
        entry = _from_element({"name": key, **value})
        return replace(entry, value=int(key)) if key.isdigit() and entry.value is None else entry
    if isinstance(value, int):
        return Entry(key, value=value)
    if isinstance(value, str) and key.isdigit():
        return Entry(value, value=int(key))
    if isinstance(value, str) and key.startswith("#"):
        return Entry(value, color=_color(key))
    return Entry(key, color=_color(value))


def _from_element(element: Any) -> Entry:
    if isinstance(element, str):
        return Entry(element)
    if not isinstance(element, dict):
        raise ValueError(f"expected a name or an object, got {element!r}")
    lowered = {str(key).lower(): value for key, value in element.items()}
    name = next(
        (lowered[key] for key in ("name", "title", "label", "class") if isinstance(lowered.get(key), str)), None
    )
    if name is None:
        raise ValueError(f"no name in {element!r}")
    value = next((lowered[key] for key in ("value", "id", "index") if isinstance(lowered.get(key), int)), None)
    color = next((lowered[key] for key in ("color", "colour", "rgb", "hex") if lowered.get(key)), None)
    return Entry(name, value, _color(color) if color is not None else None)


def _color(value: Any) -> Color:
    if isinstance(value, str) and re.fullmatch(r"#?[0-9a-fA-F]{6}", value):
        number = int(value.lstrip("#"), 16)
        return number >> 16, number >> 8 & 255, number & 255
    if (
        isinstance(value, list)
        and len(value) in {3, 4}
        and all(isinstance(part, int) and 0 <= part < 256 for part in value)
    ):
        return value[0], value[1], value[2]
    raise ValueError(f"{value!r} is no colour; write [128, 64, 128] or #804080")


def _from_lines(lines: Sequence[str]) -> tuple[Entry, ...]:
    """A class per line; the header of a CSV file and comments are skipped."""
    kept = [line.strip() for line in lines if line.strip() and not re.match(r"#(?![0-9a-fA-F]{6}\b)|//", line.strip())]
    entries = [_from_line(line) for line in kept]
    coded = [entry for entry in entries if entry.color is not None or entry.value is not None]
    if coded and len(coded) == len(entries) - 1 and entries[0] not in coded:
        return tuple(coded)
    if len(coded) == len(entries) and entries:
        return tuple(entries)
    if any(entry.color is not None for entry in entries):
        missing = next(line for line, entry in zip(kept, entries, strict=True) if entry.color is None)
        raise ValueError(f"some lines have a colour, but not {missing!r}")
    if not kept:
        raise ValueError("it is empty")
    return tuple(Entry(line.strip(" ,;:\t")) for line in kept)


def _from_line(line: str) -> Entry:
    code = re.search(r"#([0-9a-fA-F]{6})\b", line)
    if code:
        name = (line[: code.start()] + line[code.end() :]).strip(" \t,;:=")
        return Entry(name, color=_color(code.group(1)))
    parts = re.fullmatch(r"((?:\d+[\s,;:=]+)*)(.*?)((?:[\s,;:=]+\d+)*)[\s,;:=]*", line)
    assert parts is not None, "every line matches: each part may be empty"
    lead = [int(number) for number in re.findall(r"\d+", parts.group(1))]
    tail = [int(number) for number in re.findall(r"\d+", parts.group(3))]
    name = parts.group(2).strip()
    if len(lead) in {3, 4} and not tail:
        return Entry(name, lead[0] if len(lead) == 4 else None, _color(lead[-3:]))
    if len(lead) <= 1 and len(tail) in {3, 4}:
        return Entry(name, lead[0] if lead else None, _color(tail[:3]))
    if len(lead) == 1 and not tail:
        return Entry(name, value=lead[0])
    if not lead and len(tail) == 1 and re.match(r"\s*[\t,;:=]", parts.group(3)):
        return Entry(name, value=tail[0])
    return Entry(line.strip(" \t,;:="))
