"""The same images under several sets of labels, as SIFT Flow's semantic and geometric ones: a head for each."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from fullyconv.datasets.dataset import Dataset, Pair, nearest
from fullyconv.errors import FullyconvError


def also_labelled(dataset: Dataset, other: Dataset, name: str) -> Dataset:
    """The data set with one more of `also`: its own images, with the masks and labels that `other` has for them.

    Args:
        dataset: Says which images there are, and in which splits.
        other: Masks are taken from the pair of the same name, of the same split where a name is in several.
        name: Of the head; empty for that of `other`.

    Raises:
        FullyconvError: SEG-D031 if no image has a mask in `other`, or there is a head of the name.
    """
    masks = _masks_by_name(other)
    splits = {
        split: tuple(replace(pair, mask=_mask_of(pair, split, masks)) for pair in pairs)
        for split, pairs in dataset.splits.items()
    }
    if not any(pair.mask for pairs in splits.values() for pair in pairs):
        first = next(pair.name for pairs in dataset.splits.values() for pair in pairs)
        similar = nearest(first, masks)
        raise FullyconvError(
            "SEG-D031",
            f"{other} has no mask for any image of {dataset}: there is none called {first!r}"
            + (f"; the nearest is {similar!r}" if similar else ""),
        )
    head = replace(other, splits=splits, name=name or other.head, also=())
    if head.name in dataset.heads:
        raise FullyconvError(
            "SEG-D031",
            f"two heads would be called {head.name!r}; heads are named after the folders of their masks, or so: "
            f"--also '{head.name}2={other}'",
        )
    return replace(dataset, also=(*dataset.also, head))


def _masks_by_name(dataset: Dataset) -> dict[str, dict[str, Path]]:
    """The masks of each name, by split."""
    masks: dict[str, dict[str, Path]] = defaultdict(dict)
    for split, pairs in dataset.splits.items():
        for pair in pairs:
            if pair.mask is not None:
                masks[pair.name][split] = pair.mask
    return masks


def _mask_of(pair: Pair, split: str, masks: dict[str, dict[str, Path]]) -> Path | None:
    """The mask for a pair; None if there is none, or several and none of them in the pair's split."""
    of_name = masks.get(pair.name, {})
    only = next(iter(of_name.values())) if len(set(of_name.values())) == 1 else None
    return of_name.get(split, only)
