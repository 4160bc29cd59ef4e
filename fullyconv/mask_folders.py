"""Folders of masks from any tool: which prediction belongs to which truth, and what its numbers or colours mean."""

from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fullyconv import images
from fullyconv.errors import FullyconvError
from fullyconv.labels import LabelSet


def matched(predictions: Path, truth: Path) -> list[tuple[Path, Path]]:
    """Prediction and truth of each name, in order of the names; predictions without a truth are left aside.

    An ending that all names of a folder share, such as `_gtFine_labelIds`, may differ between the folders.

    Raises:
        FullyconvError: SEG-E006 if a truth has no prediction, a name occurs twice, or a folder holds no masks.
    """
    predicted, true = _masks(predictions), _masks(truth)
    if not predicted.keys() & true.keys():
        predicted, true = _without_ending(predicted), _without_ending(true)
    missing = sorted(true.keys() - predicted.keys())
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise FullyconvError(
            "SEG-E006",
            f"{len(missing)} of {len(true)} masks of {truth} have no prediction in {predictions}: {shown}; "
            "predict them, or give a TRUTH folder of just the masks to be scored",
        )
    return [(predicted[name], true[name]) for name in sorted(true)]


def holds_indices(files: Sequence[Path], labels: LabelSet) -> bool:
    """Whether numbers in predictions are class indices; else they are the dataset's own values.

    They are if every one is an index, or the ignore value where that stands for nothing else.
    """
    raw = {} if labels.coded_by_color else dict(labels.table)
    if all(value == index for value, index in raw.items()):
        return True
    legal = set(range(len(labels)))
    if raw.get(labels.ignore_index, labels.ignore_index) == labels.ignore_index:
        legal.add(labels.ignore_index)
    values = _values(files)
    return values is None or values <= legal


def read_prediction(file: Path, labels: LabelSet, indices: bool) -> Tensor:
    """The class indices `(H, W)` of a predicted mask; what is no class index is left in, for the count to refuse.

    Args:
        file: Numbers, or colours: those of a set coded by colour, else the colours of the classes.
        labels: The classes.
        indices: What `holds_indices` said of its folder.
    """
    raw = images.read_raw_mask(file)
    if raw.ndim == 2 and indices:
        return torch.from_numpy(raw if raw.dtype == np.uint8 else raw.astype(np.int64))
    if raw.ndim == 3 and not labels.coded_by_color:
        by_color = tuple((color, index) for index, color in enumerate(labels.colors))
        labels = LabelSet(labels.names, labels.colors, by_color, labels.ignore_index)
    try:
        mask = labels.encode(raw)
    except FullyconvError as error:
        raise FullyconvError(error.code, f"{file} {error.message}") from None
    return torch.from_numpy(mask if mask.dtype == np.uint8 else mask.astype(np.int64))


def _masks(folder: Path) -> dict[str, Path]:
    """The mask files below a folder by stem; the overlays that `predict` writes beside its masks are left out."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in images.MASK_SUFFIXES)
    found: dict[str, Path] = {}
    for file in files:
        if file.stem in found:
            raise FullyconvError(
                "SEG-E006", f"{found[file.stem]} and {file} have one name, so neither can be matched; keep one of them"
            )
        found[file.stem] = file
    found = {
        stem: file for stem, file in found.items() if stem.removesuffix("_overlay") == stem or stem[:-8] not in found
    }
    if not found:
        held = "it does not exist" if not folder.exists() else "it holds none"
        raise FullyconvError("SEG-E006", f"no masks below {folder}: {held}; expected files such as NAME.png")
    return found


def _without_ending(files: dict[str, Path]) -> dict[str, Path]:
    """The files by their names less what all names end in, from its first underscore on."""
    columns = takewhile(lambda letters: len(set(letters)) == 1, zip(*(name[::-1] for name in files), strict=False))
    ending = "".join(letters[0] for letters in columns)[::-1]
    ending = ending[ending.find("_") :] if "_" in ending and len(files) > 1 else ""
    return {name.removesuffix(ending): file for name, file in files.items()}


def _values(files: Iterable[Path]) -> set[int] | None:
    """Every number that some masks hold; None if one holds colours."""
    values: set[int] = set()
    for file in files:
        raw = images.read_raw_mask(file)
        if raw.ndim == 3:
            return None
        values.update(np.unique(raw).tolist())
    return values
