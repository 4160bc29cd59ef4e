"""Convolutions that do more in one pass and keep their weights as the computation wants them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pair = tuple[int, int]

UNFOLDED = 256  # windows that are unfolded at a time, of 100 KB each for fc6 of VGG16
LANES = 64  # channels that are transformed side by side for fewer multiplications


@dataclass(frozen=True)
class Activation:
    """An activation in oneDNN's words."""

    kind: str
    scalars: Sequence[float] = ()
    algorithm: str = ""


class FusedConv(nn.Module):
    """A convolution in another form and with more to do, on windows as those of the one that it stands for."""

    weight: Tensor
    kernel_size: Pair
    stride: Pair
    padding: Pair
    dilation: Pair


class PackedConv(FusedConv):
    """A convolution, a sum and an activation as one call of oneDNN.

    Args:
        conv: Whose windows it has.
        weight: Its own, with the norm in it.
        bias: Likewise.
        activation: Of the sum.
        shape: Of a usual map that comes in; for it the weights are laid out already.
        dtype: Of the weights and of the maps.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        weight: Tensor,
        bias: Tensor,
        activation: Activation,
        shape: Sequence[int],
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = conv.kernel_size, conv.stride, conv.padding  # type: ignore[assignment]
        self.dilation, self.groups = conv.dilation, conv.groups  # type: ignore[assignment]
        self.activation = activation
        self.bias = bias.to(dtype)
        self.weight = weight.to(dtype, memory_format=torch.channels_last)
        # No buffers: a tensor in a layout of oneDNN's can be neither copied nor saved.
        self._by_layout: dict[bytes, Tensor] = {}
        self._by_shape: dict[Sequence[int], Tensor] = {}
        self._laid_out(tuple(shape))

    def _laid_out(self, shape: Sequence[int]) -> Tensor:
        """The weights as oneDNN wants them for maps of a shape.

        In another layout it reorders them at each call: 100 of 110 ms of a mobilenetv3_small_100 at 240x192.
        """
        if shape not in self._by_shape:
            geometry = (self.padding, self.stride, self.dilation, self.groups)
            weight = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *geometry, list(shape))
            layout = torch.ops.mkldnn._get_mkldnn_serialized_md(weight).numpy().tobytes()
            self._by_shape[shape] = self._by_layout.setdefault(layout, weight)
        return self._by_shape[shape]

    def forward(self, image: Tensor, addend: Tensor | None = None) -> Tensor:
        weight, geometry = self._laid_out(image.shape), (self.padding, self.stride, self.dilation, self.groups)
        kind, scalars, algorithm = self.activation.kind, self.activation.scalars, self.activation.algorithm
        if addend is None:
            return torch.ops.mkldnn._convolution_pointwise(  # type: ignore[no-any-return]
                image, weight, self.bias, *geometry, kind, scalars, algorithm
            )
        unary = None if kind == "none" else kind
        return torch.ops.mkldnn._convolution_pointwise.binary(  # type: ignore[no-any-return]
            image, addend, weight, self.bias, *geometry, "add", 1.0, unary, [], None
        )


class UnfoldedConv(FusedConv):
    """A convolution of stride 1, and a ReLU if wanted, as a matrix product over what its windows read.

    For 7 x 7 x 512 to 4096 channels at 16 x 16 cells, fc6 of VGG16, one core takes 382 ms, against 518 for
    oneDNN's convolution.

    Args:
        weight: float32, `(out, in, height, width)`.
        bias: Of each channel of the result.
        padding: Zeros around the map, down and across.
        rectified: Whether a ReLU follows.
    """

    stride, dilation = (1, 1), (1, 1)

    def __init__(self, weight: Tensor, bias: Tensor, padding: Pair, *, rectified: bool) -> None:
        super().__init__()
        self.kernel_size, self.padding = (weight.shape[2], weight.shape[3]), padding
        self.bias = bias
        self.activation = "relu" if rectified else "none"
        rows = weight.permute(0, 2, 3, 1).flatten(1).contiguous()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(rows, UNFOLDED)

    def forward(self, image: Tensor) -> Tensor:
        down, across = self.padding
        cells = F.pad(image, (across, across, down, down)).permute(0, 2, 3, 1)
        windows = cells.unfold(1, self.kernel_size[0], 1).unfold(2, self.kernel_size[1], 1).permute(0, 1, 2, 4, 5, 3)
        count, width = windows.shape[0], windows.shape[2]
        rows = max(1, UNFOLDED // (count * width))
        parts = [
            torch.ops.mkldnn._linear_pointwise(
                part.reshape(-1, self.weight.shape[1]), self.weight, self.bias, self.activation, [], ""
            ).unflatten(0, (count, -1, width))
            for part in torch.split(windows, rows, 1)
        ]
        return torch.cat(parts, 1).permute(0, 3, 1, 2)
