"""Folders of masks from any tool: which prediction belongs to which truth, and what its numbers or colours mean."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fullyconv import images
from fullyconv.datasets.dataset import shared_ends
from fullyconv.errors import FullyconvError
from fullyconv.labels import LabelSet, count_raw
from fullyconv.wording import shortened

Array = np.ndarray[Any, Any]


def matched(predictions: Path, truth: Path) -> list[tuple[Path, Path]]:
    """Prediction and truth of each name, in order of the names; predictions without a truth are left aside.

    Names are paths below the folders; where these do not agree, the names of the files; and where none of those does,
    the words that all names of a folder end in, such as `_gtFine_labelIds`, are left out.

    Raises:
        FullyconvError: SEG-E006 if a truth has no prediction, a name occurs twice, or a folder holds no masks.
    """
    predicted, true = _masks(predictions), _masks(truth)
    stems_differ = all(len({file.stem for file in files.values()}) == len(files) for files in (predicted, true))
    if not true.keys() <= predicted.keys() and (stems_differ or not true.keys() & predicted.keys()):
        predicted, true = _by_file_name(predicted), _by_file_name(true)
    if not predicted.keys() & true.keys():
        predicted, true = _without_ending(predicted), _without_ending(true)
    missing = sorted(true.keys() - predicted.keys())
    if missing:
        raise FullyconvError(
            "SEG-E006",
            f"{len(missing)} of {len(true)} masks of {truth} have no prediction in {predictions}: {shortened(missing)}"
            "; predict them, or give a TRUTH folder of just the masks to be scored",
        )
    return [(predicted[name], true[name]) for name in sorted(true)]


def holds_indices(pairs: Sequence[tuple[Path, Path]], labels: LabelSet) -> bool:
    """Whether numbers in predictions are class indices; else they are the dataset's own values.

    They are if every one is an index, or the ignore value where that stands for nothing else, and if they would be
    wrong as the dataset's values: unknown, or ignored where the truth counts.

    Args:
        pairs: Prediction and truth.
        labels: The classes.

    Raises:
        FullyconvError: SEG-E008 if both readings are possible and differ.
    """
    raw = {} if labels.coded_by_color else dict(labels.table)
    if all(value == index for value, index in raw.items()):
        return True
    legal = set(range(len(labels)))
    if raw.get(labels.ignore_index, labels.ignore_index) == labels.ignore_index:
        legal.add(labels.ignore_index)
    values = _values(predicted for predicted, _ in pairs)
    if values is None or not values <= legal:
        return values is None
    differing = sorted(value for value in values if raw.get(value) != value)
    if values <= raw.keys() and differing and not _ignores_what_counts(pairs, labels):
        value = differing[0]
        kept = raw[value] < len(labels)
        raise FullyconvError(
            "SEG-E008",
            f"the predictions hold {len(values)} values, which may be class indices or the data's own: {value} is "
            f"{labels.names[value]} as an index, {labels.names[raw[value]] if kept else 'ignored'} as a value; "
            "say --coding index or --coding raw",
        )
    return True


def _ignores_what_counts(pairs: Sequence[tuple[Path, Path]], labels: LabelSet) -> bool:
    """Whether predictions, read as the dataset's values, are ignored on a pixel whose truth counts."""
    for predicted, true in pairs:
        pred, target = read_prediction(predicted, labels, False), images.read_mask(true, labels)
        ignored = pred == labels.ignore_index
        if pred.shape == target.shape and bool((ignored & (target != labels.ignore_index)).any()):
            return True
    return False


def read_prediction(file: Path, labels: LabelSet, indices: bool) -> Tensor:
    """The class indices `(H, W)` of a predicted mask; what is no class index is left in, for the count to refuse.

    Args:
        file: Numbers, or colours: those of a set coded by colour, else the colours of the classes.
        labels: The classes.
        indices: What `holds_indices` said of its folder.
    """
    raw = _colors_of_palette(file, labels) if labels.coded_by_color else None
    raw = images.read_raw_mask(file) if raw is None else raw
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


def _colors_of_palette(file: Path, labels: LabelSet) -> Array | None:
    """The colours of an index picture `(H, W, 3)` if all of them stand for something in the labels."""
    if file.suffix.lower() == ".mat" or images.palette_colors(file) is None:
        return None
    colors = images.read_raw_mask(file, colors=True)
    return colors if count_raw(colors).keys() <= {raw for raw, _ in labels.table} else None


def _masks(folder: Path) -> dict[str, Path]:
    """The mask files below a folder by path without suffix; hidden files, and the overlays that `predict` writes beside
    its masks, are left out."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in images.MASK_SUFFIXES)
    paths = {file: file.relative_to(folder) for file in files}
    found = _keyed(
        {file: path.with_suffix("").as_posix() for file, path in paths.items() if not _is_hidden(path)},
    )
    found = {
        name: file
        for name, file in found.items()
        if not name.endswith("_overlay") or name[: -len("_overlay")] not in found
    }
    if not found:
        held = "it does not exist" if not folder.exists() else "it holds none"
        raise FullyconvError("SEG-E006", f"no masks below {folder}: {held}; expected files such as NAME.png")
    return found


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _keyed(names: Mapping[Path, str]) -> dict[str, Path]:
    """The files by their names, which must differ."""
    found: dict[str, Path] = {}
    for file, name in names.items():
        if name in found:
            raise FullyconvError(
                "SEG-E006", f"{found[name]} and {file} have one name, so neither can be matched; keep one of them"
            )
        found[name] = file
    return found


def _by_file_name(files: Mapping[str, Path]) -> dict[str, Path]:
    return _keyed({file: file.stem for file in files.values()})


def _without_ending(files: Mapping[str, Path]) -> dict[str, Path]:
    """The files by their names less the words that all names end in."""
    _, ending = shared_ends(list(files))
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
