"""The paper's networks: VGG16, CaffeNet and GoogLeNet as classifiers, and the FCN in Caffe's geometry.

Layers carry the names of the authors' files. Source: Long, Shelhamer and Darrell 2015, section 4.1, and the network
definitions of the authors' release; Simonyan and Zisserman 2015; Krizhevsky, Sutskever and Hinton 2012 as in Caffe's
reference model; Szegedy et al. 2015.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, no_type_check

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullyconv.geometry import Grid
from fullyconv.models.fcn import FCN
from fullyconv.surgery import Trace

Geometry = Literal["same", "caffe"]

Layers = dict[str, nn.Module]

IMAGENET_CLASSES = 1000
CAFFE_PADDING = 100  # of the first layer: with it, the output of any image can be cropped to cover that image


class Rectified(nn.Conv2d):
    """A convolution and its ReLU."""

    def forward(self, input: Tensor) -> Tensor:
        return F.relu(super().forward(input))


class Inception(nn.Module):
    """Four branches side by side: 1 x 1, 3 x 3, 5 x 5 and pooling, each but the first behind a 1 x 1 convolution.

    Args:
        bands: Channels of the map that comes in.
        one: Channels of the 1 x 1 branch.
        three: Channels before and after the 3 x 3 convolution.
        five: Channels before and after the 5 x 5 convolution.
        pooled: Channels of the pooling branch.

    Source: Szegedy et al. 2015, figure 2b and table 1.
    """

    def __init__(self, bands: int, one: int, three: tuple[int, int], five: tuple[int, int], pooled: int) -> None:
        super().__init__()
        self.one = Rectified(bands, one, 1)
        self.three = nn.Sequential(Rectified(bands, three[0], 1), Rectified(*three, 3, padding=1))
        self.five = nn.Sequential(Rectified(bands, five[0], 1), Rectified(*five, 5, padding=2))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), Rectified(bands, pooled, 1))

    @no_type_check  # the graph is traced with a stand-in for the tensor
    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([self.one(image), self.three(image), self.five(image), self.pooled(image)], 1)


def _pool(kernel_size: int) -> nn.MaxPool2d:
    return nn.MaxPool2d(kernel_size, 2, ceil_mode=True)  # Caffe rounds up: 500 pixels give a map of 10, not of 9


def _response_norm() -> nn.LocalResponseNorm:
    return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75)


def _fully_connected(bands: int, kernel_size: int) -> Layers:
    """The classifier's hidden layers and its last one, which read the whole map at its native size."""
    return {
        "flatten": nn.Flatten(),
        "fc6": nn.Linear(bands * kernel_size**2, 4096),
        "relu6": nn.ReLU(inplace=True),
        "drop6": nn.Dropout(0.5),
        "fc7": nn.Linear(4096, 4096),
        "relu7": nn.ReLU(inplace=True),
        "drop7": nn.Dropout(0.5),
        "fc8": nn.Linear(4096, IMAGENET_CLASSES),
    }


def vgg16(bands: int) -> Layers:
    """VGG16."""
    layers: Layers = {}
    for block, (width, depth) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)], start=1):
        for number in range(1, depth + 1):
            layers[f"conv{block}_{number}"] = Rectified(bands, width, 3, padding=1)
            bands = width
        layers[f"pool{block}"] = _pool(2)
    return layers | _fully_connected(bands, 7)


def alexnet(bands: int) -> Layers:
    """CaffeNet: AlexNet with its two groups, and response normalisation after pooling."""
    return {
        "conv1": Rectified(bands, 96, 11, 4),
        "pool1": _pool(3),
        "norm1": _response_norm(),
        "conv2": Rectified(96, 256, 5, padding=2, groups=2),
        "pool2": _pool(3),
        "norm2": _response_norm(),
        "conv3": Rectified(256, 384, 3, padding=1),
        "conv4": Rectified(384, 384, 3, padding=1, groups=2),
        "conv5": Rectified(384, 256, 3, padding=1, groups=2),
        "pool5": _pool(3),
        **_fully_connected(256, 6),
    }


