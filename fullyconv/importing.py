"""Networks of the authors' release, of pytorch-fcn and of other toolkits become model folders."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from fullyconv import artefact
from fullyconv.arguments import nearest
from fullyconv.artefact import weight_file
from fullyconv.datasets.classes import read_labels
from fullyconv.errors import FullyconvError
from fullyconv.labels import LabelSet
from fullyconv.models import FCN, LateFusion, Upscoring, create
from fullyconv.models.caffe import BETWEEN, count_kernels, in_our_names, towers_of
from fullyconv.models.foreign import Checkpoint, is_foreign, read_checkpoint
from fullyconv.models.weights import Weights, read_weights
from fullyconv.released import NETS, Inputs, Net, classes_of, only_fit, refuse_another
from fullyconv.surgery import transplant
from fullyconv.wording import counted, shortened

# How pictures are given to `predict`.
PICTURES: dict[Inputs, str] = {
    "color": "photos/",
    "color-d": "'photos/{name}.png' --more 'depth/{name}.png'",
    "hha": "hha/",
    "color-hha": "'photos/{name}.png' --more 'hha/{name}.png'",
}


@dataclass(frozen=True)
class Imported:
    """The model folder that `import_weights` wrote."""

    model: Path
    network: str
    heads: Mapping[str, LabelSet]
    published: bool
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """`{"model", "network", "heads": {name: classes}, "published", "notes"}`."""
        heads = {name: list(labels.names) for name, labels in self.heads.items()}
        return {
            "model": str(self.model),
            "network": self.network,
            "heads": heads,
            "published": self.published,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        counts = " and ".join(f"{len(labels)} {name}" for name, labels in self.heads.items())
        lines = [f"{self.model}: {self.network}, {counts}"]
        lines += ["The file is one that was published, by its MD5."] if self.published else []
        lines += [f"{note[0].upper()}{note[1:]}." for note in self.notes]
        pictures = PICTURES[NETS[self.network].inputs if self.network in NETS else "color"]
        given = f"fullyconv predict {self.model} {pictures}"
        each = [f" --head {name} --out {name}/" for name in self.heads] if len(self.heads) > 1 else [" --out masks/"]
        return "\n".join([*lines, *(given + rest for rest in each)])


def import_weights(
    file: str | Path,
    *,
    as_: str | None = None,
    out: str | Path,
    classes: str | Path | None = None,
    upscore: Upscoring = "fixed",
) -> Imported:
    """Turn a network of the authors' release, of pytorch-fcn or of another toolkit into a model folder.

    Args:
        file: A .caffemodel, a .pth or .safetensors file of weights, a checkpoint that holds them, or the folder of a
            network of transformers.
        as_: The network that it is, such as fcn8s-atonce-vgg16 or nyud-fcn32s-hha; may be left out where the file
            tells. A wrong one is refused.
        out: The model folder.
        classes: File of class names, in place of those of the data set that the network was made for.
        upscore: Which trained upsampling kernels are kept: none, those between taps, or all; not of other toolkits.

    Raises:
        FullyconvError: SEG-M001 for an unknown network; SEG-M022 if the file could be several; SEG-M023 if it is
            another; SEG-M006 if it has other classes; SEG-M004, SEG-M020, SEG-M021 for the file itself; SEG-T012 for
            `upscore` of another toolkit's network; SEG-U008 if the folder exists.

    Example:
        fullyconv import fcn8s-heavy-pascal.caffemodel --as fcn8s-vgg16 --out models/fcn8s
    """
    file, out = Path(file), Path(out)
    if as_ is not None and as_ not in NETS and not is_foreign(as_):
        raise FullyconvError("SEG-M001", f"there is no network {as_}{nearest(as_, NETS) or '; see ' + ', '.join(NETS)}")
    if out.exists():
        raise FullyconvError("SEG-U008", f"{out} exists already; move it away or name another folder with --out")
    if as_ is not None and is_foreign(as_):
        if upscore != "fixed":
            raise FullyconvError("SEG-T012", f"{as_} keeps its own upsampling; leave --upscore out")
        return _import_foreign(file, as_, out, classes)
    weights = read_weights(file)
    name = only_fit(weights) if as_ is None else as_
    net = NETS[name]
    refuse_another(weights, name)
    heads = _heads(weights, net, None if classes is None else Path(classes))
    architecture = {**net.architecture, "num_classes": sum(map(len, heads.values())), "upscore": upscore}
    model = create(**{**architecture, **net.statistics})
    notes = _fill(model, weights, name)
    origin = {"file": file.name, "sha256": _digest(file), "network": name, "published": weights.verified}
    artefact.save(
        out,
        model,
        next(iter(heads.values())),
        architecture,
        {"imported": origin},
        bands=net.bands,
        heads=heads if len(heads) > 1 else None,
    )
    return Imported(out, name, heads, weights.verified, notes)


def _import_foreign(file: Path, name: str, out: Path, classes: str | Path | None) -> Imported:
    """A segmentation network of another toolkit as a model folder.

    Raises:
        FullyconvError: SEG-M006 if there are no names for its classes.
    """
    architecture: dict[str, Any] = {"name": name}
    statistics: dict[str, Sequence[float]] = {}
    notes: tuple[str, ...] = ()
    if name.startswith("hf:"):
        checkpoint = read_checkpoint(file, name.removeprefix("hf:"))
        weights, file = checkpoint.tensors, weight_file(file)
        labels = _labels_of(checkpoint, file) if classes is None else read_labels(Path(classes))
        architecture |= {"config": checkpoint.config, "channels": checkpoint.bands}
        statistics = dict(checkpoint.statistics)
        if not statistics:
            usual = "ImageNet's" if checkpoint.bands == 3 else "0.5 and 0.25"
            notes = (f"its folder tells no mean and std of {counted(checkpoint.bands, 'band')}: {usual} are taken",)
    elif classes is None:
        raise FullyconvError("SEG-M006", f"{file} names no classes; list their names in --classes FILE")
    else:
        weights, labels = read_weights(file).tensors, read_labels(Path(classes))
    architecture["num_classes"] = len(labels)
    model = create(**architecture)
    _fill_foreign(model, weights, file, name)
    transplant(model, {key: torch.tensor(values) for key, values in statistics.items()})
    origin = {"file": file.name, "sha256": _digest(file), "network": name, "published": False}
    artefact.save(out, model, labels, architecture, {"imported": origin})
    return Imported(out, name, {"classes": labels}, False, notes)


def _fill_foreign(model: FCN, weights: Mapping[str, torch.Tensor], file: Path, name: str) -> None:
    """Fills a network of another toolkit with the weights of a file, changing it.

    Raises:
        FullyconvError: SEG-M006 if it has not as many classes as the file's; SEG-M023 if the weights are of another
            network.
    """
    wanted = model.network.state_dict()  # type: ignore[union-attr]
    inner = {key.removeprefix("model."): value for key, value in weights.items()}
    found = weights if wanted.keys() <= weights.keys() else inner
    missing = [key for key in wanted if key not in found]
    foreign = [key for key in found if key not in wanted and not key.startswith("aux_classifier.")]
    if missing or foreign:
        raise FullyconvError(
            "SEG-M023",
            f"{file} is not {name}: it {f'lacks {missing[0]}' if missing else f'holds {foreign[0]}'}; name the network "
            "that it was saved from with --as",
        )
    unlike = [key for key in wanted if wanted[key].shape != found[key].shape]
    if unlike:
        theirs, ours = tuple(found[unlike[-1]].shape), tuple(wanted[unlike[-1]].shape)
        raise FullyconvError(
            "SEG-M006",
            f"{file} has {theirs} values in {unlike[-1]}, and {name} with {counted(model.num_classes, 'class')} has "
            f"{ours}; list the names of all its classes in --classes FILE",
        )
    transplant(model, {f"network.{key}": found[key] for key in wanted})


def _labels_of(checkpoint: Checkpoint, file: Path) -> LabelSet:
    """The classes that a network of transformers names.

    Raises:
        FullyconvError: SEG-M006 if two have one name.
    """
    try:
        return LabelSet(checkpoint.names)
    except ValueError as error:
        raise FullyconvError("SEG-M006", f"{file}: {error}; list the names of its classes in --classes FILE") from error


def _digest(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _heads(weights: Weights, net: Net, classes: Path | None) -> Mapping[str, LabelSet]:
    """The labels of each head, as many as it has score channels.

    Raises:
        FullyconvError: SEG-M006 if they are not.
    """
    heads = net.heads
    if classes is not None and len(heads) > 1:
        raise FullyconvError(
            "SEG-M006", f"--classes names the classes of one head, and {weights.file} has {len(heads)}"
        )
    if classes is not None:
        heads = dict.fromkeys(heads, read_labels(classes))
    found, named = classes_of(weights), tuple(map(len, heads.values()))
    if found != named:
        raise FullyconvError(
            "SEG-M006",
            f"{weights.file} scores {' and '.join(map(str, found))} classes, and {classes or net.layout} has "
            f"{' and '.join(map(str, named))}; name them with --classes FILE, one a line",
        )
    return heads


def _fill(model: FCN, weights: Weights, name: str) -> tuple[str, ...]:
    """Fills a network with the weights of a file, changing it; gives what the user should know, in sentences."""
    inputs = NETS[name].inputs
    towers = list(model.towers) if isinstance(model, LateFusion) else [model]
    of_towers = towers_of(replace(weights, bgr=inputs != "hha"))
    told = [_fill_tower(tower, part, name) for tower, part in zip(towers, of_towers, strict=True)]
    depth = "its fourth band is depth in millimetres, as a picture of 16 bits, whose logarithm it takes itself"
    # What an upsampling above two towers loses is told by both.
    return (*dict.fromkeys(chain.from_iterable(told)), *([depth] if inputs == "color-d" else []))


def _fill_tower(model: FCN, weights: Weights, name: str) -> tuple[str, ...]:
    """Fills a network of one tower with its weights, changing it; gives what had no place in it, in sentences.

    Raises:
        FullyconvError: SEG-M021 for upsampling kernels that would be lost; SEG-M023 if any other weight has no place,
            or none was found for one of the network's.
    """
    ours = in_our_names(weights, model)
    taken = transplant(model, ours)
    between = [each for each in taken.dropped if each.endswith(BETWEEN)]
    foreign = [each for each in taken.dropped if each not in between]
    missing = [each for each in taken.missing if each not in ("mean", "std", "log_bands") and "upscore" not in each]
    if foreign or missing:
        told = f"{shortened(foreign, 3)} fit nowhere" if foreign else f"{shortened(missing, 3)} are not in it"
        raise FullyconvError("SEG-M023", f"{weights.file} is no {name}: {told}; give the whole network of that name")
    return tuple(
        f"{each.removesuffix(BETWEEN)}carried scores between classes by {count_kernels(ours[each])} of its kernels, of "
        f"up to {float(ours[each].abs().max()):.2g}, which have no place and are left out"
        for each in between
    )
