"""The networks of the authors' release: what each sees and scores, and which of them a weight file is.

Source: the network definitions and data layers of the authors' release.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from fullyconv.datasets import nyud, pascal_context, siftflow, voc
from fullyconv.errors import FullyconvError
from fullyconv.labels import LabelSet
from fullyconv.means import statistics
from fullyconv.models.caffe import HEADS, parsed, tap_scales
from fullyconv.models.fcn import LARGEST_LOG
from fullyconv.models.weights import Weights

Inputs = Literal["color", "color-d", "hha", "color-hha"]

LOG_DEPTH_MEAN = 7.844  # of the natural logarithm of millimetres; source: nyud_layers.py of the authors' release


@dataclass(frozen=True)
class Net:
    """A network that the authors trained.

    Args:
        model: Its name in `models.create`.
        layout: The data set whose means are taken from images.
        heads: The labels of each block of score channels.
        inputs: What the network sees of a scene.
    """

    model: str
    layout: str
    heads: Mapping[str, LabelSet]
    inputs: Inputs = "color"

    @property
    def bands(self) -> tuple[int, ...]:
        """Of each picture of a scene."""
        return {"color": (3,), "color-d": (3, 1), "hha": (3,), "color-hha": (3, 3)}[self.inputs]

    @property
    def architecture(self) -> dict[str, Any]:
        """The arguments of `models.create` that say what it sees."""
        streams = self.bands if self.inputs == "color-hha" else None
        logs = {"log_bands": [3]} if self.inputs == "color-d" else {}
        return {"name": self.model, "channels": sum(self.bands), "streams": streams, "geometry": "caffe", **logs}

    @property
    def statistics(self) -> dict[str, tuple[float, ...]]:
        """The mean and division of each band of images in [0, 1]."""
        color, hha = statistics(self.layout), statistics(self.layout, hha=True)
        depth: dict[str, tuple[float, ...]] = {
            "mean": (LOG_DEPTH_MEAN / LARGEST_LOG,),
            "std": (1 / LARGEST_LOG,),
        }
        inputs: dict[Inputs, list[dict[str, tuple[float, ...]]]] = {
            "color": [color],
            "color-d": [color, depth],
            "hha": [hha],
            "color-hha": [color, hha],
        }
        return {key: tuple(value for part in inputs[self.inputs] for value in part[key]) for key in ("mean", "std")}


VOC = {"classes": voc.LABELS}
NYUD = {"classes": nyud.LABELS}
SIFT_FLOW = {"semantic": siftflow.SEMANTIC_LABELS, "geometric": siftflow.GEOMETRIC_LABELS}
CONTEXT = {"classes": pascal_context.labels_of("60")}

NETS = {
    **{f"fcn{stride}s-vgg16": Net(f"fcn{stride}s-vgg16", "voc", VOC) for stride in (32, 16, 8)},
    "fcn8s-atonce-vgg16": Net("fcn8s-atonce-vgg16", "voc", VOC),
    "fcn32s-alexnet": Net("fcn32s-alexnet", "voc", VOC),
    "nyud-fcn32s-color": Net("fcn32s-vgg16", "nyud", NYUD),
    "nyud-fcn32s-color-d": Net("fcn32s-vgg16", "nyud", NYUD, "color-d"),
    "nyud-fcn32s-hha": Net("fcn32s-vgg16", "nyud", NYUD, "hha"),
    "nyud-fcn32s-color-hha": Net("fcn32s-vgg16", "nyud", NYUD, "color-hha"),
    **{f"siftflow-fcn{stride}s": Net(f"fcn{stride}s-vgg16", "siftflow", SIFT_FLOW) for stride in (32, 16, 8)},
    **{f"pascalcontext-fcn{stride}s": Net(f"fcn{stride}s-vgg16", "pascal_context", CONTEXT) for stride in (32, 16, 8)},
}


class Build(NamedTuple):
    """What the layers of a file tell about its network, and what a network's layers would be."""

    trunk: str
    stride: int
    bands: int
    heads: int
    at_once: bool | None  # by the scales of its taps; None for a file that has none

    def __str__(self) -> str:
        heads = f"{self.heads} heads" if self.heads > 1 else "one head"
        atonce = "atonce-" if self.at_once else ""
        return f"fcn{self.stride}s-{atonce}{self.trunk} with {heads} on {self.bands} bands"

    def can_be(self, wanted: "Build") -> bool:
        """Whether a file of this build can be of a network that is built as wanted."""
        return self == (wanted._replace(at_once=None) if self.at_once is None else wanted)


