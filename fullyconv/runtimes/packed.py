"""A network's coarse scores on the CPU, from a copy whose layers are fused and whose weights oneDNN has laid out."""

import copy
from collections.abc import Callable
from itertools import chain
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from fullyconv.models import FCN
from fullyconv.runtimes.borders import reuse_borders
from fullyconv.runtimes.fusion import USUAL, Activation, PackedConv, packed_graph

Precision = Literal["fp32", "bf16"]
Scores = Callable[[Float[Tensor, "n c height width"]], Float[Tensor, "n k h w"]]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TRIED = (1, 64, 64)  # images, height and width


class NotPackable(ValueError):  # noqa: N818 - it says what the network is
    """A network or a machine for which there is no packed form; its message says why."""


def packed(model: FCN, *, precision: Precision = "fp32") -> Scores:
    """The function from images to what `model.scores` gives in evaluation, computed on the CPU by a packed copy.

    The model stays as it is. Weights that change later do not change the function: pack again.

    Args:
        model: Over trunks whose graph is known, as those of timm's and the paper's classifiers are.
        precision: Of the trunk, `bf16` with 8 bits of mantissa between its layers. What is scored, fused and given out
            is float32, and so is the normalisation of the image.

    Raises:
        NotPackable: If a trunk has no graph, if torch has no oneDNN here, or if oneDNN or a layer has no bf16.
    """
    _refuse_machine(precision)
    parts = [part for part in model.modules() if isinstance(part, FCN) and "trunk" in part._modules]
    if not parts:
        raise NotPackable(f"a {type(model).__name__} has no trunk that could be packed")
    memo: dict[int, Any] = {id(tensor): tensor.detach() for tensor in chain(model.parameters(), model.buffers())}
    for part in parts:
        memo[id(part.trunk)] = _PackedTrunk(part.trunk, part.mean.shape[1], DTYPES[precision])
        for grid, layer in zip(part.grids, part.score_layers.values(), strict=True):
            memo[id(layer)] = _packed_score_layer(layer, int(grid.stride))
    network = copy.deepcopy(model, memo).eval()

    @torch.no_grad()
    def scores(image: Float[Tensor, "n c height width"]) -> Float[Tensor, "n k h w"]:
        return network.scores(image)

    try:
        scores(torch.zeros(TRIED[0], model.mean.shape[1], *TRIED[1:]))
    except RuntimeError as error:
        raise NotPackable(str(error).partition("\n")[0]) from error
    return scores


def _refuse_machine(precision: Precision) -> None:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        raise NotPackable("torch was built without oneDNN here")
    if precision == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise NotPackable("oneDNN has no bf16 on this processor")


def _packed_score_layer(layer: nn.Module, stride: int) -> PackedConv:
    """A score layer in float32, for taps of this stride."""
    assert isinstance(layer, nn.Conv2d)
    assert layer.bias is not None
    shape = (USUAL[0], layer.in_channels, USUAL[1] // stride, USUAL[2] // stride)
    weight, bias = layer.weight.detach(), layer.bias.detach()
    return PackedConv(layer, weight, bias, Activation("none"), shape, torch.float32)


class _PackedTrunk(nn.Module):
    """The maps of a trunk in float32, computed by its packed graph."""

    def __init__(self, trunk: nn.Module, channels: int, dtype: torch.dtype) -> None:
        super().__init__()
        if not isinstance(trunk, fx.GraphModule):
            raise NotPackable(f"a trunk of kind {type(trunk).__name__} has no graph whose layers could be fused")
        self.dtype = dtype
        self.network = reuse_borders(packed_graph(trunk, channels, dtype))

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = self.network(image.to(self.dtype, memory_format=torch.channels_last))
        return [tap.float() for tap in maps]
