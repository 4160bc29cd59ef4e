"""The networks, by name."""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fullyconv.errors import FullyconvError
from fullyconv.geometry import Grid
from fullyconv.means import IMAGENET_MEAN, IMAGENET_STD, statistics
from fullyconv.models.caffe import in_our_names, refuse_other_data
from fullyconv.models.classic import CLASSICS, ClassicFCN, Geometry, in_geometry, torchvision_names
from fullyconv.models.classifiers import (
    HUBS,
    Classifier,
    classifier,
    in_bands,
    is_in_file,
    not_convertible,
    renamed,
)
from fullyconv.models.fcn import FCN, Alignment, Upscore, Upscoring, zero_score_layer
from fullyconv.models.foreign import foreign, is_foreign, refuse_what_is_ours
from fullyconv.models.streams import LateFusion
from fullyconv.models.transformers import DenseTransformer
from fullyconv.models.weights import Weights, read_weights
from fullyconv.surgery import (
    DenseClassifier,
    NotConvertible,
    Trace,
    Transplant,
    blueprint,
    build,
    convolutionalize,
    trace,
    transplant,
)
from fullyconv.wording import counted

__all__ = [
    "FCN",
    "Alignment",
    "ClassicFCN",
    "Classifier",
    "Geometry",
    "LateFusion",
    "Upscore",
    "Upscoring",
    "classifier",
    "create",
    "dense_form",
    "fcn_over",
    "start_from",
    "zero_score_layer",
]


def create(
    name: str,
    num_classes: int,
    *,
    channels: int = 3,
    upscore: Upscoring = "fixed",
    dropout: float = 0.0,
    alignment: Alignment = "grid",
    geometry: Geometry = "same",
    streams: Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    log_bands: Sequence[int] = (),
    score_size: Sequence[int] = (1, 1),
    graph: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    pretrained: bool = False,
) -> FCN:
    """A fully convolutional network by name.

    Args:
        name: `fcn32s-`, `fcn16s-`, `fcn8s-` or `fcn4s-` and the trunk: one of the paper's, `vgg16`, `alexnet` or
            `googlenet` (fc6 and fc7 as convolutions), or any network of timm, such as `fcn8s-resnet18`. `fcn8s-atonce-`
            scales its finer taps, so that all may be trained at once. Or a segmentation network of another toolkit,
            `torchvision:fcn_resnet50`, `smp:Unet:resnet18` or `hf:segformer`, whose own upsampling stays.
        num_classes: Score channels.
        channels: Bands of the image: 1 grey, 3 RGB, 4 RGBA, or any number.
        upscore: Which upsampling kernels are trained: none, those between taps, or all; all start bilinear.
        dropout: Before the coarsest score layer.
        alignment: `grid` places scores where the trunk's arithmetic puts them. `centred` takes every cell for the
            centre of its block of pixels, as `F.interpolate(align_corners=False)` does: for comparison, and for weights
            that were trained that way.
        geometry: `caffe` pads, pools and crops as the authors' release does, for their weights; of the paper's trunks.
        streams: How many bands each of several such networks sees, in order; their scores are averaged (late fusion).
            If left out, one network sees them all.
        mean: Of each band, in [0, 1]. If left out, what the trunk says that its weights are for; if it does not say,
            ImageNet's for RGB, 0.5 for other bands.
        std: Of each band, likewise; 0.25 for other bands.
        log_bands: Bands whose logarithm the network sees, counted from 0, such as depth's; their mean and std are those
            of ln(n) / ln(65535), for a number n of a picture of 16 bits.
        score_size: Height and width of the kernel that scores the coarsest map, of a classifier whose head was kept.
        graph: The trunk as `surgery.describe` gave it, in place of the one that the name tells.
        config: Of an `hf:` network: what differs from transformers' default configuration of its kind.
        pretrained: Whether timm's weights are fetched from the hub.

    Raises:
        FullyconvError: SEG-M001 for an unknown name; SEG-M002, SEG-M003 for a trunk that does not fit; SEG-M041 for
            streams that are not of all bands; SEG-T012 for an option that the geometry or toolkit has not.
    """
    if streams is not None:
        tower = partial(
            create,
            name,
            num_classes,
            upscore=upscore,
            dropout=dropout,
            alignment=alignment,
            geometry=geometry,
            pretrained=pretrained,
        )
        return _late_fusion(tower, streams, channels, mean, std, log_bands)
    if is_foreign(name):
        ours = {
            "--pretrained hub": pretrained,
            "--upscore": upscore != "fixed",
            "--dropout": dropout > 0,
            "--alignment": alignment != "grid",
            "--geometry": geometry != "same",
            "log_bands": len(log_bands) > 0,
        }
        refuse_what_is_ours(name, [option for option, asked in ours.items() if asked])
        return foreign(name, num_classes, channels=channels, mean=mean, std=std, config=config)
    stride, at_once, trunk_name = _parts(name)
    settings: dict[str, Any] = {
        "channels": channels,
        "upscore": upscore,
        "dropout": dropout,
        "alignment": alignment,
        "at_once": at_once,
        "mean": mean,
        "std": std,
        "log_bands": log_bands,
        "score_size": score_size,
    }
    if graph is not None:
        return fcn_over(build(graph), num_classes, **settings)
    if geometry == "caffe" and trunk_name not in CLASSICS:
        raise FullyconvError(
            "SEG-M002", f"Caffe's geometry is that of {', '.join(CLASSICS)}, not of {trunk_name}; use --geometry same"
        )
    if trunk_name.startswith(HUBS) or is_in_file(trunk_name):
        raise FullyconvError(
            "SEG-M001",
            f"{name} is not built by name, as its files may change or run code; convert it first: fullyconv convert "
            f"{trunk_name} --classes CLASSES --out MODEL, and train by --model MODEL",
        )
    strides = [each for each in (4, 8, 16, 32) if each >= stride]
    source = classifier(trunk_name, channels=channels, pretrained=pretrained)
    try:
        trunk = dense_form(source, channels).trunk(
            strides, CLASSICS[trunk_name].taps if trunk_name in CLASSICS else None
        )
    except NotConvertible as error:
        raise not_convertible(source, error) from error
    settings |= {key: settings[key] or values for key, values in source.statistics.items() if len(values) == channels}
    placed = in_geometry(trunk, geometry) if trunk_name in CLASSICS else trunk
    return fcn_over(placed, num_classes, geometry=geometry, **settings)