def _build_of(weights: Weights) -> Build:
    """What a file's layers tell.

    Raises:
        FullyconvError: SEG-M023 for what has no score layers: a classifier, or a network of another toolkit.
    """
    names = [parsed(name) for name in weights.tensors]
    layers = {name.layer for name in names}
    firsts = [
        tensor.shape[1]
        for name, tensor in zip(names, weights.tensors.values(), strict=True)
        if name.layer in ("conv1_1", "conv1") and name.leaf == "weight"
    ]
    if "score_fr" not in layers or not firsts:
        raise FullyconvError(
            "SEG-M023",
            f"{weights.file} is no network of the release: it has no layer score_fr. A segmentation network of another "
            "toolkit is named with --as: torchvision:deeplabv3_resnet50, smp:DECODER:ENCODER, hf:segformer, ... "
            "From a classifier, train with "
            f"fullyconv train DATA --model fcn32s-vgg16 --pretrained {weights.file}",
        )
    stride = 8 if "score_pool3" in layers else 16 if "score_pool4" in layers else 32
    heads = len({name.head for name in names if name.layer == "score_fr"})
    scales = tap_scales(weights)
    at_once = None if scales is None else any(bool(scale.ne(1).any()) for scale in scales.values())
    return Build("vgg16" if "conv1_1" in layers else "alexnet", stride, sum(firsts), heads, at_once)


def _build_for(net: Net) -> Build:
    stride, *atonce, trunk = net.model.split("-")
    return Build(trunk, int(stride.strip("fcns")), sum(net.bands), len(net.heads), bool(atonce))


def classes_of(weights: Weights) -> tuple[int, ...]:
    """The score channels of each head."""
    scores = {
        name.head: len(tensor)
        for text, tensor in weights.tensors.items()
        if (name := parsed(text)).layer == "score_fr" and name.leaf == "bias"
    }
    return tuple(scores[head] for head in HEADS if head in scores)


def _alike(build: Build) -> list[str]:
    """The networks that a file of this build can be, of whatever classes."""
    return [name for name, net in NETS.items() if build.can_be(_build_for(net))]


def _fits(weights: Weights, build: Build) -> list[str]:
    """The networks that a file can be, by its build and its classes."""
    return [name for name in _alike(build) if classes_of(weights) == tuple(map(len, NETS[name].heads.values()))]


def only_fit(weights: Weights) -> str:
    """The one network that a file can be.

    Raises:
        FullyconvError: SEG-M022 if there are several, or none; SEG-M023 for a classifier.
    """
    build = _build_of(weights)
    fits = _fits(weights, build)
    if build.stride == 8 and build.at_once is None:
        names = " or ".join(dict.fromkeys([*fits, "fcn8s-atonce-vgg16"]))
        raise FullyconvError(
            "SEG-M022",
            f"{weights.file} is an FCN-8s trained in stages or at once, which have the same layers; the wrong one's "
            f"finer scores are off by 100 and 10,000 times; say --as {names}",
        )
    if len(fits) != 1:
        counts = " and ".join(map(str, classes_of(weights)))
        near = " or ".join(fits or _alike(build))
        raise FullyconvError(
            "SEG-M022",
            f"{weights.file} is {build} for {counts} classes, which {'several' if fits else 'no'} networks of the "
            f"release are; say --as {near or 'NET'}" + ("" if fits else ", and name its classes with --classes FILE"),
        )
    return fits[0]


def refuse_another(weights: Weights, name: str) -> None:
    """SEG-M023 for a file whose layers are not those of the network."""
    build, wanted = _build_of(weights), _build_for(NETS[name])
    if not build.can_be(wanted):
        near = _fits(weights, build) or _alike(build)
        cure = f"say --as {' or '.join(near)}" if near else f"none of {', '.join(NETS)} is"
        raise FullyconvError("SEG-M023", f"{weights.file} is no {name}, which is {wanted}: it is {build}; {cure}")
