"""Data sets on disk: one small file per layout, and the one door that opens them all."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fullyconv.datasets import ade20k, camvid, cityscapes, folder, manifest, nyud, pascal_context, sbd, siftflow, voc
from fullyconv.datasets.dataset import Dataset, Layout, Pair, nearest, with_val
from fullyconv.datasets.heads import also_labelled
from fullyconv.errors import FullyconvError
from fullyconv.wording import shortened

__all__ = ["LAYOUTS", "Dataset", "Layout", "Pair", "open_dataset", "with_heads"]

# Options of every layout: which of its splits is used as train, and which as val.
ROLES = ("train", "val")
# In the order in which they are tried: folder takes whatever has pictures in it.
LAYOUTS: dict[str, Layout] = {
    "camvid": camvid.LAYOUT,
    "pascal_context": pascal_context.LAYOUT,  # before voc, whose folders it has, too
    "voc": voc.LAYOUT,
    "sbd": sbd.LAYOUT,
    "nyud": nyud.LAYOUT,
    "siftflow": siftflow.LAYOUT,
    "cityscapes": cityscapes.LAYOUT,
    "ade20k": ade20k.LAYOUT,
    "manifest": manifest.LAYOUT,
    "folder": folder.LAYOUT,
}


def open_dataset(data: str | Path | Dataset) -> Dataset:
    """The pairs, splits and labels of a data set.

    Args:
        data: A path whose layout is recognised, or `LAYOUT:PATH` to say it; either may end in `?option=value&...`.
            `train=NAME` and `val=NAME` say which of the splits to use as train and as val; the others are those of the
            layout's `read`, such as `folder:PATH?images=img/{name}.jpg&masks=gt/{name}_L.png`. A `Dataset` comes back
            as it is.

    Raises:
        FullyconvError: SEG-D001 if the path does not exist, SEG-D002 if its layout is not recognised, SEG-D003 if
            no image has a mask, SEG-D004 if there is no layout of the name, SEG-D025 if it has no such option.
    """
    if isinstance(data, Dataset):
        return data
    name, path, options = _parsed(str(data))
    if not path.exists():
        raise _missing(path)
    name = name or next((known for known, layout in LAYOUTS.items() if layout.recognise(path)), "")
    if not name:
        raise _unrecognised(path)
    known = (*LAYOUTS[name].options, *ROLES)
    unknown = next((option for option in options if option not in known), None)
    if unknown:
        raise FullyconvError("SEG-D025", f"the layout {name} has no option {unknown!r}; it has {', '.join(known)}")
    roles = {role: options.pop(role) for role in ROLES if role in options}
    return _in_roles(replace(LAYOUTS[name].read(path, **options), given=str(data)), roles)


def with_heads(dataset: Dataset, also: Sequence[str | Dataset]) -> Dataset:
    """The data set with further labels of its images, from each of which a network learns a further head.

    Args:
        dataset: Its images, splits and labels come first.
        also: Data sets that hold masks of the same images, matched by name: `Dataset`, `DATA`, or `NAME=DATA` to say
            what the head is called.

    Raises:
        FullyconvError: SEG-D031 if no image has a mask among them, or two heads would share a name; and those of
            `open_dataset`.
    """
    for given in also:
        name, other = "", given
        if isinstance(given, str) and not Path(given).exists():
            match = re.fullmatch(r"([\w-]+)=(.+)", given)
            name, other = match.groups() if match else ("", given)
        dataset = also_labelled(dataset, open_dataset(other), name)
    return dataset


def _in_roles(dataset: Dataset, roles: dict[str, str]) -> Dataset:
    """The data set with the splits that are named as train and val; val is taken from train if there is none."""
    chosen = {role: dataset.pairs(split) for role, split in roles.items()}
    also = tuple(_in_roles(other, roles) for other in dataset.also)
    return with_val(replace(dataset, splits={**dataset.splits, **chosen}, also=also))


def _parsed(data: str) -> tuple[str, Path, dict[str, str]]:
    """Layout, path and options of `LAYOUT:PATH?images=...`; a path that exists is never taken apart."""
    if Path(data).exists():
        return "", Path(data), {}
    match = re.fullmatch(r"([\w-]{2,}):(.+)", data)  # C:\data names no layout
    name, rest = match.groups() if match else ("", data)
    if name and name not in LAYOUTS:
        similar = nearest(name, LAYOUTS)
        hint = f"; did you mean {similar}:{rest}?" if similar else ""
        raise FullyconvError("SEG-D004", f"there is no layout {name!r}; there are {', '.join(LAYOUTS)}{hint}")
    path, _, query = rest.partition("?")
    if not query or Path(rest).exists():
        return name, Path(rest), {}
    values: dict[str, list[str]] = defaultdict(list)
    for part in query.split("&"):  # to the letter: file names may hold + and %
        option, _, value = part.partition("=")
        values[option].append(value)
    return name, Path(path), {option: ";".join(given) for option, given in values.items()}


def _missing(path: Path) -> FullyconvError:
    """SEG-D001 with the most similar path that exists."""
    parent = next(folder for folder in path.absolute().parents if folder.is_dir())
    wanted = path.absolute().relative_to(parent).parts[0]
    similar = nearest(wanted, (entry.name for entry in parent.iterdir()))
    hint = f"did you mean {parent / similar}?" if similar else f"the nearest folder that exists is {parent}"
    return FullyconvError("SEG-D001", f"there is no {path}; {hint}")


def _unrecognised(path: Path) -> FullyconvError:
    if path.is_file():
        found = f"a file that ends in {path.suffix or 'nothing'}"
    else:
        names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in path.iterdir())
        found = f"no pictures in it, but {shortened(names, 6)}" if names else "nothing in it"
    known = "; ".join(layout.title for layout in LAYOUTS.values())
    return FullyconvError("SEG-D002", f"{path} has no layout that is known: found {found}. What would work: {known}")
