"""Dense output from coarse networks: shift-and-stitch, and the à trous network that gives the same in one pass."""

import copy
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from fullyconv.errors import FullyconvError
from fullyconv.geometry import Grid
from fullyconv.surgery import Trace, blueprint, trace

PROBE = (1024, 1280)  # pixels of the image that a blueprint is traced on: more than any of the paper's nets sees


def shift_and_stitch(
    network: Callable[[Tensor], Tensor], image: Float[Tensor, "n c height width"], factor: int
) -> Float[Tensor, "n k dense_h dense_w"]:
    """A network's scores at every pixel: `factor` x `factor` shifted images, each run alone, their outputs interlaced.

    Output (i, j) is what the network says of the receptive field that begins i rows and j columns after that of its
    first cell; every `factor`-th of them is the network's own output. Padding rule: a shift puts zeros before the first
    row and column, and the cells that would begin in them are dropped. The last ones are those that the network itself
    has, so without padding there are (H - R + 1) x (W - R + 1) for a receptive field of R pixels. A network that pads
    its maps gives what its dense form would give only where the receptive field touches no padding, see `Grid.inside`.

    Args:
        network: Any module or function from images to maps.
        image: Of any size that the network takes.
        factor: The network's stride, such as `trace(network).grids[0].stride`.

    Source: Long, Shelhamer and Darrell 2015, section 3.2; Sermanet et al. 2014, "OverFeat", section 3.3.
    """
    if factor < 1:
        raise ValueError(f"factor must be the network's stride, 1 or more, got {factor}")
    shifts = [-phase % factor for phase in range(factor)]  # phase 1 of the output comes from the largest shift
    rows = []
    for down in shifts:
        parts = [network(F.pad(image, (right, 0, down, 0)))[:, :, down > 0 :, right > 0 :] for right in shifts]
        rows.append(_interlaced(parts, 3))
    return _interlaced(rows, 2)


def _interlaced(parts: list[Tensor], dim: int) -> Tensor:
    """The first slice of each part, then the second of each, and so on; parts may differ in length by one."""
    size = list(parts[0].shape)
    size[dim] = sum(part.shape[dim] for part in parts)
    whole = parts[0].new_empty(size)
    for phase, part in enumerate(parts):
        whole.movedim(dim, 0)[phase :: len(parts)] = part.movedim(dim, 0)
    return whole


def rarefied(kernel: Shaped[Tensor, "*maps h w"], factor: int) -> Shaped[Tensor, "*maps rare_h rare_w"]:
    """The kernel with `factor - 1` zeros between its taps: to convolve with it is to convolve with that dilation.

    Source: Long, Shelhamer and Darrell 2015, section 3.2.
    """
    height, width = ((taps - 1) * factor + 1 for taps in kernel.shape[-2:])
    rare = kernel.new_zeros(*kernel.shape[:-2], height, width)
    rare[..., ::factor, ::factor] = kernel
    return rare


def patches(image: Float[Tensor, "n c height width"], grid: Grid) -> Float[Tensor, "n h w c field field"]:
    """What each cell of a map sees of the image, for the cells whose receptive field lies inside it: a view.

    A network without padding says of such a patch what it says in that cell.

    Args:
        image: Of any size.
        grid: Of the map.
    """
    rows, columns = (grid.inside(size) for size in image.shape[2:])
    top, left = (int(grid.first + cells.start * grid.stride) for cells in (rows, columns))
    stride, field = int(grid.stride), int(grid.field)
    if not rows or not columns:
        raise ValueError(
            f"no cell sees only pixels of an image of {image.shape[2]} x {image.shape[3]} pixels: a "
            f"receptive field has {field} x {field}"
        )
    return image[:, :, top:, left:].unfold(2, field, stride).unfold(3, field, stride).permute(0, 2, 3, 1, 4, 5)


