"""Classifiers become segmenters: the conversion, its certificate, and the model folder."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import timm
import torch
from torch import Tensor, fx, nn

from fullyconv import artefact, means
from fullyconv.arguments import Count, Within, bounded
from fullyconv.datasets.classes import read_json, read_labels
from fullyconv.errors import FullyconvError
from fullyconv.labels import MOST_CLASSES, LabelSet
from fullyconv.models import FCN, Classifier, Upscoring, classifier, create, dense_form, fcn_over
from fullyconv.models.caffe import in_names_of_classifiers
from fullyconv.models.classic import CLASSICS, in_geometry
from fullyconv.models.classifiers import (
    in_bands,
    in_bands_of,
    is_in_file,
    native_size,
    not_convertible,
    settings_of,
    statistics_of,
)
from fullyconv.models.transformers import DenseTransformer
from fullyconv.models.weights import read_weights
from fullyconv.prediction import Segmenter
from fullyconv.surgery import DenseClassifier, NotConvertible, Transplant, describe, transplant, twin
from fullyconv.wording import counted, shortened

EXACT = 1e-4  # of the largest logit: what a conversion may change
_IDLE = re.compile(r"^(aux|AuxLogits|loss[12])[^.]*\.|num_batches_tracked$")  # weights that only training reads

# New classes and the classifier's own that each of them stands for.
Origins = Mapping[str, Sequence[int]]


Stride = Literal[4, 8, 16, 32]
Divisors = Annotated[Sequence[float], Within(above=0)]


def _shown(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


@dataclass(frozen=True)
class Tap:
    """A feature map that is scored."""

    layer: str
    stride: int
    channels: int


@dataclass(frozen=True)
class Certificate:
    """What a conversion changed, measured at the classifier's own size, and what came of it.

    Args:
        max_abs: The largest difference of any logit, over two random images.
        relative: The same, as a share of the largest logit.
        size: The classifier's own height and width.
        stride: Pixels between the scores of its own head.
        receptive_field: Pixels that such a score sees along an axis.
        padding: Pixels that the first score sees beyond the image's border.
        translation_exact: Whether scores move with the image: nothing looks at the whole of it.
        taps: The maps that the segmenter scores, finest first.
        kept: Names of the classifier's weights that the segmenter has.
        dropped: Names of those that it has not.
        mean: Of each band of the images, subtracted first.
        std: Of each band; divided by next.
    """

    max_abs: float
    relative: float
    size: tuple[int, int]
    stride: int
    receptive_field: int
    padding: float
    translation_exact: bool
    taps: tuple[Tap, ...]
    kept: tuple[str, ...]
    dropped: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """All of it, with taps as objects."""
        return {
            **self.__dict__,
            "size": list(self.size),
            "taps": [tap.__dict__ for tap in self.taps],
            "kept": list(self.kept),
            "dropped": list(self.dropped),
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def __str__(self) -> str:
        shown = "x".join(map(str, self.size))
        sees = f"sees {self.receptive_field} pixels, {self.padding:g} of them before the image begins"
        if not self.translation_exact:
            sees = "looks at the whole image, so a shifted image, or a tile of it, gets other scores"
        return "\n".join(
            [
                f"logits at {shown}: largest difference {self.max_abs:.1e}, {self.relative:.1e} of the largest logit",
                f"scores every {self.stride} pixels; the first {sees}",
                *(f"tap at stride {tap.stride}: {tap.layer}, {tap.channels} channels" for tap in self.taps),
                f"images in [0, 1], less {_shown(self.mean)}, divided by {_shown(self.std)}",
                f"{len(self.kept)} weights kept, {len(self.dropped)} dropped"
                + (f": {shortened(self.dropped, 4)}" if self.dropped else ""),
            ]
        )


@dataclass(frozen=True)
class Converted:
    """The model folder that `convert_classifier` wrote."""

    model: Path
    name: str
    certificate: Certificate
    trained: bool

    def to_json(self) -> dict[str, Any]:
        """`{"model", "certificate": {...}}`."""
        return {"model": str(self.model), "certificate": self.certificate.to_json()}

    def __str__(self) -> str:
        use = f"fullyconv predict {self.model} photos/ --out masks/"
        learn = f"fullyconv train DATA --model {self.model}"
        return f"{self.model}: {self.name}\n{self.certificate}\n{use if self.trained else learn}"


@bounded
def convert_classifier(
    classifier: str,
    *,
    classes: Annotated[str, "K|FILE"],
    out: Path,
    stride: Stride | None = None,
    pretrained: Annotated[str, "hub|none|PATH"] = "hub",
    size: Count | None = None,
    channels: Count = 3,
    mean: Sequence[float] | None = None,
    std: Divisors | None = None,
    upscore: Upscoring = "fixed",
) -> Converted:
    """Turn a trained classifier into a segmenter, and prove that its scores are the classifier's.

    Args:
        classifier: timm:NAME, torchvision:NAME, hf-hub:ID, local-dir:FOLDER, file.py:function, or vgg16, alexnet and
            googlenet as in the paper.
        classes: How many; or a file of their names; or a JSON file that says which of the classifier's classes each
            new one is, {"cat": [281, 282, 285]}, so that its head is kept.
        out: The model folder.
        stride: Of the finest map that is scored: 4, 8, 16 or 32; the finest of these from 8 on if left out.
        pretrained: hub, none, or a file of the classifier's weights.
        size: Side of the images that it classifies, if it does not say.
        channels: Bands of the images.
        mean: Of each band, in [0, 1], as the classifier was trained; ImageNet's for RGB, if it does not say.
        std: Of each band, likewise. A classifier that takes images in [0, 1] as they are has --mean 0,0,0 --std 1,1,1.
        upscore: Which upsampling kernels can be trained: none, those between taps, or all.

    Raises:
        FullyconvError: SEG-M001 for an unknown classifier; SEG-M002 if it cannot be converted; SEG-M003, SEG-M004,
            SEG-M005 for its weights; SEG-M006 for classes that it has not; SEG-M050 if the conversion is not exact;
            SEG-M051 for a Python file; SEG-U008 if the folder exists.

    Example:
        fullyconv convert torchvision:resnet18 --classes classes.txt --out models/resnet18
    """
    if out.exists():
        raise FullyconvError("SEG-U008", f"{out} exists already; move it away or name another folder with --out")
    labels, origins = _classes(classes)
    source = _as_said(_loaded(classifier, channels, pretrained), channels, size, mean, std)
    segmenter, certificate = _converted(source, labels, origins, stride=stride, channels=channels, upscore=upscore)
    artefact.save(out, segmenter.model, labels, segmenter.architecture, segmenter.facts)
    return Converted(out, segmenter.architecture["name"], certificate, bool(origins))


@bounded
def convert(
    classifier: str | nn.Module,
    *,
    classes: int | str | Path | Sequence[str] | Mapping[str, int | Sequence[int]],
    stride: Stride | None = None,
    pretrained: str = "hub",
    size: Count | tuple[Count, Count] | None = None,
    channels: Count = 3,
    mean: Sequence[float] | None = None,
    std: Divisors | None = None,
    upscore: Upscoring = "fixed",
) -> Segmenter:
    """A trained classifier as a segmenter; `facts["certificate"]` says what the conversion changed.

    Args:
        classifier: A name as `fullyconv convert` takes it, or a network of your own that gives logits `(N, K)` for
            images `(N, C, H, W)` that are normalised; its weights are shared.
        classes: How many, or their names, or a file of them, or which of the classifier's classes each new one is.
        stride: Of the finest map that is scored: 4, 8, 16 or 32; the finest of these from 8 on if left out.
        pretrained: For a name: hub, none, or a weight file.
        size: Side, or height and width, of the images that it classifies, if it does not say; else 224 x 224.
        channels: Bands of the images.
        mean: Of each band, in [0, 1], as the classifier was trained; ImageNet's for RGB, if it does not say.
        std: Of each band, likewise.
        upscore: Which upsampling kernels can be trained.

    Raises:
        FullyconvError: As `convert_classifier`.
    """
    source = _loaded(classifier, channels, pretrained) if isinstance(classifier, str) else _given(classifier, channels)
    source = _as_said(source, channels, size, mean, std)
    if isinstance(classes, int | str | Path):
        labels, origins = _classes(str(classes))
    elif isinstance(classes, Mapping):
        labels, origins = _named(classes), _checked(classes, "classes")
    else:
        labels, origins = _named(classes), None
    return _converted(source, labels, origins, stride=stride, channels=channels, upscore=upscore)[0]


def _given(network: nn.Module, channels: int) -> Classifier:
    """A network that the caller has: by its name in timm if it is one of timm's, else by its graph."""
    known = str(settings_of(network).get("architecture", ""))
    network = in_bands_of(twin(network), channels)  # the caller's own stays as it is
    is_timms = timm.is_model(known)
    name = known if is_timms else type(network).__name__
    return Classifier(name, network, native_size(network), statistics_of(network), own=not is_timms)


