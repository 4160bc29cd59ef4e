"""The model folder: weights, labels, preprocessing and provenance, readable without pickle and without a network."""

import json
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fullyconv.errors import FullyconvError
from fullyconv.labels import LabelSet
from fullyconv.models import FCN, create
from fullyconv.wording import shortened
from fullyconv.writing import set_aside, whole

FORMAT = 1
WEIGHTS, CONFIG, README = "model.safetensors", "config.json", "README.md"
# What is made later, and not by `save`:
RUNTIME = "runtime.json"  # what was found the fastest for the model on which machine
GRAPHS = "graph-"  # begins the names of the network's files for other runtimes

# What `save` itself writes into config.json; all else are facts, which come from its caller and outlive it.
OWN = ("format", "architecture", "labels", "heads", "preprocessing", "geometry", "versions")


def save(
    folder: Path,
    model: FCN,
    labels: LabelSet,
    architecture: Mapping[str, Any],
    facts: Mapping[str, Any] | None = None,
    *,
    bands: Sequence[int] = (),
    heads: Mapping[str, LabelSet] | None = None,
) -> None:
    """Writes a model folder; an older one of the same name is replaced only when the new one is whole.

    Args:
        folder: `model.safetensors`, `config.json` and `README.md` come to stand here.
        model: Its weights and buffers.
        labels: The classes that it predicts; of several heads, the first one's.
        architecture: The arguments of `models.create` that build it.
        facts: What else is worth keeping: metrics with their convention, the data's fingerprint, the plan, or where the
            weights were imported from.
        bands: Of each picture of a scene; if left out, all in one picture.
        heads: The labels of each of several heads, which are blocks of score channels, in order.

    Raises:
        FullyconvError: SEG-M012 if the folder holds anything else than an earlier model.
    """
    _refuse_foreign(folder)
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    config = {
        "format": FORMAT,
        "architecture": dict(architecture),
        "labels": labels.to_dict(),
        "heads": [{"name": name, "labels": each.to_dict()} for name, each in (heads or {}).items()],
        "preprocessing": {
            "range": [0, 1],
            "channels": model.mean.shape[1],
            "bands": list(bands) or [model.mean.shape[1]],
            "mean": model.mean.flatten().tolist(),
            "std": model.std.flatten().tolist(),
        },
        "geometry": {
            "taps": [
                {"stride": str(grid.stride), "start": str(grid.start), "field": str(grid.field)} for grid in model.grids
            ],
            "global_operations": list(model.global_operations),
        },
        "versions": versions(),
    }
    assert tuple(config) == OWN
    config |= facts or {}
    with whole(folder, durable=True) as fresh:
        fresh.mkdir()
        write_tensors(fresh / WEIGHTS, state)
        (fresh / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (fresh / README).write_text(_readme(config), encoding="utf-8")


def write_tensors(file: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes a new .safetensors file, with the permissions of any new file: the library's own are the owner's alone.

    Raises:
        OSError: Naming the file, if the system refuses it, as for a full disk.
    """
    file.touch()
    mode = file.stat().st_mode
    try:
        save_file(tensors, file, metadata=metadata)
    except SafetensorError as fault:
        told = re.search(r"I/O error: (.+) \(os error (\d+)\)", str(fault))
        if not told:
            raise
        raise OSError(int(told[2]), told[1], str(file)) from fault
    file.chmod(mode)


def labels_of_heads(config: Mapping[str, Any]) -> dict[str, LabelSet]:
    """The labels of each head in a `config.json`, by name, in the order of their score channels; empty for one head."""
    return {head["name"]: LabelSet.from_dict(head["labels"]) for head in config.get("heads", [])}


def facts_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a `config.json` tells beyond the network itself: the `facts` that it was saved with."""
    return {key: value for key, value in config.items() if key not in OWN}


def load(folder: Path) -> tuple[FCN, LabelSet, dict[str, Any]]:
    """The model of a model folder, or of a run folder's best, with its labels and its whole `config.json`.

    Raises:
        FullyconvError: SEG-M010 if there is no model folder, SEG-M011 if a file is damaged, does not fit, or is of a
            later format.
    """
    place = place_of(folder)
    try:
        config: dict[str, Any] = json.loads((place / CONFIG).read_text(encoding="utf-8"))
        if config["format"] > FORMAT:
            raise FullyconvError(
                "SEG-M011",
                f"{place} has format {config['format']}, and this version reads format {FORMAT}; update fullyconv",
            )
        labels = LabelSet.from_dict(config["labels"])
        model = create(**{**config["architecture"], "pretrained": False})
    except (FullyconvError, OSError):
        raise
    except Exception as error:  # layers stumble over damaged descriptions in as many ways as there are layers
        raise FullyconvError("SEG-M011", f"{place / CONFIG} is damaged ({error!r}); copy the folder again") from error
    try:
        model.load_state_dict(load_file(place / WEIGHTS))
    except (OSError, SafetensorError) as error:
        raise FullyconvError(
            "SEG-M011", f"{place / WEIGHTS} is damaged ({' '.join(str(error).split())}); copy the folder again"
        ) from error
    except RuntimeError as error:
        written = config.get("versions", {}).get("fullyconv", "?")
        raise FullyconvError(
            "SEG-M011",
            f"{place / WEIGHTS} is of another network than {place / CONFIG} tells; it was written by fullyconv "
            f"{written}, so load it with that version, or copy the folder again",
        ) from error
    return model.eval(), labels, config


def place_of(folder: Path) -> Path:
    """The model folder that is meant: the folder itself, or a run folder's best.

    Raises:
        FullyconvError: SEG-M010 if there is none.
    """
    inner = (folder, folder / "model", set_aside(folder / "model"))
    place = next((candidate for candidate in inner if (candidate / CONFIG).is_file()), None)
    if place is None:
        raise FullyconvError("SEG-M010", _no_model(folder))
    return place


def _refuse_foreign(folder: Path) -> None:
    held = {item.name for item in folder.iterdir()} if folder.is_dir() else set()
    foreign = sorted(name for name in held - {WEIGHTS, CONFIG, README, RUNTIME} if not name.startswith(GRAPHS))
    if folder.is_file() or foreign:
        shown = ", ".join(foreign[:3]) or "it is a file"
        raise FullyconvError(
            "SEG-M012", f"{folder} holds other things than a model ({shown}); give another name, such as {folder}/model"
        )


def weight_file(path: Path) -> Path:
    """The weights at a path: the file itself, or those of a model folder or of a run folder's best."""
    inner = (path, path / WEIGHTS, path / "model" / WEIGHTS)
    file = next((candidate for candidate in inner if candidate.is_file()), None)
    if file is None:
        raise FullyconvError(
            "SEG-M004",
            f"{path} is no weight file and holds none; give a .safetensors, .pth or .caffemodel file or a run",
        )
    return file


def _no_model(folder: Path) -> str:
    if not folder.exists():
        near = sorted(place.parent for place in folder.parent.glob(f"[!.]*/{CONFIG}")) if folder.parent.exists() else []
        runs = (
            sorted(place.parents[1] for place in folder.parent.glob(f"[!.]*/model/{CONFIG}"))
            if folder.parent.exists()
            else []
        )
        found = ", ".join(str(place) for place in [*runs, *near][:3])
        return (
            f"{folder} does not exist; {f'models nearby: {found}' if found else 'train one with: fullyconv train DATA'}"
        )
    if any(folder.glob("checkpoints")) or any(folder.glob("*/checkpoints")):
        return f"{folder} is a run that has no model yet; go on with: fullyconv train DATA --out {folder} --resume"
    return (
        f"{folder} holds no {CONFIG}, so it is neither a model folder nor a run; train one with: fullyconv train DATA"
    )


def versions() -> dict[str, str]:
    """The versions of what a result depends on."""
    found = {}
    for package in ("fullyconv", "torch", "torchvision", "timm", "numpy", "accelerate"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _readme(config: Mapping[str, Any]) -> str:
    heads = labels_of_heads(config) or {"": LabelSet.from_dict(config["labels"])}
    counts = " and ".join(f"{len(labels)} {name}".strip() for name, labels in heads.items())
    classes = "\n\n".join(
        f"Classes{name and f' of {name}'}: {shortened(labels.names, 20)}" for name, labels in heads.items()
    )
    scores = config.get("metrics", {})
    table = "\n".join(f"| {name} | {value:.4f} |" for name, value in scores.items() if isinstance(value, float))
    return f"""# {config["architecture"]["name"]}, {counts} classes

A fully convolutional network made with fullyconv {config["versions"]["fullyconv"]}.

```python
import fullyconv

result = fullyconv.load("this/folder")("photo.jpg")
result.overlay().save("overlay.png")
```

{classes}

{"| score (fractions, paper's convention) | value |" + chr(10) + "|---|---|" + chr(10) + table if table else ""}
"""
