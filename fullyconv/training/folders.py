"""Run folders: which one a command means, what it was begun with, and how it is opened."""

import hashlib
import json
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml

from fullyconv import artefact
from fullyconv.datasets import Dataset, open_dataset, with_heads
from fullyconv.datasets.overlap import validated_on
from fullyconv.errors import FullyconvError
from fullyconv.training.plan import Plan
from fullyconv.training.stages import staged_options
from fullyconv.writing import write_json, write_text


def opened(data: str | Path | Dataset, also: Sequence[str | Dataset], val: str | Dataset | None) -> Dataset:
    """The data set to train on, with further heads and with other images to validate on where those are given.

    Raises:
        FullyconvError: SEG-T012 if the other images are its own, and SEG-D and SEG-T codes for what cannot be opened.
    """
    dataset = with_heads(open_dataset(data), also)
    if val is None:
        return dataset
    other = with_heads(open_dataset(val), also)
    own, others = ({pair.image.resolve() for pair in each.splits.get("val", ())} for each in (dataset, other))
    if own and own == others:
        raise FullyconvError("SEG-T012", f"the images of --val {other} are validated on without it; leave --val out")
    return validated_on(dataset, other)


def run_folder(dataset: Dataset, model: str, out: Path | None, resume: bool) -> Path:
    """Where the run stands or shall stand; a folder with anything in it is refused unless resumed.

    Args:
        dataset: Gives the folder its name if `out` is None.
        model: Name of the network; gives the folder its name too.
        out: Where it was asked for.
        resume: Whether a run may stand there.

    Raises:
        FullyconvError: SEG-T001 if something stands there.
    """
    if out is None:
        short = re.sub(r"[^\w.-]+", "-", model)  # of torchvision:resnet18 or file.py:function
        base = Path("runs") / f"{dataset.root.resolve().name}-{short}"
        numbered = [base, *(base.with_name(f"{base.name}-{number}") for number in range(2, 1000))]
        return next(folder for folder in numbered if not folder.exists())
    if out.is_file() or (not resume and out.exists() and any(out.iterdir())):
        begun = (out / "plan.json").is_file() or staged_options(out)
        cure = "go on with that run by --resume, or" if begun else "it holds no run that could go on;"
        raise FullyconvError("SEG-T001", f"{out} exists already; {cure} choose another name with --out")
    return out


def newest_run(data: str | Path | Dataset, also: Sequence[str | Dataset], val: str | Dataset | None) -> Path | None:
    """The newest run under runs/ that was begun on these data, of a staged one the whole; None if there is none.

    Args:
        data: As `train` takes them.
        also: Further heads; each run's own if there are none.
        val: Images to validate on; each run's own if left out.
    """

    @cache
    def fingerprint(its_also: tuple[str, ...], its_val: str | None) -> dict[str, Any] | None:
        try:
            return fingerprint_of(opened(data, also or its_also, val or its_val))
        except FullyconvError:  # what another run needed is no longer there
            return None

    found = (*Path("runs").glob("*/plan.json"), *Path("runs").glob("*/*/plan.json"))
    for file in sorted(found, key=lambda file: file.stat().st_mtime, reverse=True):
        try:
            plan = _plan_in(file)
            same = fingerprint(plan.also, plan.val) == plan.fingerprint
        except (FullyconvError, OSError):  # a damaged plan is passed over
            continue
        if same:
            whole = file.parent.parent
            return whole if staged_options(whole) else file.parent
    return None


def begun_with(out: str | Path | None, option: str) -> Any:
    """What an option was when the run in a folder was begun; None if there is no run.

    Raises:
        FullyconvError: SEG-T002 if its plan cannot be read.
    """
    if out is None:
        return None
    plans = [*Path(out).glob("plan.json"), *Path(out).glob("*/plan.json")]
    # A staged run may have been stopped before its first stage had a plan.
    return getattr(_plan_in(plans[0]), option) if plans else (staged_options(Path(out)) or {}).get(option)


def saved_plan(folder: Path, dataset: Dataset, fingerprint: Mapping[str, Any]) -> Plan:
    """The plan of the run that goes on, if the data are still what it was made for.

    Raises:
        FullyconvError: SEG-T002 if there is no run or its plan cannot be read, SEG-T009 if the data are others.
    """
    saved = folder / "plan.json"
    if not saved.is_file():
        raise FullyconvError(
            "SEG-T002", f"{folder} holds no plan.json, so there is nothing to resume; leave --resume out to begin"
        )
    plan = _plan_in(saved)
    if plan.fingerprint != fingerprint:
        raise FullyconvError(
            "SEG-T009",
            f"{folder} was begun on {plan.data} ({_counted(plan.fingerprint)}); {dataset} ({_counted(fingerprint)}) "
            f"has other classes, names or sizes of files; resume with the data as they were, or begin a new run with "
            f"--pretrained {folder}",
        )
    return plan


def _plan_in(file: Path) -> Plan:
    """The plan that a file holds; SEG-T002 if that is none of this version."""
    try:
        return Plan.from_json(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as fault:
        raise FullyconvError(
            "SEG-T002",
            f"{file} is no plan of this version ({type(fault).__name__}: {fault}); put it back as the run wrote it, or "
            "begin a run under another --out",
        ) from None


def _counted(fingerprint: Mapping[str, Any]) -> str:
    return ", ".join(f"{split}: {number}" for split, number in fingerprint["images"].items())


def open_run(folder: Path, plan: Plan, options: Mapping[str, Any]) -> None:
    """Writes down what a run is: its environment, what it was asked for, and its plan."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        **artefact.versions(),
    }
    write_json(folder / "env.json", environment)
    write_text(folder / "args.yaml", yaml.safe_dump(dict(options)))
    write_json(folder / "plan.json", plan.to_json())  # last: a run is what has a plan


def fingerprint_of(dataset: Dataset) -> dict[str, Any]:
    """Which data a model saw: the classes, and the names and sizes of the files that exist, hashed."""
    digest = hashlib.sha256()
    for head in dataset.heads.values():
        digest.update(json.dumps(head.labels.to_dict()).encode())
        for split in ("train", "val"):
            for pair in head.pairs(split):
                files = (*pair.pictures, pair.mask)
                sizes = [file.stat().st_size for file in files if file and file.exists()]
                digest.update(repr((split, pair.name, sizes)).encode())
    return {
        "layout": dataset.layout,
        "fingerprint": digest.hexdigest(),
        "images": {split: len(pairs) for split, pairs in dataset.splits.items()},
    }