def _as_said(
    source: Classifier,
    channels: int,
    size: int | tuple[int, int] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> Classifier:
    """A classifier for images of the size and statistics that were said, else of those that it tells of itself.

    Raises:
        FullyconvError: SEG-U004 for statistics that are not of images in [0, 1] of so many bands.
    """
    given = {key: tuple(values) for key, values in (("mean", mean), ("std", std)) if values is not None}
    for key, values in given.items():
        if len(values) != channels:
            raise FullyconvError("SEG-U004", f"--{key} must have {counted(channels, 'number')}, got {len(values)}")
    if not all(0 <= value <= 1 for value in given.get("mean", ())):
        raise FullyconvError(
            "SEG-U004",
            f"--mean must be from 0 to 1, as images are, got {_shown(given['mean'])}; of numbers from 0 to 255, divide "
            "by 255, --std too",
        )
    own = {key: values for key, values in source.statistics.items() if len(values) == channels}
    sides = source.size if size is None else (size, size) if isinstance(size, int) else size
    return replace(source, size=sides, statistics=own | given)


def _named(names: Iterable[str]) -> LabelSet:
    """Classes of these names.

    Raises:
        FullyconvError: SEG-M006 if there are none, or two have one name.
    """
    try:
        return LabelSet(tuple(names))
    except FullyconvError:
        raise
    except ValueError as error:
        raise FullyconvError("SEG-M006", f"classes: {error}; name each class once") from error


def _classes(text: str) -> tuple[LabelSet, Origins | None]:
    """The new classes, and the old ones that each stands for, from a number or a file."""
    if text.lstrip("-").isdecimal():
        if not 1 <= int(text) <= MOST_CLASSES:
            raise FullyconvError("SEG-M006", f"--classes must be from 1 to {MOST_CLASSES}, or a file, got {text}")
        return LabelSet(tuple(f"class {index}" for index in range(int(text)))), None
    file = Path(text)
    if not file.is_file():
        raise FullyconvError(
            "SEG-M006", f"--classes {text} is no number of classes and no file; list their names in one"
        )
    origins = _origins(file) if file.suffix == ".json" else None
    return (LabelSet(tuple(origins)), origins) if origins else (read_labels(file), None)


def _origins(file: Path) -> Origins | None:
    """The map from new classes to old ones in a JSON file, if it is one."""
    try:
        values = read_json(file)
    except (OSError, ValueError):
        return None  # `read_labels` says what is wrong
    if not isinstance(values, dict) or not values:
        return None
    if any(isinstance(value, dict) and value.keys() - {"value", "id", "color"} for value in values.values()):
        return _checked(
            {name: value.get("from") if isinstance(value, dict) else value for name, value in values.items()}, str(file)
        )
    lists = [_listed(value) for value in values.values()]
    if not all(isinstance(each, list) and each and all(type(index) is int for index in each) for each in lists):
        return None
    if all(_may_code(value) for value in values.values()):
        raise FullyconvError(
            "SEG-M006",
            f"{file}: a number below 256 could be a value in masks or an old class, three of them a colour or three "
            f'old classes; write {{"{next(iter(values))}": {{"from": {lists[0]}}}}} for old classes, or a list of '
            "names for new ones",
        )
    return _checked(values, str(file))


def _listed(old: Any) -> Any:
    """Old classes as a list: a number alone is one."""
    return [old] if type(old) is int else old


def _may_code(value: Any) -> bool:
    """Whether a class of a data set could be written as this: the value or the colour that it has in masks."""
    return (type(value) is int or len(value) == 3) and max(_listed(value)) < 256


def _checked(origins: Mapping[str, Any], place: str) -> Origins:
    """The map from new classes to old ones, if it is one.

    Raises:
        FullyconvError: SEG-M006 if a new class stands for none, or for what is no number of a class.
    """
    listed = {name: _listed(old) for name, old in origins.items()}
    for name, old in listed.items():
        if not isinstance(old, list | tuple) or not old or not all(type(index) is int and index >= 0 for index in old):
            raise FullyconvError(
                "SEG-M006",
                f"{place}: {name!r} must list the classifier's classes that it is, counted from 0, such as [281, 282]; "
                f"got {old!r}",
            )
    return listed


def _loaded(name: str, channels: int, pretrained: str) -> Classifier:
    """The classifier of a name, with the weights that are asked for."""
    # What a Python file or a local folder holds is trained as it is.
    source = classifier(name, channels=channels, pretrained=pretrained == "hub" and not is_in_file(name))
    if pretrained in ("hub", "none"):
        return source
    weights = read_weights(Path(pretrained))
    tensors = in_names_of_classifiers(weights) if weights.caffe else weights.tensors
    taken = transplant(source.network, in_bands(tensors, source.network, channels))
    resized = [key for key in taken.missing if key in tensors]  # the head, of another number of classes
    if resized and not is_in_file(name):
        source = classifier(name, channels=channels, num_classes=len(tensors[resized[-1]]))
        taken = transplant(source.network, in_bands(tensors, source.network, channels))
    _refuse_misfit(taken, name, pretrained)
    return replace(source, statistics=means.statistics("voc")) if weights.caffe else source


def _refuse_misfit(taken: Transplant, name: str, file: str) -> None:
    """Does nothing if a file holds the weights of a network, and no others.

    Raises:
        FullyconvError: SEG-M005 otherwise.
    """
    missing, foreign = ([key for key in names if not _IDLE.search(key)] for names in (taken.missing, taken.dropped))
    if missing:
        raise FullyconvError(
            "SEG-M005", f"{file} has no weights for {shortened(missing, 3)} of {name}; give the file of that network"
        )
    if foreign:
        raise FullyconvError(
            "SEG-M005", f"{name} has no place for {shortened(foreign, 3)} of {file}; give the file of that network"
        )


def _converted(
    source: Classifier,
    labels: LabelSet,
    origins: Origins | None,
    *,
    stride: int | None,
    channels: int,
    upscore: Upscoring,
) -> tuple[Segmenter, Certificate]:
    """The segmenter, and what the conversion changed.

    Args:
        source: Its network is taken apart.
        labels: The new classes.
        origins: The classifier's own that each of them stands for, if its head is kept.
        stride: Of the finest map that is scored; if left out, the finest of 8, 16 and 32 that there is.
        channels: Bands of the images.
        upscore: Which upsampling kernels can be trained.
    """
    names = set(source.network.state_dict())
    try:
        dense, max_abs, relative = _proven(source, channels)
        trunk, finest = _trunk(dense, source, stride)
        graph = {"graph": _description(trunk, source)} if source.own else {}
    except NotConvertible as error:
        raise not_convertible(source, error) from error
    score_size = _size_of_head(dense, source) if origins else (1, 1)
    model = fcn_over(
        trunk,
        len(labels),
        channels=channels,
        mean=source.statistics.get("mean"),
        std=source.statistics.get("std"),
        upscore=upscore,
        score_size=score_size,
    )
    if origins:
        _keep_head(model, dense.score_layer, origins)
    architecture: dict[str, Any] = {
        "name": f"fcn{finest}s-{source.name}",
        "num_classes": len(labels),
        "channels": channels,
        "upscore": upscore,
        "score_size": list(score_size),
        **graph,
    }
    _refuse_other_build(model, architecture, source)
    kept = {name.removeprefix("network.") for name in trunk.state_dict()}
    kept |= {name for name in names if origins and name.startswith(_head_name(dense))}
    certificate = Certificate(
        max_abs=max_abs,
        relative=relative,
        size=source.size,
        stride=int(model.coarsest.stride),
        receptive_field=int(model.coarsest.field),
        padding=max(0.0, float(-model.coarsest.first)),
        translation_exact=not model.global_operations,
        taps=_taps(trunk, model),
        kept=tuple(sorted(names & kept)),
        dropped=tuple(sorted(names - kept)),
        mean=tuple(model.mean.flatten().tolist()),
        std=tuple(model.std.flatten().tolist()),
    )
    return Segmenter(model.eval(), labels, architecture, {"certificate": certificate.to_json()}), certificate


def _proven(source: Classifier, channels: int) -> tuple[DenseClassifier | DenseTransformer, float, float]:
    """The classifier as it slides; the largest difference of any logit, and the same as a share of the largest logit.

    Raises:
        FullyconvError: SEG-M002 if the classifier does not run; SEG-M050 if the logits differ too much.
        NotConvertible: If it cannot slide.
    """
    images = torch.randn(2, channels, *source.size, generator=torch.Generator().manual_seed(0))
    expected = _logits(source, images)
    dense = dense_form(source, channels)
    max_abs, relative = _difference(dense, images, expected)
    if not relative < EXACT:
        raise FullyconvError(
            "SEG-M050",
            f"the converted {source.name} gives other logits than the classifier at {source.size[0]} x "
            f"{source.size[1]}: they differ by {relative:.1e} of the largest, and {EXACT:g} is allowed",
        )
    return dense, max_abs, relative


def _size_of_head(dense: DenseClassifier | DenseTransformer, source: Classifier) -> tuple[int, int]:
    """Height and width of the kernel that a head becomes which is kept.

    Raises:
        FullyconvError: SEG-M002 if it has no middle cell.
    """
    rows, columns = dense.score_layer.kernel_size
    if rows % 2 and columns % 2:
        return rows, columns
    raise FullyconvError(
        "SEG-M002",
        f"the head of {source.name} reads {rows} x {columns} cells, which have no middle one, so it cannot be kept; "
        "give --classes a number or names for a new head",
    )


@torch.no_grad()
def _logits(source: Classifier, images: Tensor) -> Tensor:
    """What the classifier says of images of its own size.

    Raises:
        FullyconvError: SEG-M002 if it does not take them, or gives something else.
    """
    shape = " x ".join(map(str, images.shape[1:]))
    try:
        logits = source.network.eval()(images)
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        reason = str(error).partition("\n")[0]
        raise FullyconvError(
            "SEG-M002",
            f"{source.name} does not run on images of {shape} ({reason}); {_cure(source.network, images)}",
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise FullyconvError(
            "SEG-M002", f"{source.name} gives no logits (N, classes) for images of {shape}; make it return them alone"
        )
    return logits


def _cure(network: nn.Module, images: Tensor) -> str:
    """What would make a network run on images, by what it tells of itself."""
    first = next((layer for layer in network.modules() if isinstance(layer, nn.Conv2d)), None)
    if first is not None and first.weight.dtype != images.dtype:
        return f"its weights are {str(first.weight.dtype).removeprefix('torch.')}; make them float32 by .float()"
    if first is not None and first.in_channels != images.shape[1]:
        return f"its first layer reads {counted(first.in_channels, 'band')}; say --channels {first.in_channels}"
    return "say their side with --size"


def _trunk(dense: DenseClassifier | DenseTransformer, source: Classifier, stride: int | None) -> tuple[nn.Module, int]:
    """The trunk with the wanted taps, and the stride of the finest."""
    classic = CLASSICS.get(source.name)
    for finest in (8, 16, 32) if stride is None else (stride,):
        strides = [each for each in (4, 8, 16, 32) if each >= finest]
        try:
            trunk = dense.trunk(strides, classic.taps if classic else None)
        except NotConvertible:
            if stride is not None or finest == 32:
                raise
            continue
        return (in_geometry(trunk, "same") if classic else trunk), finest
    raise AssertionError("one of the strides was taken, or the last refusal raised")


@torch.no_grad()
def _refuse_other_build(model: FCN, architecture: Mapping[str, Any], source: Classifier) -> None:
    """Does nothing if the network that a folder would be read back to is this one.

    Raises:
        FullyconvError: SEG-M050 if it cannot be built again, or gives other maps.
    """
    image = torch.rand(1, model.mean.shape[1], *source.size, generator=torch.Generator().manual_seed(1))
    try:
        again = create(**architecture).eval()
        again.load_state_dict(model.state_dict())
        pairs = zip(again.trunk(image), model.eval().trunk(image), strict=True)  # new score layers would all give zero
        same = all(bool((ours - theirs).abs().max() <= EXACT * ours.abs().max()) for theirs, ours in pairs)
    except (FullyconvError, RuntimeError, ValueError, TypeError) as error:
        raise FullyconvError(
            "SEG-M050", f"{source.name} cannot be built again from a folder ({str(error).splitlines()[0]})"
        ) from error
    if not same:
        raise FullyconvError(
            "SEG-M050",
            f"{source.name}, built again from its folder, gives other maps: forward hooks, and what else is no layer "
            "or function of torch, are lost",
        )


@torch.no_grad()
def _difference(dense: DenseClassifier | DenseTransformer, images: Tensor, expected: Tensor) -> tuple[float, float]:
    """The largest difference of any logit, and the same as a share of the largest logit."""
    difference = float((dense.eval().logits(images) - expected).abs().max())
    return difference, difference / max(float(expected.abs().max()), torch.finfo(expected.dtype).tiny)


@torch.no_grad()
def _keep_head(model: FCN, head: nn.Conv2d, origins: Origins) -> None:
    """Scores the coarsest map by the classifier's head, changing the model: a new class is the mean of its old ones."""
    strange = [index for old in origins.values() for index in old if not 0 <= index < head.out_channels]
    if strange:
        raise FullyconvError(
            "SEG-M006", f"the classifier has {head.out_channels} classes, from 0 on; there is no class {strange[0]}"
        )
    layer = model.score_layers[f"stride{model.coarsest.stride}"]
    assert isinstance(layer, nn.Conv2d)
    assert layer.bias is not None
    for row, old in enumerate(origins.values()):
        layer.weight[row] = head.weight[list(old)].mean(0)
        layer.bias[row] = head.bias[list(old)].mean() if head.bias is not None else 0.0


def _head_name(dense: DenseClassifier | DenseTransformer) -> str:
    return f"{dense.score if isinstance(dense, DenseClassifier) else 'head'}."


def _description(trunk: nn.Module, source: Classifier) -> dict[str, Any]:
    if not isinstance(trunk, fx.GraphModule):
        raise FullyconvError(
            "SEG-M002", f"{source.name} is a transformer of your own; give it by its name in timm, timm:NAME"
        )
    return describe(trunk)


def _taps(trunk: nn.Module, model: FCN) -> tuple[Tap, ...]:
    layers = ["patch tokens"]
    if isinstance(trunk, fx.GraphModule):
        (output,) = (node for node in trunk.graph.nodes if node.op == "output")
        layers = [str(node.target) if node.op == "call_module" else node.name for node in output.all_input_nodes]
    scored: list[nn.Conv2d] = list(model.score_layers.values())  # type: ignore[arg-type]
    return tuple(
        Tap(layer, int(grid.stride), score.in_channels)
        for layer, grid, score in zip(layers, model.grids, scored, strict=True)
    )
