"""A model and one image of any size: `Segmenter` predicts."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, Integer, Shaped
from torch import Tensor

from fullyconv import artefact, images, metrics
from fullyconv.datasets import Dataset
from fullyconv.errors import FullyconvError
from fullyconv.images import Picture
from fullyconv.kernels import upsample_argmax, upsample_confusion
from fullyconv.labels import LabelSet
from fullyconv.models import FCN
from fullyconv.models.heads import head_of
from fullyconv.prediction.batches import alike, scores_of
from fullyconv.prediction.calibration import Samples
from fullyconv.prediction.segmentation import Segmentation
from fullyconv.prediction.tiles import Tiling, chosen_tile, mask_rows
from fullyconv.runtimes.computing import Runtime
from fullyconv.runtimes.engine import Engine
from fullyconv.runtimes.formats import Precision


class Segmenter:
    """A network with its labels, ready for images.

    Args:
        model: Float image `(N, C, H, W)` in [0, 1] in, logits of the same height and width out.
        labels: The classes of its K channels.
        architecture: The arguments of `models.create` that build it, for `save`.
        facts: What else its model folder shall keep.
        bands: Of each picture of a scene, such as (3, 1) for colour and depth; if left out, all in one picture.
        engine: What computes the network's scores; if left out, the network itself, packed where that is possible.
    """

    heads: Mapping[str, "Segmenter"]  # by name, of a network that was trained under several sets of labels; else empty

    def __init__(
        self,
        model: FCN,
        labels: LabelSet,
        architecture: dict[str, Any] | None = None,
        facts: dict[str, Any] | None = None,
        *,
        bands: Sequence[int] = (),
        engine: Engine | None = None,
    ) -> None:
        if len(labels) != model.num_classes:
            raise FullyconvError(
                "SEG-M006", f"the network scores {model.num_classes} classes, but the label set has {len(labels)}"
            )
        self.model = model
        self.labels = labels
        self.architecture = architecture or {}
        self.facts = facts or {}
        self.bands = tuple(bands) or (self.channels,)
        self.engine = engine or Engine(model)
        self.heads = {}

    @property
    def channels(self) -> int:
        """Bands of the images that the network reads, over all pictures of a scene."""
        return self.model.mean.shape[1]

    def __call__(self, image: Picture, *, more: Sequence[Picture] = (), tile: Tiling = "auto") -> Segmentation:
        """The segmentation of an image: a file, a Pillow image, an array `(H, W[, C])` or a tensor `(C, H, W)`.

        Args:
            image: uint8, uint16, or float in [0, 1].
            more: Further pictures of the scene, such as its depth, for a network that was trained on them.
            tile: Side of the tiles in pixels, a multiple of the coarsest stride; `auto` tiles what is larger than
                4 megapixels; `none` never does.
        """
        return predict(self, image, more=more, tile=tile)

    def predict_many(self, images: Iterable[Picture], *, batch: int | None = None) -> Iterator[Segmentation]:
        """The segmentation of each image, in order; images of one size are computed together, and none is padded.

        Args:
            images: As for a call, one picture of all bands each. If they are computed together, four batches are read
                ahead.
            batch: How many are computed together at most; if left out, 8 on a GPU, and 1 on the CPU, where more are no
                faster: fcn8s-resnet18 took 92, 94 and 96 ms an image of 480x360 by 1, 4 and 8 on one core.
        """
        for scores, pixels in _scored(self, images, batch):
            if scores is None:
                yield predict(self, pixels)
            else:
                mask = upsample_argmax(scores, (pixels.shape[1], pixels.shape[2]), grid=self.model.grid)
                yield _segmentation(self, mask[0].cpu().numpy(), pixels)

    def confusions(
        self, images: Iterable[Picture], targets: Iterable[Integer[Tensor, "_h _w"]], *, batch: int | None = None
    ) -> Iterator[Int64[Tensor, "k k"]]:
        """The confusion matrix of each image: that of `predict_many`'s label map, which is made of tiled images only.

        Args:
            images: As for `predict_many`.
            targets: The class indices of each; the labels' `ignore_index` where a pixel does not count.
            batch: As for `predict_many`.

        Raises:
            FullyconvError: SEG-E001 for a target that is no class, SEG-E003 for one of another size than its image.
        """
        ignore = self.labels.ignore_index
        for (scores, pixels), target in zip(_scored(self, images, batch), targets, strict=True):
            if scores is None or target.shape != pixels.shape[1:]:
                mask = torch.from_numpy(predict(self, pixels).mask)
                yield metrics.confusion_matrix(target, mask, len(self.labels), ignore)
            else:
                truth = target[None].to(scores.device)
                yield upsample_confusion(scores, truth, ignore_index=ignore, grid=self.model.grid).cpu()

    def computed_by(
        self, runtime: Runtime, precision: Precision = "fp32", calibrate: str | Path | Dataset | None = None
    ) -> "Segmenter":
        """The same segmenter, and those of its heads, with another engine; arguments as those of `load`."""
        if calibrate is not None and precision != "int8":
            raise FullyconvError("SEG-X002", "--calibrate is of int8: --precision int8 --calibrate DATA")
        calibration = None if calibrate is None else Samples(calibrate, self.bands, "float")
        other = copy.copy(self)
        other.heads = {name: other if head is self else copy.copy(head) for name, head in self.heads.items()}
        for each in (other, *other.heads.values()):
            each.heads = other.heads
            each.engine = Engine(each.model, runtime, precision, folder=self.engine.folder, calibration=calibration)
        return other

    def named_architecture(self) -> dict[str, Any]:
        """The arguments of `models.create` that build the network again.

        Raises:
            FullyconvError: SEG-M007 if it was made in another way.
        """
        if "name" not in self.architecture:
            raise FullyconvError(
                "SEG-M007",
                "this network was not made by models.create, so it could not be built again from a folder; give "
                "Segmenter the architecture that makes it, such as {'name': 'fcn8s-resnet18', 'num_classes': 2}",
            )
        return self.architecture

    def save(self, folder: str | Path) -> None:
        """Writes the model folder; a folder that holds anything else than an earlier model is refused.

        One head of several is saved alone, as a network of its own classes.
        """
        artefact.save(Path(folder), self.model, self.labels, self.named_architecture(), self.facts, bands=self.bands)


def load(
    folder: str | Path,
    *,
    head: str | None = None,
    runtime: Runtime = "auto",
    precision: Precision = "fp32",
    calibrate: str | Path | Dataset | None = None,
) -> Segmenter:
    """The segmenter of a model folder or a run folder, on the GPU if there is one.

    Args:
        folder: What `train` or `Segmenter.save` wrote.
        head: Of a network with several heads, which one; the first if left out. `Segmenter.heads` holds them all.
        runtime: What computes: see `Engine`.
        precision: What convolutions compute in.
        calibrate: Data or a folder of images to measure the ranges of int8 on at the first image. The folder then keeps
            the network in int8 for the next time, when this may be left out.

    Raises:
        FullyconvError: SEG-M040 if there is no head of the name, SEG-U009 or SEG-X001 if there is no such runtime here,
            SEG-X002 for images to calibrate on without int8.
    """
    return opened(folder, head=head, runtime=runtime, precision=precision, calibrate=calibrate)


def opened(
    model: str | Path | Segmenter,
    *,
    head: str | None = None,
    runtime: Runtime = "auto",
    precision: Precision = "fp32",
    calibrate: str | Path | Dataset | None = None,
) -> Segmenter:
    """The segmenter of a folder, or the given one; if a head is named, that of this head.

    Args:
        model: If it is a segmenter, it keeps its own engine unless another is asked for.
        head: Of a network with several heads, which one.
        runtime, precision, calibrate: As for `load`.

    Raises:
        FullyconvError: What `load` raises.
    """
    segmenter = model if isinstance(model, Segmenter) else _read(Path(model))
    if (runtime, precision, calibrate) != ("auto", "fp32", None):
        segmenter = segmenter.computed_by(runtime, precision, calibrate)
    if head is None:
        return segmenter
    if head not in segmenter.heads:
        named = "the given model" if model is segmenter else model
        heads = ", ".join(segmenter.heads)
        known = f"its heads are {heads}" if heads else "it has one head only; leave --head out"
        raise FullyconvError("SEG-M040", f"{named} has no head {head!r}; {known}")
    return segmenter.heads[head]


def _read(folder: Path) -> Segmenter:
    """The segmenter of a folder, or of its first head."""
    model, labels, config = artefact.load(folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    architecture, facts = config["architecture"], artefact.facts_of(config)
    bands = config["preprocessing"].get("bands", ())
    heads = segmenters_of_heads(model, artefact.labels_of_heads(config), architecture, facts, bands=bands)
    segmenters = list(heads.values()) or [Segmenter(model, labels, architecture, facts, bands=bands)]
    for segmenter in segmenters:
        segmenter.heads = heads
        segmenter.engine = Engine(segmenter.model, folder=artefact.place_of(folder))
    return segmenters[0]


def segmenters_of_heads(
    model: FCN,
    labels: Mapping[str, LabelSet],
    architecture: Mapping[str, Any],
    facts: dict[str, Any] | None = None,
    *,
    bands: Sequence[int] = (),
) -> dict[str, Segmenter]:
    """The segmenter of each head of a network, by name: each with a network of its own, on shared weights.

    Args:
        model: Its score channels are the classes of all heads, one after the other.
        labels: The classes of each head, in order.
        architecture: The arguments of `models.create` that build the whole network.
        facts: What else the heads' model folders shall keep.
        bands: Of each picture of a scene; if left out, all in one picture.

    Raises:
        FullyconvError: SEG-M006 if the heads' classes are not as many as the score channels.
    """
    heads: dict[str, Segmenter] = {}
    first = 0
    for name, classes in labels.items():
        own = {**architecture, "num_classes": len(classes)}
        told = _facts_of_head(facts or {}, f"{name}/" if heads else "")
        heads[name] = Segmenter(head_of(model, first, len(classes)), classes, own, told, bands=bands)
        first += len(classes)
    if heads and first != model.num_classes:
        raise FullyconvError("SEG-M006", f"the network scores {model.num_classes} classes, but its heads have {first}")
    return heads


def _facts_of_head(facts: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Facts with the scores of one head, which stand under its prefix; the first one's stand bare."""
    mine = {
        key.removeprefix(prefix): value for key, value in facts.get("metrics", {}).items() if key.startswith(prefix)
    }
    scores = {key: value for key, value in mine.items() if "/" not in key}
    return {**facts, "metrics": scores} if "metrics" in facts else dict(facts)