def dense_form(source: Classifier, channels: int = 3) -> DenseClassifier | DenseTransformer:
    """The classifier as a network that scores images of any size densely.

    Raises:
        NotConvertible: If it cannot be one; with the name of the layer.
    """
    if isinstance(source.network, VisionTransformer):
        return DenseTransformer(source.network, source.size, channels)
    return convolutionalize(source.network, source.size, channels=channels)


def fcn_over(
    trunk: nn.Module,
    num_classes: int,
    *,
    channels: int = 3,
    alignment: Alignment = "grid",
    geometry: Geometry = "same",
    at_once: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **options: Any,
) -> FCN:
    """The fully convolutional network over a trunk: whatever gives feature maps, finest first, for images of any size.

    Args:
        trunk: Its grids are traced.
        num_classes: Score channels, whose layers start at zero.
        channels: As for `create`, like `alignment`, `geometry`, `mean` and `std`.
        alignment: See there.
        geometry: See there.
        at_once: Whether finer taps are scaled, so that all may be trained at once.
        mean: See there.
        std: See there.
        options: `upscore`, `dropout`, `log_bands` and `score_size`, as for `FCN`.

    Raises:
        FullyconvError: SEG-M002 for a trunk that does not take images of any size, or whose cells do not lie on one
            grid along both axes; SEG-T012 for an alignment that the geometry has not.
    """
    if geometry == "caffe" and alignment != "grid":
        raise FullyconvError(
            "SEG-T012",
            f"--alignment {alignment} is not for --geometry caffe, whose crops follow from the trunk's grid; leave one "
            "of the two out",
        )
    trunk.eval()
    try:
        shadow = blueprint(trunk)
        traced = trace(shadow, channels)
    except (ValueError, RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FullyconvError(
            "SEG-M002",
            f"the network does not take images of any size ({reason}); its layers must follow the size of their maps, "
            "as those of resnet18 and convnext_atto do",
        ) from error
    if traced.skewed:
        raise FullyconvError(
            "SEG-M002",
            f"the cells of the network's {traced.skewed[0]} begin unlike down and across; pad it by half its kernel",
        )
    rgb = channels == 3
    options |= {
        "mean": mean or (IMAGENET_MEAN if rgb else (0.5,) * channels),
        "std": std or (IMAGENET_STD if rgb else (0.25,) * channels),
        "tap_scales": _at_once(len(traced.grids)) if at_once else None,
    }
    if geometry == "caffe":
        return ClassicFCN(trunk.train(), traced, num_classes, **options)
    return FCN(
        trunk.train(),
        traced if alignment == "grid" else replace(traced, grids=tuple(map(_centred, traced.grids))),
        num_classes,
        least_size=_least_size(shadow, channels, int(traced.grids[-1].stride)),
        size_multiple=1 if _takes_odd_sizes(shadow, channels, traced) else int(traced.grids[-1].stride),
        **options,
    )


def _takes_odd_sizes(shadow: nn.Module, channels: int, traced: Trace) -> bool:
    """Whether a trunk gives maps on the same grids for an image that is no multiple of its strides, and any at all."""
    try:
        odd = trace(shadow, channels, (129, 165))
    except (ValueError, RuntimeError, AssertionError):
        return False
    return odd.grids == traced.grids and not odd.skewed


def _parts(name: str) -> tuple[int, bool, str]:
    """Stride, whether it is trained at once, and trunk."""
    match = re.fullmatch(r"fcn(32|16|8|4)s-(atonce-)?(.+)", name)
    if match:
        return int(match[1]), bool(match[2]), match[3]
    known = ["fcn8s-resnet18", "fcn32s-resnet18", "fcn16s-resnet18", "fcn4s-resnet18", "fcn8s-vgg16"]
    bare = [f"fcn8s-{name}"] if timm.is_model(name) else difflib.get_close_matches(name, known, n=1, cutoff=0)
    raise FullyconvError(
        "SEG-M001",
        f"unknown model {name!r}; expected fcn32s-, fcn16s-, fcn8s- or fcn4s- and a trunk, such as {bare[0]}",
    )


def _late_fusion(
    tower: Callable[..., FCN],
    streams: Sequence[int],
    channels: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    log_bands: Sequence[int],
) -> LateFusion:
    """One tower for each stream of bands."""
    if sum(streams) != channels or len(streams) < 2 or min(streams) < 1:
        raise FullyconvError(
            "SEG-M041",
            f"streams must share out the {counted(channels, 'band')} of the images among two networks or more, got "
            f"{','.join(map(str, streams))}; one network sees them all without streams",
        )
    shares = [slice(end - bands, end) for bands, end in zip(streams, accumulate(streams), strict=True)]
    return LateFusion(
        [
            tower(
                channels=bands,
                mean=mean and mean[share],
                std=std and std[share],
                log_bands=[band - share.start for band in log_bands if share.start <= band < share.stop],
            )
            for bands, share in zip(streams, shares, strict=True)
        ]
    )


def _at_once(taps: int) -> list[float]:
    """The authors' scales of the taps, finest first: 1 for the coarsest, 0.01 for pool4, 0.0001 for pool3."""
    return [0.01 ** (taps - 1 - number) for number in range(taps)]


@torch.no_grad()
def _least_size(trunk: nn.Module, channels: int, stride: int) -> int:
    """The smallest image, in steps of the stride, that a trunk gives maps for; some have layers without padding."""
    for size in range(stride, 9 * stride, stride):
        try:
            trunk.eval()(torch.zeros(1, channels, size, size, device=next(trunk.parameters()).device))
        except (RuntimeError, ValueError):  # ValueError: a norm over a single number
            continue
        return size
    return 9 * stride


def _centred(grid: Grid) -> Grid:
    return Grid(grid.stride, (grid.stride - 1) / 2, grid.field)


def start_from(model: FCN, *files: Path) -> Transplant:
    """Takes over the weights of a file that fit, changing `model`: its own, another FCN's, or a classifier's.

    Weights of Caffe, of a classifier or of a network for VOC, bring the mean and the division along that they were
    trained with. Where the network sees more bands than the three of the file, its first layer keeps the file's kernels
    and gives further bands their mean.

    Args:
        model: The network that receives them.
        files: `.safetensors`, a `.pth` of plain tensors, or a `.caffemodel`. A late fusion takes its own, or one file
            for each tower, or one for all of them.

    Returns:
        Which weights were taken, which were dropped, and which of the network's own stayed as they were.

    Raises:
        FullyconvError: SEG-M004 or SEG-M020 if the file cannot be read, SEG-M005 if nothing in it fits, SEG-M021 if
            its upsampling kernels were trained and the network's are fixed; SEG-M022 for a network of Caffe that was
            trained on other data than VOC, which has to be imported first; SEG-M041 if the files are not as many as
            the towers, or one of several is of a whole late fusion.
    """
    weights = [read_weights(file) for file in files]
    towers = list(model.towers) if isinstance(model, LateFusion) else [model]
    if len(files) not in (1, len(towers)):
        raise FullyconvError(
            "SEG-M041",
            f"got {counted(len(files), 'weight file')} for a network of {counted(len(towers), 'stream')}; give one for "
            "each, or one for all",
        )
    whole = [each.file for each in weights if any(name.startswith("towers.") for name in each.tensors)]
    if whole and len(files) > 1:
        raise FullyconvError(
            "SEG-M041", f"{whole[0]} holds all streams of a network; give it alone, or one file of one stream for each"
        )
    if whole or not isinstance(model, LateFusion):
        return _start(model, weights[0])
    each = weights * len(towers) if len(weights) == 1 else weights
    return _joined([_start(tower, of_tower) for tower, of_tower in zip(towers, each, strict=True)])


def _joined(towers: Sequence[Transplant]) -> Transplant:
    """What became of the weights of all towers, under the names that they have in a late fusion."""

    def named(part: str) -> tuple[str, ...]:
        return tuple(f"towers.{number}.{name}" for number, tower in enumerate(towers) for name in getattr(tower, part))

    return Transplant(named("kept"), named("dropped"), named("missing"))


def _start(model: FCN, weights: Weights) -> Transplant:
    state = model.state_dict()
    own = set(state)
    if weights.caffe:
        refuse_other_data(weights)
        renamed = in_our_names(weights, model) | _caffes_statistics()
    else:
        renamed = {_own_name(name, own): tensor for name, tensor in weights.tensors.items()}
    strange = [name for name, bands in renamed.items() if "log_bands" in name and not _equal(state.get(name), bands)]
    if strange:
        raise FullyconvError(
            "SEG-M005",
            f"the network in {weights.file} sees the logarithm of some bands, such as depth, and this one does not; "
            "go on from it as a whole: train(data, model=fullyconv.load(MODEL))",
        )
    taken = transplant(model, in_bands(renamed, model, model.mean.shape[1]))
    if not any("trunk." in name or "network." in name for name in taken.kept):
        raise FullyconvError(
            "SEG-M005",
            f"no weights in {weights.file} fit the network: it holds {', '.join(list(weights.tensors)[:3])}, ..., the "
            f"network wants {', '.join(sorted(own)[:3])}, ...; choose the model whose trunk the file was made for",
        )
    return taken


def _equal(mine: Tensor | None, theirs: Tensor) -> bool:
    return mine is not None and torch.equal(mine.cpu(), theirs)


def _caffes_statistics() -> dict[str, Tensor]:
    """The mean and division that Caffe's nets expect of a colour image, as buffers of a network."""
    return {name: torch.tensor(values).view(1, -1, 1, 1) for name, values in statistics("voc").items()}


def _own_name(name: str, own: set[str]) -> str:
    """The network's name for a weight of a classifier or of another toolkit: `trunk.fc6.weight` for `fc6.weight`."""
    candidates = (name, f"trunk.{name}", f"trunk.{renamed(name, torchvision_names())}", f"network.{name}")
    return next((candidate for candidate in candidates if candidate in own), name)
