"""Layers and weights: linear as convolution and back, weights moved from net to net, kernels for other bands."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

_Network = TypeVar("_Network", bound=nn.Module)


def linear_to_conv(linear: nn.Linear, kernel_size: tuple[int, int] = (1, 1)) -> nn.Conv2d:
    """The convolution whose kernel covers the whole input of a linear layer, so that it slides over larger ones.

    Args:
        linear: A layer that reads a flattened `(C, height, width)` map.
        kernel_size: That map's `(height, width)`.

    Raises:
        ValueError: If the layer's input is not a whole number of such maps.

    Source: Long, Shelhamer and Darrell 2015, section 3.1.
    """
    height, width = kernel_size
    channels, rest = divmod(linear.in_features, height * width)
    if rest:
        raise ValueError(
            f"a linear layer with {linear.in_features} inputs cannot read maps of {height} x {width} cells"
        )
    conv = nn.Conv2d(channels, linear.out_features, kernel_size, bias=linear.bias is not None, device="meta")
    conv.weight = nn.Parameter(linear.weight.detach().reshape(conv.weight.shape).clone())
    if linear.bias is not None:
        conv.bias = nn.Parameter(linear.bias.detach().clone())
    return conv


def conv_to_linear(conv: nn.Conv2d) -> nn.Linear:
    """The linear layer that a convolution is on an input just as large as its kernel: `linear_to_conv`, inverted."""
    has_bias, weight = conv.bias is not None, conv.weight
    linear = nn.Linear(weight[0].numel(), conv.out_channels, bias=has_bias, device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        linear.weight.copy_(conv.weight.flatten(1))
        if conv.bias is not None:
            linear.bias.copy_(conv.bias)
    return linear


def twin(network: _Network) -> _Network:
    """The same network over the same tensors, in layers of its own: what is done to these is not done to the given."""
    shared = {id(tensor): tensor for tensor in chain(network.parameters(), network.buffers())}
    return copy.deepcopy(network, shared)


@dataclass(frozen=True)
class Transplant:
    """What became of the weights: names taken over, source names with no place, target names left as they were."""

    kept: tuple[str, ...]
    dropped: tuple[str, ...]
    missing: tuple[str, ...]


def transplant(target: nn.Module, source: Mapping[str, Tensor]) -> Transplant:
    """Copies weights into `target` by name, changing it; a tensor of another shape but as many values is reshaped.

    Reshaping is what turns a classifier's linear weights `(out, C * h * w)` into a kernel `(out, C, h, w)`.

    Source: `surgery.transplant` of the authors' release.
    """
    state = target.state_dict()
    fitting = {name for name, tensor in source.items() if name in state and state[name].numel() == tensor.numel()}
    with torch.no_grad():
        for name in fitting:
            state[name].copy_(source[name].reshape(state[name].shape))
    return Transplant(
        kept=tuple(name for name in source if name in fitting),
        dropped=tuple(name for name in source if name not in fitting),
        missing=tuple(name for name in state if name not in fitting),
    )


def with_bands(weight: Float[Tensor, "out bands h w"], channels: int) -> Float[Tensor, "out channels h w"]:
    """A first layer's kernels for images of another number of bands.

    The kernels of the bands that there are stay, and every further band gets their mean. Where there are fewer bands,
    each gets the mean, made so much stronger that grey images excite the layer as they did before.

    Args:
        weight: Such as a classifier's for RGB.
        channels: Bands of the images.

    Source: `conv1_1_bgrd` in the authors' nyud-fcn32s-color-d.
    """
    bands = weight.shape[1]
    mean = weight.mean(1, keepdim=True)
    if channels < bands:
        return (mean * (bands / channels)).expand(-1, channels, -1, -1).clone()
    return torch.cat((weight, mean.expand(-1, channels - bands, -1, -1)), 1)


def bilinear_kernel(kernel_size: int) -> Float[Tensor, "k k"]:
    """The bilinear upsampling kernel that the authors' transposed convolutions start from, float64.

    Source: `upsample_filt` of the authors' release.
    """
    factor = (kernel_size + 1) // 2
    center = factor - 1 if kernel_size % 2 else factor - 0.5
    taps = 1 - (torch.arange(kernel_size, dtype=torch.float64) - center).abs() / factor
    return torch.outer(taps, taps)