def predict(
    segmenter: Segmenter, image: Picture, *, more: Sequence[Picture] = (), tile: Tiling = "auto"
) -> Segmentation:
    """The label map of an image of any size; tiled gives the same as whole.

    Tiles start on multiples of the coarsest stride and carry along what their cells see, so every coarse score is
    computed from just the pixels that it would see in the whole image. A network with global operations
    (squeeze-and-excitation, attention) sees only its tile there; its tiles differ a little from the whole, and blend.
    """
    pixels = stacked(segmenter, (image, *more))
    model, size = segmenter.model, (pixels.shape[1], pixels.shape[2])
    with evaluating(model):
        rows = mask_rows(segmenter.engine, lambda *window: pixels[:, *window], size, chosen_tile(model, size, tile))
        mask = np.concatenate(list(rows))
    return _segmentation(segmenter, mask, pixels)


def _scored(
    segmenter: Segmenter, pictures: Iterable[Picture], batch: int | None
) -> Iterator[tuple[Float[Tensor, "1 k h w"] | None, Shaped[Tensor, "c height width"]]]:
    """The coarse scores of each picture, in order, and its pixels; no scores where it is to be computed in tiles."""
    most = batch or (8 if segmenter.model.mean.is_cuda else 1)
    rest = iter(pictures)
    while taken := [stacked(segmenter, (picture,)) for picture in islice(rest, 4 * most if most > 1 else 1)]:
        found: dict[int, Tensor | None] = {}
        for positions in alike(taken, most):
            with evaluating(segmenter.model):
                scores = scores_of(segmenter.engine, [taken[position] for position in positions])
            parts = [None] * len(positions) if scores is None else list(scores[:, None])
            found |= zip(positions, parts, strict=True)
        yield from ((found[position], taken[position]) for position in range(len(taken)))


def _segmentation(segmenter: Segmenter, mask: np.ndarray[Any, Any], pixels: Tensor) -> Segmentation:
    return Segmentation(mask.astype(np.uint8 if len(segmenter.labels) <= 256 else np.uint16), segmenter.labels, pixels)


def stacked(segmenter: Segmenter, pictures: Sequence[Picture]) -> Shaped[Tensor, "c height width"]:
    """The pictures of one scene as the image that a network reads: see `images.stack`.

    Raises:
        FullyconvError: SEG-D030 for other pictures than the network reads.
    """
    pixels = images.stack(pictures, segmenter.bands)
    if pixels.dtype == torch.uint8 and segmenter.architecture.get("log_bands"):
        raise FullyconvError(
            "SEG-D030", "the network takes the logarithm of depth in a picture of 16 bits, got 8; save it with 16"
        )
    return pixels


@contextmanager
def evaluating(model: FCN) -> Iterator[None]:
    """Puts the layers of a network that are training into evaluation mode for a while."""
    layers = [layer for layer in model.modules() if layer.training]
    for layer in layers:
        layer.training = False
    try:
        yield
    finally:
        for layer in layers:
            layer.training = True
