"""Segmentation networks of other toolkits: to evaluate, predict with and export what was trained elsewhere."""

import difflib
from collections.abc import Sequence
from typing import Any

import torch
import torchvision
from jaxtyping import Float
from torch import Tensor, nn

from fullyconv.errors import FullyconvError
from fullyconv.geometry import Grid
from fullyconv.means import IMAGENET_MEAN, IMAGENET_STD
from fullyconv.models.fcn import FCN

TOOLKITS = ("torchvision", "smp")
MULTIPLE = 32  # pixels: what their decoders can put together again
REACH = 512  # pixels around a tile: their decoders' fields are not traced


class ForeignNet(FCN):
    """A whole network of another toolkit, whose logits are as large as the image.

    Args:
        network: Gives logits `(N, K, H, W)` for normalised images `(N, C, H, W)` of multiples of 32 pixels, alone or
            under the key `out`.
        num_classes: Its channels K.
        mean: Of each band, in [0, 1].
        std: Of each band.
    """

    def __init__(self, network: nn.Module, num_classes: int, *, mean: Sequence[float], std: Sequence[float]) -> None:
        nn.Module.__init__(self)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        self.network = network
        self.num_classes = num_classes
        self.grids = (Grid().convolve(REACH + 1).convolve(1, MULTIPLE),)
        self.global_operations = ("a decoder of another toolkit",)
        self.least_size = self.size_multiple = MULTIPLE
        self.score_layers, self.upscore_layers = nn.ModuleDict(), nn.ModuleDict()

    @property
    def grid(self) -> Grid:
        """Where the scores lie on the image: on its pixels."""
        return Grid()

    def scores(self, image: Float[Tensor, "n c height width"]) -> Float[Tensor, "n k height width"]:
        """The logits of the image.

        Args:
            image: In [0, 1], any height and width from 1 up.
        """
        logits: Any = self.network(self._padded((image - self.mean) / self.std))
        whole: Tensor = logits["out"] if isinstance(logits, dict) else logits
        return whole[:, :, : image.shape[2], : image.shape[3]]


def is_foreign(name: str) -> bool:
    """Whether a network is another toolkit's as a whole, such as `torchvision:fcn_resnet50` or `smp:Unet:resnet18`."""
    toolkit, _, rest = name.partition(":")
    return toolkit in TOOLKITS and bool(rest)


def foreign(name: str, num_classes: int, *, channels: int = 3) -> ForeignNet:
    """A segmentation network of another toolkit, with random weights.

    Args:
        name: `torchvision:` and a segmentation network of torchvision, or `smp:DECODER:ENCODER` of
            segmentation-models-pytorch.
        num_classes: Its classes.
        channels: Bands of the image.

    Raises:
        FullyconvError: SEG-M001 for an unknown network, SEG-M052 if its toolkit is not installed or refuses.
    """
    toolkit, _, rest = name.partition(":")
    network = _of_torchvision(rest, num_classes) if toolkit == "torchvision" else _of_smp(rest, num_classes, channels)
    rgb = channels == 3
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if rgb else ((0.5,) * channels, (0.25,) * channels)
    return ForeignNet(network, num_classes, mean=mean, std=std)


def _of_torchvision(name: str, num_classes: int) -> nn.Module:
    known = torchvision.models.list_models(module=torchvision.models.segmentation)
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known, n=3, cutoff=0))
        raise FullyconvError("SEG-M001", f"torchvision has no segmentation network {name!r}; the nearest are {near}")
    network: nn.Module = torchvision.models.get_model(
        name, weights=None, weights_backbone=None, num_classes=num_classes
    )
    return network


def _of_smp(name: str, num_classes: int, channels: int) -> nn.Module:
    decoder, _, encoder = name.partition(":")
    try:
        import segmentation_models_pytorch as smp
    except ImportError:
        raise FullyconvError(
            "SEG-M052", "smp: networks need their toolkit: pip install segmentation-models-pytorch"
        ) from None
    try:
        network: nn.Module = smp.create_model(
            decoder, encoder or "resnet34", encoder_weights=None, in_channels=channels, classes=num_classes
        )
    except (KeyError, ValueError, RuntimeError) as error:
        raise FullyconvError(
            "SEG-M052", f"segmentation-models-pytorch makes no {name} ({str(error).splitlines()[0]}); see its names"
        ) from error
    return network