def googlenet(bands: int) -> Layers:
    """GoogLeNet without its auxiliary classifiers."""
    return {
        "conv1_7x7_s2": Rectified(bands, 64, 7, 2, padding=3),
        "pool1_3x3_s2": _pool(3),
        "pool1_norm1": _response_norm(),
        "conv2_3x3_reduce": Rectified(64, 64, 1),
        "conv2_3x3": Rectified(64, 192, 3, padding=1),
        "conv2_norm2": _response_norm(),
        "pool2_3x3_s2": _pool(3),
        "inception_3a": Inception(192, 64, (96, 128), (16, 32), 32),
        "inception_3b": Inception(256, 128, (128, 192), (32, 96), 64),
        "pool3_3x3_s2": _pool(3),
        "inception_4a": Inception(480, 192, (96, 208), (16, 48), 64),
        "inception_4b": Inception(512, 160, (112, 224), (24, 64), 64),
        "inception_4c": Inception(512, 128, (128, 256), (24, 64), 64),
        "inception_4d": Inception(512, 112, (144, 288), (32, 64), 64),
        "inception_4e": Inception(528, 256, (160, 320), (32, 128), 128),
        "pool4_3x3_s2": _pool(3),
        "inception_5a": Inception(832, 256, (160, 320), (32, 128), 128),
        "inception_5b": Inception(832, 384, (192, 384), (48, 128), 128),
        "pool5_7x7_s1": nn.AvgPool2d(7, 1),
        "pool5_drop": nn.Dropout(0.4),
        "flatten": nn.Flatten(),
        "loss3_classifier": nn.Linear(1024, IMAGENET_CLASSES),
    }


@dataclass(frozen=True)
class Classic:
    """A network of the paper: how its layers are made, the image that it classifies, and what is scored where.

    Args:
        layers: By Caffe's names, for images of so many bands.
        size: Height and width of the images that it classifies.
        taps: The layer that is scored at each stride. The paper takes what leaves a pool, and GoogLeNet without its
            last one.
    """

    layers: Callable[[int], Layers]
    size: int
    taps: Mapping[int, str]


CLASSICS = {
    "vgg16": Classic(vgg16, 224, {4: "pool2", 8: "pool3", 16: "pool4", 32: "drop7"}),
    "alexnet": Classic(alexnet, 227, {4: "conv1", 8: "norm1", 16: "norm2", 32: "drop7"}),
    "googlenet": Classic(googlenet, 224, {4: "pool1_norm1", 8: "inception_3b", 16: "inception_4e", 32: "inception_5b"}),
}


class ClassicNet(nn.Sequential):
    """One of the paper's classifiers: logits `(N, 1000)` for images `(N, C, H, W)` of its own size.

    Args:
        name: Key of `CLASSICS`.
        channels: Bands of the image.
    """

    def __init__(self, name: str, channels: int = 3) -> None:
        with torch.device("meta"):  # torch's own initialisation would only cost time
            super().__init__(OrderedDict(CLASSICS[name].layers(channels)))
        self.to_empty(device=torch.get_default_device())
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]


