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
from fullyconv.runtimes.convolutions import Activation, PackedConv
from fullyconv.runtimes.fusion import USUAL, folded, is_plain, packed_graph
from fullyconv.surgery import twin

FloatPrecision = Literal["fp32", "bf16"]
Scores = Callable[[Float[Tensor, "n c height width"]], Float[Tensor, "n k h w"]]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TRIED = 64  # height and width of a trial image
OFF = {"fp32": 1e-4, "bf16": 0.2}  # of a map's largest value: what rounding may change, and what is another network


class NotPackable(ValueError):  # noqa: N818 - it says what the network is
    """A network or a machine for which there is no packed form; its message says why."""


def packed(model: FCN, *, precision: FloatPrecision = "fp32") -> Scores:
    """The function from images to what `model.scores` gives in evaluation, computed on the CPU by a packed copy.

    The model stays as it is. Weights that change later do not change the function: pack again.

    Args:
        model: Over trunks whose graph is known, as those of timm's and the paper's classifiers are.
        precision: Of the trunk, `bf16` with 8 bits of mantissa between its layers. What is scored, fused and given out
            is float32, and so is the normalisation of the image.

    Raises:
        NotPackable: If a trunk has no graph, if torch has no oneDNN here, if oneDNN or a layer has no bf16, or if a
            packed trunk gives something else for a small trial image.
    """
    _refuse_machine(precision)
    parts = [part for part in model.modules() if isinstance(part, FCN) and "trunk" in part._modules]
    if not parts:
        raise NotPackable(f"a {type(model).__name__} has no trunk that could be packed")
    memo: dict[int, Any] = {id(tensor): tensor.detach() for tensor in chain(model.parameters(), model.buffers())}
    try:
        for part in parts:
            memo[id(part.trunk)] = _packed_trunk(part, precision)
            for grid, layer in zip(part.grids, part.score_layers.values(), strict=True):
                if type(layer) is nn.Conv2d and is_plain(layer):
                    memo[id(layer)] = _packed_score_layer(layer, int(grid.stride))
    except RuntimeError as error:
        raise NotPackable(str(error).partition("\n")[0]) from error
    network = copy.deepcopy(model, memo).eval()

    @torch.no_grad()
    def scores(image: Float[Tensor, "n c height width"]) -> Float[Tensor, "n k h w"]:
        return network.scores(image)

    return scores


def _refuse_machine(precision: FloatPrecision) -> None:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        raise NotPackable("torch was built without oneDNN here")
    if precision == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise NotPackable("oneDNN has no bf16 on this processor")


def _packed_score_layer(layer: nn.Conv2d, stride: int) -> PackedConv:
    """A score layer in float32, for taps of this stride."""
    shape = (USUAL[0], layer.in_channels, USUAL[1] // stride, USUAL[2] // stride)
    return PackedConv(layer, *folded(layer), Activation("none"), shape, torch.float32)


@torch.no_grad()
def _packed_trunk(model: FCN, precision: FloatPrecision) -> "_PackedTrunk":
    """A network's trunk in packed form, which gives for noise what the trunk gives."""
    bands, multiple = model.mean.shape[1], model.size_multiple
    result = _PackedTrunk(model.trunk, bands, DTYPES[precision])
    plain = twin(model.trunk).eval()
    side = -(-max(TRIED, model.least_size) // multiple) * multiple
    image = torch.randn(1, bands, side, side, generator=torch.Generator().manual_seed(0))
    for found, expected in zip(result(image), plain(image), strict=True):
        if not (found - expected).abs().max() <= OFF[precision] * expected.abs().max():  # nor are NaN alike
            raise NotPackable("what its packed layers give is not what they give one by one")
    return result


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