def a_trous(network: nn.Module, *, channels: int = 3) -> nn.Module:
    """A copy of a network that scores every pixel in one pass: strides of 1, later layers dilated by what they lost.

    Equal to `shift_and_stitch`. Convolutions, max and average pools are rarefied alike, along every branch; the weights
    are copies of the network's, under the same names. Ceil rounding has nothing left to round, so cells that reach over
    the right and bottom border are gone.

    Args:
        network: Its convolutions and pools are modules, and nothing in it looks at the whole map.
        channels: Bands of the image.

    Raises:
        FullyconvError: SEG-M030 with the name of the layer that cannot be made dense.

    Source: Long, Shelhamer and Darrell 2015, section 3.2; Mallat 1999, "A wavelet tour of signal processing", for the
    name.
    """
    before = _traced(network, channels, "as it is")
    for call in before.mixing:
        raise _refusal(call.layer, f"{call.function} looks at the whole map, or changes its size")
    memo: dict[int, Any] = {}
    for layer, rate in _rates(network, before).items():
        module = network.get_submodule(layer)
        try:
            memo[id(module)] = _rarefied_layer(copy.deepcopy(module, memo), rate)
        except ValueError as error:
            raise _refusal(layer, str(error)) from None
    dense = copy.deepcopy(network, memo)
    after = _traced(dense, channels, "with strides of 1")
    if after.grids != tuple(Grid(Fraction(1), grid.start, grid.field) for grid in before.grids):
        raise _refusal("", "it chooses its padding by its stride")
    return dense


class RarefiedAverage(nn.Module):
    """An average pool with a stride of 1 whose cells lie `rate` apart, which torch's own cannot."""

    def __init__(self, pool: nn.AvgPool2d, rate: int) -> None:
        super().__init__()
        self.kernel_size = _pair(pool.kernel_size)
        self.padding = _times(pool.padding, rate)
        self.dilation = (rate, rate)
        self.divisor = pool.divisor_override or math.prod(self.kernel_size)

    def forward(self, image: Tensor) -> Tensor:
        channels = image.shape[1]
        kernel = image.new_full((channels, 1, *self.kernel_size), 1 / self.divisor)
        return F.conv2d(image, kernel, padding=self.padding, dilation=self.dilation, groups=channels)


_LAYERS = {"conv2d": nn.Conv2d, "max_pool2d": nn.MaxPool2d, "avg_pool2d": nn.AvgPool2d}


def _traced(network: nn.Module, channels: int, state: str) -> Trace:
    try:
        return trace(blueprint(network).eval(), channels, PROBE)
    except (ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise _refusal("", f"{state}, {reason}") from error


def _refusal(layer: str, reason: str) -> FullyconvError:
    place = f" at its layer {layer}" if layer else ""
    return FullyconvError("SEG-M030", f"the network cannot be made dense{place}: {reason}")


def _rates(network: nn.Module, traced: Trace) -> dict[str, int]:
    """The stride of the map that each windowed layer reads, by the layer's name."""
    rates: dict[str, int] = {}
    for call in traced.windows:
        rate = int(call.grid.stride)
        if call.function == "pad" and rate == 1:
            continue
        if call.function not in _LAYERS:
            raise _refusal(call.layer, f"there is no dense form of {call.function} at stride {rate}")
        kind = _LAYERS[call.function]
        if not isinstance(network.get_submodule(call.layer), kind):
            raise _refusal(call.layer, f"it calls {call.function} itself; give it an nn.{kind.__name__} for that")
        if rates.setdefault(call.layer, rate) != rate:
            raise _refusal(call.layer, f"it is used at strides {rates[call.layer]} and {rate}")
    return rates


def _rarefied_layer(layer: nn.Module, rate: int) -> nn.Module:
    """A layer with a stride of 1 for a map that is `rate` times denser than the one it was made for, changing it."""
    assert isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d)
    if isinstance(layer, nn.AvgPool2d):
        if any(_pair(layer.padding)) and not layer.count_include_pad:
            raise ValueError("its averages leave out the padding")
        return RarefiedAverage(layer, rate)
    layer.stride = (1, 1)
    layer.dilation = _times(layer.dilation, rate)
    if isinstance(layer, nn.MaxPool2d):
        # Torch pads a max pool by no more than half its kernel, however far its cells lie apart.
        down, across = _times(layer.padding, rate)
        layer.padding = 0
        return nn.Sequential(nn.ConstantPad2d((across, across, down, down), -math.inf), layer)
    if not isinstance(layer.padding, str):
        layer.padding = _times(layer.padding, rate)
    return layer


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def _times(value: int | tuple[int, ...], rate: int) -> tuple[int, int]:
    down, across = _pair(value)
    return down * rate, across * rate