def in_geometry(trunk: nn.Module, geometry: Geometry) -> nn.Module:
    """The trunk of one of the paper's classifiers in Caffe's geometry or one that keeps sizes, changing its paddings.

    Args:
        trunk: Of a converted `ClassicNet`.
        geometry: `caffe` pads the image by 100 pixels and fc6 by none, as the authors do; `same` lets both keep the
            size of their maps, for no more work than the image needs.
    """
    first = next(module for module in trunk.modules() if isinstance(module, nn.Conv2d))
    first.padding = (CAFFE_PADDING if geometry == "caffe" else first.kernel_size[0] // 2,) * 2
    hidden = getattr(trunk, "fc6", None)
    if isinstance(hidden, nn.Conv2d) and geometry == "caffe":
        hidden.padding = (0, 0)
    return trunk


def torchvision_names() -> dict[str, str]:
    """Our names for the layers of torchvision's VGG16, by theirs: `features.0` is conv1_1, `classifier.0` is fc6."""
    names, index = {"classifier.0": "fc6", "classifier.3": "fc7"}, 0
    with torch.device("meta"):
        layers = vgg16(3)
    for name, layer in layers.items():
        if name.startswith("conv"):
            names[f"features.{index}"] = name
        index += 2 if isinstance(layer, Rectified) else 1  # theirs has each ReLU as a layer of its own
    return names


class ClassicFCN(FCN):
    """The fully convolutional network in the geometry of the authors' release.

    The image is padded by 100 pixels, beyond a map's border there is nothing (zeros), and finer maps are cropped to
    what the coarser ones reach: by 5 cells for pool4, 9 for pool3, and 19, 27 or 31 pixels for the image of an FCN-32s,
    16s or 8s over VGG16. These offsets are not typed: they follow from the grids.

    Takes the arguments of `FCN`, but gives a result for every image from 1 x 1 pixels on without padding it further.

    Raises:
        ValueError: If the trunk pads too little for its output to cover the image.

    Source: the network definitions of the authors' release, and Caffe's `coord_map.py`.
    """

    def __init__(self, trunk: nn.Module, trace: Trace, num_classes: int, **settings: Any) -> None:
        super().__init__(trunk, trace, num_classes, **settings, least_size=1)
        offsets, wide = [], self.coarsest
        for fine in reversed(self.grids[:-1]):
            wide = _deconvolved(wide, fine)
            offsets.append(fine.crop_offset(wide))
        self._last = wide
        offsets.append(_deconvolved(wide, Grid()).crop_offset(Grid()))
        self.crop_offsets = tuple(offsets)  # of the finer taps, from coarse to fine, and of the image
        if min(offsets) < 0:
            raise ValueError(
                f"the trunk pads too little for its scores to cover the image: a crop would be {min(offsets)}; pad its "
                f"first layer by {-min(offsets)} or more pixels on top"
            )

    @property
    def grid(self) -> Grid:
        """Where the scores lie on the image; those of a net whose last kernel is trained lie on its pixels."""
        return Grid() if "image" in self.upscore_layers else self._last.crop(-1)

    def _fused(self, scores: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        fused = scores[-1]
        finer = zip(reversed(scores[:-1]), reversed(self.grids[:-1]), self.crop_offsets[:-1], strict=True)
        for score, fine, crop in finer:
            wide = self._upscore_onto(fine).spread(fused)
            score = _cropped(score, crop, (wide.shape[2], wide.shape[3]))
            # GoogLeNet's finer maps end a cell or two before what the coarser ones reach, well beyond the image.
            fused = _cropped(wide, 0, (score.shape[2], score.shape[3])) + score
        if "image" in self.upscore_layers:
            return _cropped(self._upscore_onto(Grid()).spread(fused), self.crop_offsets[-1], size)
        # One ring of zeros: interpolating into it is what a transposed convolution does beyond its last cell.
        return F.pad(fused, (1, 1, 1, 1))


def _cropped(score: Tensor, offset: int, size: tuple[int, int]) -> Tensor:
    height, width = (torch.sym_min(side, have - offset) for side, have in zip(size, score.shape[2:], strict=True))
    return score.narrow(2, offset, height).narrow(3, offset, width)


def _deconvolved(coarse: Grid, fine: Grid) -> Grid:
    """The grid of the transposed convolution that brings `coarse` to the stride of `fine`, on whole cells of it.

    Its kernel is the paper's, twice the factor wide; one less where cells fall upon cells, as CaffeNet's 63.
    """
    factor = int(coarse.stride / fine.stride)
    between = ((coarse.start - fine.start) / fine.stride).denominator == 2
    return coarse.deconvolve(2 * factor - (0 if between else 1), factor)
