"""Trunks: classification networks without their heads, as lists of feature maps from fine to coarse."""

import difflib
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import timm
import torch
from torch import Tensor, nn

from fullyconv.errors import FullyconvError
from fullyconv.means import IMAGENET_STD
from fullyconv.surgery import transplant, with_bands


class TimmTrunk(nn.Module):
    """The feature maps of a timm network, the deepest one of each wanted stride.

    Args:
        name: As timm names it, such as `resnet18`.
        strides: Wanted strides in pixels, ascending; those beyond the network's coarsest are left out.
        channels: Bands of the image.
        pretrained: Whether timm fetches its weights from the hub.

    Raises:
        FullyconvError: SEG-M001 for an unknown name, SEG-M002 for a stride that the network does not have,
            SEG-M003 if its weights cannot be fetched.
    """

    def __init__(self, name: str, strides: Sequence[int], *, channels: int = 3, pretrained: bool = False) -> None:
        super().__init__()
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models(), n=3) or ["resnet18"]
            raise FullyconvError("SEG-M001", f"timm has no network {name!r}; the nearest are {', '.join(near)}")
        try:
            reductions = _reductions(name)
        except (RuntimeError, ValueError, KeyError, AttributeError) as error:
            raise FullyconvError("SEG-M002", f"timm's {name} gives no feature maps ({error}); try resnet18") from error
        deepest = {reduction: index for index, reduction in enumerate(reductions)}
        coarsest = max(deepest)
        indices = [deepest[stride] for stride in strides if stride in deepest]
        if len(deepest) == 1 and len(reductions) > 1:
            raise FullyconvError(
                "SEG-M002",
                f"{name} keeps one stride, {coarsest}, throughout, as transformers do; such trunks are not taken yet; "
                "use a network whose maps shrink, such as resnet18 or convnext_atto",
            )
        missing = [stride for stride in strides if stride not in deepest and stride < coarsest]
        if missing or not indices:
            raise FullyconvError(
                "SEG-M002",
                f"{name} has maps at strides {sorted(deepest)}, not at {', '.join(map(str, missing or strides))}; "
                f"use fcn{coarsest}s-{name} or another network",
            )
        try:
            self.network = _feature_maps(name, indices, channels, pretrained=pretrained and channels <= 3)
            if pretrained and channels > 3:
                colors = _feature_maps(name, indices, 3, pretrained=True).state_dict()
                transplant(self.network, in_bands(colors, self.network, channels))
        except (OSError, RuntimeError, ValueError) as error:
            raise unreachable(name, error) from error

    def forward(self, image: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.network(image)
        return maps


def _reductions(name: str) -> list[int]:
    network: Any = timm.create_model(name, features_only=True)
    return list(network.feature_info.reduction())


def _feature_maps(name: str, indices: Sequence[int], channels: int, *, pretrained: bool) -> nn.Module:
    network: nn.Module = timm.create_model(
        name, features_only=True, out_indices=indices, in_chans=channels, pretrained=pretrained
    )
    return network


def in_bands(source: Mapping[str, Tensor], network: nn.Module, channels: int) -> dict[str, Tensor]:
    """The weights of a network for RGB as one for other bands takes them.

    Its first layer is as `with_bands` gives it. Of `mean` and `std`, those of colours are the source's. Other bands
    keep their own mean, and come out of the division as strong beside the source's colours as they were beside
    ImageNet's: Caffe's kernels are made for values from 0 to 255.

    Args:
        source: By the names of `network`.
        network: Tells the shapes.
        channels: Bands of its images.
    """
    own = network.state_dict()

    def fitted(name: str, tensor: Tensor) -> Tensor:
        if name not in own or tensor.ndim != 4 or (tensor.shape[1], own[name].shape[1]) != (3, channels):
            return tensor
        if name in ("mean", "std"):
            kept = own[name] * (tensor.mean() / fmean(IMAGENET_STD)) if name == "std" else own[name]
            return torch.cat((tensor, kept[:, 3:]), 1) if channels >= 3 else kept
        return with_bands(tensor, channels)

    return {name: fitted(name, tensor) for name, tensor in source.items()}


def unreachable(name: str, error: Exception) -> FullyconvError:
    """SEG-M003: the hub did not answer."""
    return FullyconvError(
        "SEG-M003",
        f"the weights of {name} cannot be fetched ({type(error).__name__}); download its weight file elsewhere "
        "and pass --pretrained FILE, or train from scratch with --pretrained none",
    )
