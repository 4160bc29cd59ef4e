"""Trunks: classification networks without their heads, as lists of feature maps from fine to coarse."""

import difflib
from collections.abc import Sequence
from typing import Any

import timm
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from fullyconv.errors import FullyconvError
from fullyconv.surgery import linear_to_conv


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
            self.network = timm.create_model(
                name, features_only=True, out_indices=indices, in_chans=channels, pretrained=pretrained
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise _unreachable(name, error) from error

    def forward(self, image: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.network(image)
        return maps


def _reductions(name: str) -> list[int]:
    network: Any = timm.create_model(name, features_only=True)
    return list(network.feature_info.reduction())


def _with_bands(state: dict[str, Tensor], channels: int) -> dict[str, Tensor]:
    """A first layer's weights for other than three bands: each the mean of the three, and as strong in sum."""
    weight = state["weight"]
    mean = weight.mean(1, keepdim=True).expand(-1, channels, -1, -1) * (weight.shape[1] / channels)
    return {**state, "weight": mean}


def _unreachable(name: str, error: Exception) -> FullyconvError:
    return FullyconvError(
        "SEG-M003",
        f"the weights of {name} cannot be fetched ({type(error).__name__}); download its weight file elsewhere "
        "and pass --pretrained FILE, or train from scratch with --pretrained none",
    )


class VGG16Trunk(nn.Module):
    """VGG16 with its hidden fully connected layers as convolutions: pool3, pool4 and fc7, at strides 8, 16 and 32.

    The first layer's 100-pixel padding is left out; every convolution keeps the size of its input, and pools round up,
    so that any image gives at least one cell.

    Args:
        strides: Wanted strides among 4, 8, 16 and 32, ascending.
        channels: Bands of the image.
        pretrained: Whether torchvision fetches its weights; bands beyond RGB start as the mean of the three.

    Raises:
        FullyconvError: SEG-M003 if the weights cannot be fetched.

    Source: Simonyan and Zisserman 2015; Long, Shelhamer and Darrell 2015, section 4.1.
    """

    def __init__(self, strides: Sequence[int], *, channels: int = 3, pretrained: bool = False) -> None:
        super().__init__()
        try:
            network = torchvision.models.vgg16(weights="IMAGENET1K_V1" if pretrained else None)
        except (OSError, RuntimeError) as error:
            raise _unreachable("vgg16", error) from error
        if channels != 3:
            first = nn.Conv2d(channels, 64, 3, padding=1)
            if pretrained:
                first.load_state_dict(_with_bands(network.features[0].state_dict(), channels))
            network.features[0] = first
        self.features = network.features
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                layer.ceil_mode = True
        self.fc6 = linear_to_conv(network.classifier[0], (7, 7))
        self.fc6.padding = (3, 3)
        self.fc7 = linear_to_conv(network.classifier[3])
        self.strides = tuple(strides)

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = []
        stride = 1
        for layer in self.features:
            image = layer(image)
            if isinstance(layer, nn.MaxPool2d):
                stride *= 2
                if stride in self.strides and stride < 32:
                    maps.append(image)
        image = F.dropout(F.relu(self.fc6(image)), 0.5, self.training)
        return [*maps, F.dropout(F.relu(self.fc7(image)), 0.5, self.training)]
