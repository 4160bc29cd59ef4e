"""Trunks: classification networks without their heads, as lists of feature maps from fine to coarse."""

import difflib
from collections.abc import Sequence
from typing import Any

import timm
from torch import Tensor, nn

from fullyconv.errors import FullyconvError


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
            raise unreachable(name, error) from error

    def forward(self, image: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.network(image)
        return maps


def _reductions(name: str) -> list[int]:
    network: Any = timm.create_model(name, features_only=True)
    return list(network.feature_info.reduction())


def with_bands(state: dict[str, Tensor], channels: int) -> dict[str, Tensor]:
    """A first layer's weights for other than three bands: each the mean of the three, and as strong in sum."""
    weight = state["weight"]
    mean = weight.mean(1, keepdim=True).expand(-1, channels, -1, -1) * (weight.shape[1] / channels)
    return {**state, "weight": mean}


def unreachable(name: str, error: Exception) -> FullyconvError:
    """SEG-M003: the hub did not answer."""
    return FullyconvError(
        "SEG-M003",
        f"the weights of {name} cannot be fetched ({type(error).__name__}); download its weight file elsewhere "
        "and pass --pretrained FILE, or train from scratch with --pretrained none",
    )
