"""A model and one image of any size: `Segmenter` predicts, `Segmentation` is the answer."""

import glob
import math
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fullyconv import artefact, drawing, images
from fullyconv.errors import FullyconvError
from fullyconv.geometry import tile_plan
from fullyconv.images import Picture
from fullyconv.kernels import upsample_argmax
from fullyconv.labels import LabelSet
from fullyconv.models import FCN
from fullyconv.models.heads import head_of
from fullyconv.wording import counted

Tiling = int | Literal["auto", "none"]

WHOLE_IMAGE_PIXELS = 4_000_000  # a resnet18's largest maps take 0.5 kB per pixel, so 2 GB


@dataclass(frozen=True)
class Segmentation:
    """The label map of one image.

    Args:
        mask: Class indices `(H, W)`, uint8, or uint16 above 256 classes.
        labels: What they mean.
        image: What was looked at, `(C, H, W)`, uint8 or float in [0, 1].
    """

    mask: np.ndarray[Any, Any]
    labels: LabelSet
    image: Tensor

    def overlay(self, *, alpha: float = 0.55, legend: bool = True) -> Image.Image:
        """The image with the classes laid over it and a legend of those that occur.

        Args:
            alpha: How strongly the class colours cover the image, in [0, 1].
            legend: Whether the classes that occur are named.
        """
        return drawing.overlay(images.to_rgb(self.image), self.mask, self.labels, alpha=alpha, legend=legend)

    def share(self) -> dict[str, float]:
        """The fraction of the pixels of each class that occurs, the largest first."""
        counts = np.bincount(self.mask.ravel(), minlength=len(self.labels))
        order = np.argsort(-counts, kind="stable")
        return {self.labels.names[index]: float(counts[index] / self.mask.size) for index in order if counts[index]}

    def save(self, folder: str | Path, name: str) -> tuple[Path, Path]:
        """Writes the index PNG `name.png` with the palette, and `name_overlay.png`; gives both paths."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        mask, overlay = _outputs(folder, name)
        images.write_mask(mask, self.mask, self.labels)
        images.write_picture(overlay, self.overlay())
        return mask, overlay


class Segmenter:
    """A network with its labels, ready for images.

    Args:
        model: Float image `(N, C, H, W)` in [0, 1] in, logits of the same height and width out.
        labels: The classes of its K channels.
        architecture: The arguments of `models.create` that build it, for `save`.
        facts: What else its model folder shall keep.
        bands: Of each picture of a scene, such as (3, 1) for colour and depth; if left out, all in one picture.
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


def load(folder: str | Path, *, head: str | None = None) -> Segmenter:
    """The segmenter of a model folder or a run folder, on the GPU if there is one.

    Args:
        folder: What `train` or `Segmenter.save` wrote.
        head: Of a network with several heads, which one; the first if left out. `Segmenter.heads` holds them all.

    Raises:
        FullyconvError: SEG-M040 if there is no head of the name.
    """
    return opened(folder, head=head)


