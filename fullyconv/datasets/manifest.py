"""A list of pairs: a CSV file or JSON lines with image, mask and, if wanted, split."""

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fullyconv.datasets.classes import find_classes_file, labels_of
from fullyconv.datasets.dataset import SPLIT_WORDS, SPLITS, Dataset, Layout, Pair, distinct
from fullyconv.errors import FullyconvError

SUFFIXES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson"})


def recognise(root: Path) -> bool:
    """Whether the path is such a file, or a folder that holds manifest.csv or manifest.jsonl."""
    return _file(root) is not None


def read(root: Path) -> Dataset:
    """The pairs of a manifest; paths in it count from its folder, and a classes file beside it names the classes.

    A column `more` lists further pictures of each scene, such as its depth, with ; between them.
    """
    file = _file(root)
    if file is None:
        raise FullyconvError("SEG-D006", f"{root} is no manifest; expected a file that ends in .csv or .jsonl")
    rows = _rows(file)
    members: dict[str, list[Pair]] = {split: [] for split in SPLITS}
    pairs = _named(file.parent, [_pair(file, number, row) for number, row in enumerate(rows, start=1)])
    _refuse_uneven(file, pairs)
    for pair, row in zip(pairs, rows, strict=True):
        split = str(row.get("split") or "train").strip()
        members.setdefault(SPLIT_WORDS.get(split.lower(), split), []).append(pair)
    splits = {split: distinct(of_split) for split, of_split in members.items() if of_split}
    masks = [pair.mask for pairs in splits.values() for pair in pairs if pair.mask is not None and pair.mask.is_file()]
    if not masks:
        missing = next((pair.mask for pairs in splits.values() for pair in pairs if pair.mask), None)
        told = f"the first is {missing}" if missing else "the column mask is empty"
        raise FullyconvError("SEG-D003", f"{file} lists {len(rows)} pairs, but none of their masks exists; {told}")
    labels, notes = labels_of(masks, find_classes_file([file.parent]))
    return Dataset("manifest", root, labels, splits, tuple(notes))


def _file(root: Path) -> Path | None:
    if root.is_file():
        return root if root.suffix.lower() in SUFFIXES else None
    candidates = (root / f"manifest{suffix}" for suffix in sorted(SUFFIXES))
    return next((path for path in candidates if path.is_file()), None)


def _rows(file: Path) -> list[dict[str, Any]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix.lower() in {".jsonl", ".ndjson"}:
            rows = [_object(line, number) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
        else:
            lines = [line for line in text.splitlines() if line.strip()]
            rows = list(csv.DictReader(lines, delimiter="\t" if file.suffix.lower() == ".tsv" else ","))
    except (OSError, ValueError, csv.Error) as error:
        raise FullyconvError("SEG-D006", f"{file} cannot be read: {error}") from None
    if not rows:
        raise FullyconvError("SEG-D006", f"{file} lists no pairs; expected the columns image and mask")
    return [{str(key).strip().lower(): value for key, value in row.items()} for row in rows]


def _object(line: str, number: int) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f'line {number} is no object; write {{"image": "a.jpg", "mask": "a.png"}}')
    return values


def _pair(file: Path, number: int, row: dict[str, Any]) -> Pair:
    if not row.get("image") or "mask" not in row:
        raise FullyconvError(
            "SEG-D006", f"{file}, entry {number}: expected the columns image and mask, got {', '.join(row)}"
        )
    image = file.parent / str(row["image"]).strip()
    mask = str(row["mask"] or "").strip()
    return Pair(image.stem, image, file.parent / mask if mask else None, _more(file, row.get("more")))


def _more(file: Path, entry: Any) -> tuple[Path, ...]:
    """The further pictures of a scene: text with ; between them, or in JSON a list."""
    entries = entry if isinstance(entry, list) else str(entry or "").split(";")
    return tuple(file.parent / str(one).strip() for one in entries if str(one).strip())


def _refuse_uneven(file: Path, pairs: Sequence[Pair]) -> None:
    other = next((pair for pair in pairs if len(pair.more) != len(pairs[0].more)), None)
    if other is not None:
        raise FullyconvError(
            "SEG-D030",
            f"{file} lists {len(pairs[0].more)} further pictures for {pairs[0].name}, and {len(other.more)} for "
            f"{other.name}; every image needs as many",
        )


def _named(home: Path, pairs: Sequence[Pair]) -> list[Pair]:
    """Pairs named by their images' paths from the manifest's folder; if one lies outside it, from the folder that holds
    them all."""
    images = [Path(os.path.abspath(pair.image)) for pair in pairs]
    home = Path(os.path.abspath(home))
    if not all(image.is_relative_to(home) for image in images):
        home = Path(os.path.commonpath([image.parent for image in images]))
    return [
        replace(pair, name=image.relative_to(home).with_suffix("").as_posix())
        for pair, image in zip(pairs, images, strict=True)
    ]


LAYOUT = Layout("a .csv or .jsonl file with the columns image, mask, split and more (manifest)", recognise, read)
