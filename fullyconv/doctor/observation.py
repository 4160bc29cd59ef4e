"""What one pair looks like: headers always, pixels if it is among those examined."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fullyconv.datasets import Dataset, Pair
from fullyconv.datasets.classes import evenly_spaced, without_grey_channels
from fullyconv.errors import FullyconvError
from fullyconv.images import Header, read_header, read_image, read_raw_mask
from fullyconv.labels import LabelSet, Raw, count_raw

Array = np.ndarray[Any, Any]
Item = TypeVar("Item")


@dataclass
class Observation:
    """A pair as it is on disk.

    Args:
        split: Its split.
        pair: The pair.
        image: The image's header; None if it cannot be read.
        mask: The mask's header; None if it cannot be read or there is no mask.
        more: The headers of the further pictures that can be read, by file.
        missing: The files of the pair that do not exist.
        faults: What went wrong with which file.
        counts: Pixels of each raw value or colour; empty for a mask that was not examined.
        between: Of the places where the mask changes along a row, the share where a single pixel lies between the
            values on its sides, as bilinear resizing leaves it.
    """

    split: str
    pair: Pair
    image: Header | None = None
    mask: Header | None = None
    more: dict[Path, Header] = field(default_factory=dict)
    missing: list[Path] = field(default_factory=list)
    faults: list[tuple[Path, FullyconvError]] = field(default_factory=list)
    counts: dict[Raw, int] = field(default_factory=dict)
    between: float = 0.0

    @property
    def mask_path(self) -> Path:
        """The mask's file, of a pair known to have one."""
        assert self.pair.mask is not None, "asked only of pairs with a mask"
        return self.pair.mask

    @property
    def headers(self) -> tuple[Header, Header] | None:
        """Those of image and mask, if both could be read."""
        return (self.image, self.mask) if self.image and self.mask else None

    @property
    def differs_in_size(self) -> bool:
        """Whether image and mask, both upright, are of unlike size."""
        return self.headers is not None and self.headers[0].size != self.headers[1].size

    @property
    def unlike_pictures(self) -> list[Path]:
        """The further pictures of the scene that are not as large as the image."""
        return [path for path, header in self.more.items() if self.image and header.size != self.image.size]

    @property
    def lost_turn(self) -> bool:
        """Whether the mask has the size that the image would have without its EXIF turn to the side."""
        if self.headers is None or not self.differs_in_size:
            return False
        image, mask = self.headers
        return image.orientation >= 5 and mask.orientation == 1 and image.size == mask.size[::-1]


def observe(dataset: Dataset, splits: Sequence[str], limit: int | None) -> list[Observation]:
    """All pairs of the splits, with the pixels of up to `limit` evenly spaced ones."""
    listed = [(split, pair) for split in splits for pair in dataset.pairs(split)]
    observations = [_headers(split, pair) for split, pair in _shown(listed, "looking at files")]
    sound = [one for one in observations if one.mask is not None]
    chosen = evenly_spaced(sound, limit or len(sound)) if sound else []
    for one in _shown(chosen, "decoding"):
        _examine(one, dataset.labels)
    return observations


def _shown(items: Sequence[Item], verb: str) -> Iterable[Item]:
    """The items, with a bar of how many are done on a terminal."""
    if not sys.stderr.isatty():
        return items
    from rich.console import Console
    from rich.progress import track

    return track(items, verb, console=Console(stderr=True), transient=True)


def splits_once(dataset: Dataset) -> list[str]:
    """The splits without those, such as VOC's trainval, that only repeat pairs of splits before them."""
    chosen: list[str] = []
    seen: set[Path] = set()
    for split, pairs in dataset.splits.items():
        images = {pair.image for pair in pairs}
        if not images <= seen:
            chosen.append(split)
            seen |= images
    return chosen


def _headers(split: str, pair: Pair) -> Observation:
    one = Observation(split, pair)
    one.missing = [path for path in (*pair.pictures, pair.mask) if path is not None and not path.is_file()]
    if pair.image not in one.missing:
        one.image = _header(one, pair.image)
    if pair.mask is not None and pair.mask not in one.missing:
        one.mask = _header(one, pair.mask)
    headers = {path: _header(one, path) for path in pair.more if path not in one.missing}
    one.more = {path: header for path, header in headers.items() if header is not None}
    return one


def _header(one: Observation, path: Path) -> Header | None:
    try:
        return read_header(path)
    except FullyconvError as fault:
        one.faults.append((path, fault))
        return None


def _examine(one: Observation, labels: LabelSet) -> None:
    """Decode pictures and mask, and count the mask's values into `one`."""
    for path in (*([one.pair.image] if one.image else []), *one.more):
        try:
            read_image(path, channels=None)
        except FullyconvError as fault:
            one.faults.append((path, fault))
    try:
        raw = read_raw_mask(one.mask_path, colors=labels.coded_by_color)
    except FullyconvError as fault:
        one.faults.append((one.mask_path, fault))
        return
    raw = raw if labels.coded_by_color else without_grey_channels(raw)
    one.counts = count_raw(raw)
    one.between = between_share(raw) if raw.ndim == 2 and len(labels) > 2 else 0.0


def between_share(raw: Array) -> float:
    """Of the changes along the rows of a mask of numbers, the share where one pixel lies strictly between its
    neighbours; 0 with fewer than 100 changes."""
    values = raw.astype(np.int32)
    left, middle, right = values[:, :-2], values[:, 1:-1], values[:, 2:]
    changes = int((left != middle).sum())
    if changes < 100:
        return 0.0
    between = ((left < middle) & (middle < right)) | ((left > middle) & (middle > right))
    return float(between.sum()) / changes