def opened(model: str | Path | Segmenter, *, head: str | None = None) -> Segmenter:
    """The segmenter of a folder, or the given one; if a head is named, that of this head.

    Raises:
        FullyconvError: SEG-M040 if there is no head of the name.
    """
    segmenter = model if isinstance(model, Segmenter) else _read(Path(model))
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
    for segmenter in heads.values():
        segmenter.heads = heads
    return next(iter(heads.values()), None) or Segmenter(model, labels, architecture, facts, bands=bands)


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

    Tiles start on multiples of the coarsest stride and carry a halo as wide as the receptive field, so every coarse
    score is computed from just the pixels that it would see in the whole image. A network with global operations
    (squeeze-and-excitation, attention) sees only its tile there, so its tiles differ slightly from the whole.
    """
    pixels = images.stack((image, *more), segmenter.bands)
    if pixels.dtype == torch.uint8 and segmenter.architecture.get("log_bands"):
        raise FullyconvError(
            "SEG-D030", "the network takes the logarithm of depth in a picture of 16 bits, got 8; save it with 16"
        )
    height, width = pixels.shape[1:]
    if tile == "auto":
        tile = 1024 if height * width > WHOLE_IMAGE_PIXELS else "none"
    model = segmenter.model
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            scores = _scores(model, pixels) if tile == "none" else _tiled_scores(model, pixels, tile)
            mask = upsample_argmax(scores, (height, width), grid=model.grid)[0].cpu().numpy()
    finally:
        model.train(training)
    return Segmentation(mask.astype(np.uint8 if len(segmenter.labels) <= 256 else np.uint16), segmenter.labels, pixels)


def _scores(model: FCN, pixels: Tensor) -> Tensor:
    image = images.to_float(pixels)[None].to(model.mean.device)
    return model.scores(image.contiguous(memory_format=torch.channels_last)).float()


def _tiled_scores(model: FCN, pixels: Tensor, tile: int) -> Tensor:
    """The coarse scores of the whole image, computed window by window; only they are ever held at full extent."""
    stride = int(model.coarsest.stride)
    # Two cells more, for the upscoring between taps and to the image, and what the map begins before the image.
    halo = model.coarsest.halo() + 2 * stride + max(0, math.ceil(-model.grid.start))
    fine = int(model.grid.stride)
    rows, columns = (tile_plan(size, tile, stride, halo) for size in pixels.shape[1:])
    bands = []
    for row in rows:
        band = []
        for column in columns:
            window = _scores(model, pixels[:, row.start : row.stop, column.start : column.stop])
            top, left = (row.inner_start - row.start) // fine, (column.inner_start - column.start) // fine
            bottom = None if row is rows[-1] else top + tile // fine
            right = None if column is columns[-1] else left + tile // fine
            band.append(window[:, :, top:bottom, left:right])
        bands.append(torch.cat(band, dim=3))
    return torch.cat(bands, dim=2)


@dataclass(frozen=True)
class Predictions:
    """What `predict_files` wrote."""

    outputs: tuple[dict[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        """`{"outputs": [{"input", "mask", "overlay", "seconds"}]}`."""
        return {"outputs": list(self.outputs)}

    def __str__(self) -> str:
        lines = [f"{output['input']} -> {output['mask']}  ({output['seconds']:.2f} s)" for output in self.outputs]
        return "\n".join(lines)


def predict_files(
    model: str | Path | Segmenter,
    inputs: Sequence[str],
    *,
    out: str | Path,
    more: Sequence[Annotated[str, "PATH"]] = (),
    head: Annotated[str, "NAME"] | None = None,
    tile: Tiling = "auto",
) -> Predictions:
    """Segment images: an index PNG with the palette and an overlay with a legend for each.

    Args:
        model: Model folder or run folder.
        inputs: Image files, folders, globs, or templates such as 'rgb/{name}.png'.
        out: Folder for `NAME.png` and `NAME_overlay.png`; files that stand there already are refused.
        more: Further pictures of each scene, such as 'depth/{name}.png'. `{name}` is what it stands for in the input's
            template, or the input's name without suffix; `{folder}` is the input's folder.
        head: Of a network with several heads, which one; the first if left out.
        tile: Side of the tiles in pixels, a multiple of the coarsest stride; none never tiles, auto above 4 megapixels.

    Example:
        fullyconv predict runs/a photos/ --out masks/
    """
    out = Path(out)
    segmenter = opened(model, head=head)
    _refuse_tile(tile, int(segmenter.model.coarsest.stride))
    named = list(_found(inputs))
    files = [file for file, _ in named]
    scenes = [_further(file, name, more) for file, name in named]
    names = _names(files)
    taken = [file for name in names for file in _outputs(out, name) if file.exists()]
    if taken:
        raise FullyconvError(
            "SEG-P003", f"{counted(len(taken), 'file')} in the way, such as {taken[0]}; choose another --out"
        )
    mixing = segmenter.model.global_operations
    if mixing and tile != "none":
        print(
            f"This network looks at whole images at once ({', '.join(mixing)}), so tiles of images above "
            f"{WHOLE_IMAGE_PIXELS / 1e6:g} megapixels differ a little from the whole; --tile none avoids them.",
            file=sys.stderr,
        )
    outputs = []
    for file, further, name in zip(files, scenes, names, strict=True):
        begun = time.perf_counter()
        mask, overlay = segmenter(file, more=further, tile=tile).save(out, name)
        seconds = round(time.perf_counter() - begun, 3)
        outputs.append({"input": str(file), "mask": str(mask), "overlay": str(overlay), "seconds": seconds})
    return Predictions(tuple(outputs))


def _outputs(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"{name}.png", folder / f"{name}_overlay.png"


def _refuse_tile(tile: Tiling, stride: int) -> None:
    if isinstance(tile, int) and (tile < stride or tile % stride):
        near = max(stride, round(tile / stride) * stride)
        raise FullyconvError(
            "SEG-P004", f"--tile must be a multiple of the coarsest stride {stride}, got {tile}; use {near}"
        )


def _found(inputs: Sequence[str]) -> Iterator[tuple[Path, str]]:
    """The files that inputs stand for, each with its name: what `{name}` stands for in a template, else its stem."""
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix.lower() in images.IMAGE_SUFFIXES)
        elif path.is_file():
            files = [path]
        else:
            matching = sorted(glob.glob(given.replace("{name}", "*"), recursive=True))
            files = [Path(file) for file in matching if Path(file).is_file()]
        if not files:
            raise FullyconvError("SEG-P001", _nothing_found(path))
        yield from ((file, _name_in(file, given)) for file in files)


def _name_in(file: Path, given: str) -> str:
    if "{name}" not in given:
        return file.stem
    pattern = re.escape(Path(given).as_posix()).replace(r"\*", "[^/]*").replace(r"\{name\}", "([^/]*)", 1)
    match = re.fullmatch(pattern.replace(r"\{name\}", r"\1"), file.as_posix())
    return match[1] if match else file.stem


def _further(file: Path, name: str, templates: Sequence[str]) -> list[Path]:
    """The further pictures of a scene, which templates name.

    Raises:
        FullyconvError: SEG-D030 if one is not there.
    """
    pictures = [
        Path(template.replace("{folder}", file.parent.as_posix()).replace("{name}", name)) for template in templates
    ]
    absent = [picture for picture in pictures if not picture.is_file()]
    if absent:
        raise FullyconvError(
            "SEG-D030",
            f"{file} should be seen with {absent[0]}, which does not exist; --more counts from here, and from the "
            "image's folder if it begins with {folder}/",
        )
    return pictures


def _nothing_found(path: Path) -> str:
    if path.is_dir():
        held = sorted({file.suffix or "no suffix" for file in path.iterdir() if file.is_file()})
        found = f"holds no images, but files with {', '.join(held[:5])}" if held else "holds no files"
        return f"{path} {found}; give a folder of images"
    return f"{path} does not exist and matches no file; give an image, a folder or a quoted glob such as 'photos/*.jpg'"


def _names(files: Sequence[Path]) -> list[str]:
    """One output name per file: its stem, with its folder before it where stems repeat."""
    stems = [file.stem for file in files]
    names = [
        stem if stems.count(stem) == 1 else f"{file.parent.name}_{stem}"
        for file, stem in zip(files, stems, strict=True)
    ]
    written = [file.name.lower() for name in names for file in _outputs(Path(), name)]
    if len(set(written)) < len(written):
        twice = next(name for name in written if written.count(name) > 1)
        raise FullyconvError(
            "SEG-P002", f"several inputs would be written as {twice}; predict them one folder at a time"
        )
    return names
