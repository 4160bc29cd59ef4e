"""The grid of any layer of any network, by watching it run."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from fullyconv.geometry import Grid


@dataclass(frozen=True)
class Call:
    """A function that a network called on a map.

    Args:
        layer: The dotted name of the module that called it; empty for the network itself.
        function: Its name in torch, such as `conv2d`.
        grid: Of the map that it read.
    """

    layer: str
    function: str
    grid: Grid

    def __str__(self) -> str:
        return f"layer {self.layer}: {self.function}" if self.layer else self.function


@dataclass(frozen=True)
class Trace:
    """Where the outputs of a network lie on its input, and how they came there.

    Args:
        grids: One per output.
        channels: One per output.
        windows: Convolutions, poolings and paddings, in the order in which they ran.
        mixing: What looks at the whole image at once.
        skewed: Windows whose cells begin elsewhere down than across, so that no one grid holds for both axes.
    """

    grids: tuple[Grid, ...]
    channels: tuple[int, ...]
    windows: tuple[Call, ...] = ()
    mixing: tuple[Call, ...] = ()
    skewed: tuple[Call, ...] = ()

    @property
    def global_operations(self) -> tuple[str, ...]:
        """The names of the operations that mix all positions, each once."""
        return tuple(dict.fromkeys(call.function for call in self.mixing))


def blueprint(network: nn.Module) -> nn.Module:
    """The network without its numbers: the same layers over tensors that have a shape only, which run in no time."""
    memo = {
        id(tensor): torch.empty_like(tensor, device="meta") for tensor in (*network.parameters(), *network.buffers())
    }
    return copy.deepcopy(network, memo)


@torch.no_grad()
def trace(
    module: Callable[[Tensor], Tensor | Sequence[Tensor]], channels: int = 3, size: tuple[int, int] = (128, 160)
) -> Trace:
    """The grid of each output of a network, composed exactly through every convolution, pool and join on the way.

    The network runs once on a blank image while every torch function that it calls is watched, so any way of writing
    a forward pass will do. Operations that mix positions all over (squeeze-and-excitation, attention, group norms, sums
    along an axis) are named; the grid is then that of the local path.

    Args:
        module: Gives a map `(1, C, h, w)`, or several, for an image `(1, channels, height, width)`. A network runs on
            the device and in the precision of its weights; its `blueprint` is quickest.
        channels: Bands of the image.
        size: Height and width of the blank image; unlike, so that the two axes can be told apart.

    Raises:
        ValueError: If an output has no grid, or a layer's strides differ, or maps of unlike strides are added, or the
            network fails on the image; with the name of the layer.
    """
    outputs, watch = watched(module, module, channels, size)
    if isinstance(outputs, Tensor):
        outputs = [outputs]
    for number, output in enumerate(outputs):
        if place_of(output) is None:
            lost = "".join(f"; {call} looks at the whole map" for call in watch.mixing[-1:])
            raise ValueError(f"output {number} of the network does not follow from its input cell by cell{lost}")
    places = [place_of(output) for output in outputs]
    return Trace(
        tuple(place.grid for place in places if place),
        tuple(output.shape[1] for output in outputs),
        tuple(watch.windows),
        tuple(watch.mixing),
        tuple(watch.skewed),
    )


def watched(
    network: object, function: Callable[[Tensor], Any], channels: int, size: tuple[int, int]
) -> tuple[Any, "GridMode"]:
    """What a function gives for a blank image while every torch function that it calls hands the grid on.

    Args:
        network: Whose layers run; tells the device and the precision.
        function: Of the image.
        channels: Bands of the image.
        size: Height and width of the image.
    """
    image = torch.zeros(1, channels, *size, **_numbers_of(network))
    _mark(image, Grid(), size)
    with _running_layers(network) as layers, GridMode(layers) as watch:
        run = _Steps(network, layers).run if function is network and isinstance(network, fx.GraphModule) else function
        return run(image), watch


def _numbers_of(module: object) -> dict[str, Any]:
    """The device and precision of a network's weights; nothing for what is no network or has none."""
    weight = next(module.parameters(), None) if isinstance(module, nn.Module) else None
    return {} if weight is None else {"device": weight.device, "dtype": weight.dtype}


@contextmanager
def _running_layers(module: object) -> Iterator[list[str]]:
    """The names of the layers that are running, the innermost last; a fault in one is told with its name."""
    names = [""]

    def leave(*_: object) -> None:
        names.pop()

    children = module.named_modules() if isinstance(module, nn.Module) else ()
    hooks = [
        hook
        for name, child in children
        for hook in (
            child.register_forward_pre_hook(lambda *_, name=name: names.append(name)),
            child.register_forward_hook(leave),
        )
    ]
    try:
        yield names
    except (ValueError, RuntimeError, AssertionError) as error:
        if names[-1]:
            raise ValueError(f"layer {names[-1]}: {str(error) or type(error).__name__}") from error
        raise
    finally:
        for hook in hooks:
            hook.remove()


class _Steps(fx.Interpreter):
    """Runs a graph node by node: its functions, too, run in the layer that called them."""

    def __init__(self, network: fx.GraphModule, layers: list[str]) -> None:
        super().__init__(network)
        self.layers = layers
        self.extra_traceback = False  # the layer's name says where

    def run_node(self, n: fx.Node) -> Any:
        self.layers.append(".".join(scope_of(n)))
        result = super().run_node(n)
        self.layers.pop()
        return result


def scope_of(node: fx.Node) -> tuple[str, ...]:
    """The path of the module that a node runs in, which is the layer's own for a layer."""
    if node.op == "call_module":
        return tuple(str(node.target).split("."))
    paths = list(node.meta.get("nn_module_stack", {}).values())
    return tuple(paths[-1][0].split(".")) if paths else ()


@dataclass(frozen=True)
class Place:
    """The grid of a map and its height and width, which are its last two axes or, channels last, axes 1 and 2."""

    grid: Grid
    size: tuple[int, int]

    def holds(self, tensor: Tensor) -> bool:
        return tensor.ndim >= 4 and self.size in (tuple(tensor.shape[-2:]), tuple(tensor.shape[1:3]))

    def axes(self, tensor: Tensor) -> set[int]:
        """The axes of the map that are its height and width."""
        first = tensor.ndim - 2 if tuple(tensor.shape[-2:]) == self.size else 1
        return {first, first + 1}


def place_of(tensor: Tensor) -> Place | None:
    """Where a tensor that a watched function gave lies on the image; None if it does not follow cell by cell."""
    return getattr(tensor, "_fullyconv_place", None)


def place_on(grid: Grid, tap: Tensor, image: Tensor) -> None:
    """Says where a map lies on an image that is watched: for maps that follow from it in ways that cannot be traced."""
    if place_of(image):
        _mark(tap, grid, _spatial(tap))


def _mark(tensor: Tensor, grid: Grid, size: tuple[int, int]) -> None:
    tensor._fullyconv_place = Place(grid, size)  # type: ignore[attr-defined]


class GridMode(TorchFunctionMode):
    """Hands the grid of a function's inputs on to its output."""

    def __init__(self, layers: Sequence[str]) -> None:
        super().__init__()
        self.layers = layers
        self.windows: list[Call] = []
        self.mixing: list[Call] = []
        self.skewed: list[Call] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").strip("_")
        # Norms of tensors without numbers are slow in torch, and give nothing but the shape.
        idle = name in ("batch_norm", "layer_norm") and args[0].is_meta
        output = torch.empty_like(args[0]) if idle else func(*args, **kwargs)
        places = [place for tensor in _tensors((*args, *kwargs.values())) if (place := place_of(tensor))]
        if places and max(places[0].size) > 1 and _mixes(name, args, kwargs):
            self.mixing.append(Call(self.layers[-1], name, places[0].grid))
        for result in _tensors([output]) if places else ():
            if name in _WINDOWED and result.ndim == 4:
                self._slide(Call(self.layers[-1], name, places[0].grid), args, kwargs, result)
            else:
                self._carry_over(name, places, result)
        return output

    def _slide(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> None:
        down, across = (_WINDOWED[call.function](axis, call.grid, args, kwargs) for axis in (0, 1))
        if down.stride != across.stride and _spatial(result) != (1, 1):  # a cell alone has no next one
            steps = (grid.stride / call.grid.stride for grid in (down, across))
            raise ValueError("its strides differ, {} down and {} across".format(*steps))
        self.windows.append(call)
        self.skewed += [call] if down.start != across.start else []
        _mark(result, max(down, across, key=attrgetter("field")), _spatial(result))

    def _carry_over(self, name: str, places: list[Place], result: Tensor) -> None:
        same = [place for place in places if place.holds(result)]
        if _splits_into_blocks(places[0], result):
            block = result.shape[3]
            _mark(result, places[0].grid.convolve(block, block), (result.shape[2], result.shape[4]))
            return
        if not same:
            if (result.is_floating_point() or result.is_complex()) and max(places[0].size) > 1:
                self.mixing.append(Call(self.layers[-1], name, places[0].grid))
            return
        grid = same[0].grid
        for place in same[1:]:
            grid = grid.join(place.grid)
        _mark(result, grid, same[0].size)


# Functions that read along axes that they are told: where these stand among their arguments, and which are left out.
_ALONG: dict[str, tuple[int, Any]] = {
    **dict.fromkeys(("cummax", "cummin", "cumprod", "cumsum", "logcumsumexp"), (1, None)),
    **dict.fromkeys(("flip", "gather", "index_select"), (1, None)),
    **dict.fromkeys(("log_softmax", "softmax", "softmin"), (1, 1)),
    "sort": (1, -1),
    "normalize": (2, 1),
    "roll": (2, (-2, -1)),
    "rot90": (2, (0, 1)),
    "take_along_dim": (2, None),
}


def _mixes(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a function reads along the height or width of a map, though it gives one of the same size."""
    return any(
        axis % tensor.ndim in place.axes(tensor)
        for tensor, axes in _read(name, args, kwargs)
        for axis in axes
        if (place := place_of(tensor))
    )


def _read(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[Tensor, Iterable[int]]]:
    """The tensors of which a function reads many values for each that it gives, and along which axes."""
    tensors = _tensors((*args, *kwargs.values()))
    if name in _ALONG:
        position, left_out = _ALONG[name]
        by_name = [kwargs[key] for key in ("dim", "dims") if key in kwargs]
        by_place = args[position:] if name == "flip" else args[position : position + 1]
        yield tensors[0], _whole_numbers(by_name or by_place or [left_out])
    elif name in ("matmul", "scaled_dot_product_attention"):
        yield from zip(tensors[:2], ((-1,), (-2,)), strict=True)
    elif name in ("layer_norm", "rms_norm"):
        yield tensors[0], range(-len(_given(args, kwargs, "input normalized_shape")["normalized_shape"]), 0)
    elif _measures(name, args, kwargs) or _wraps(name, args, kwargs) or name.startswith("fft_"):
        yield tensors[0], (-2, -1)


def _measures(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a function is a norm by what it finds in the map itself, not by statistics that it keeps."""
    if name == "batch_norm":
        return _given(args, kwargs, "input running_mean").get("running_mean") is None
    if name == "instance_norm":
        return bool(kwargs.get("use_input_stats", True))
    return name == "group_norm"


def _wraps(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a function puts what lies at the far side of a map around it, as circular padding does."""
    given = _given(args, kwargs, "input pad mode") if name == "pad" else {}
    return given.get("mode") == "circular" and any(given["pad"])


def _splits_into_blocks(place: Place, result: Tensor) -> bool:
    """Whether a map was viewed as `(N, C, h, block, w, block)`, on its way to be `(N, block * block * C, h, w)`."""
    if result.ndim != 6 or result.shape[3] != result.shape[5]:
        return False
    rows, height, columns, width = result.shape[2:]
    return (rows * height, columns * width) == place.size


def _whole_numbers(values: Iterable[Any]) -> list[int]:
    found: list[int] = []
    for value in values:
        if isinstance(value, list | tuple):
            found.extend(_whole_numbers(value))
        elif isinstance(value, int):
            found.append(value)
    return found


def _spatial(result: Tensor) -> tuple[int, int]:
    return result.shape[2], result.shape[3]


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found.extend(_tensors(value))
    return found


def _axis(value: Any, axis: int) -> int:
    return int(value[axis if len(value) > 1 else 0]) if isinstance(value, list | tuple) else int(value)


def _given(args: tuple[Any, ...], kwargs: dict[str, Any], names: str) -> dict[str, Any]:
    return {**dict(zip(names.split(), args, strict=False)), **kwargs}


# The grid along an axis, 0 down and 1 across, of what a function gives for a map.


def _after_conv(axis: int, grid: Grid, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Grid:
    given = _given(args, kwargs, "input weight bias stride padding dilation")
    kernel_size = int(given["weight"].shape[2 + axis])
    dilation = _axis(given.get("dilation", 1), axis)
    padding = given.get("padding", 0)
    if isinstance(padding, str):
        padding = dilation * (kernel_size - 1) // 2 if padding == "same" else 0
    return grid.convolve(kernel_size, _axis(given.get("stride", 1), axis), _axis(padding, axis), dilation)


def _after_transposed(axis: int, grid: Grid, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Grid:
    given = _given(args, kwargs, "input weight bias stride padding")
    kernel_size = int(given["weight"].shape[2 + axis])
    return grid.deconvolve(kernel_size, _axis(given.get("stride", 1), axis), _axis(given.get("padding", 0), axis))


def _after_pool(axis: int, grid: Grid, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Grid:
    given = _given(args, kwargs, "input kernel_size stride padding dilation")
    kernel_size = _axis(given["kernel_size"], axis)
    stride = _axis(given.get("stride") or given["kernel_size"], axis)
    dilation = given.get("dilation", 1)
    if isinstance(dilation, bool):  # average pools have `ceil_mode` in its place
        dilation = 1
    return grid.convolve(kernel_size, stride, _axis(given.get("padding", 0), axis), _axis(dilation, axis))


def _after_pad(axis: int, grid: Grid, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Grid:
    pad = (*_given(args, kwargs, "input pad")["pad"], 0, 0)  # left, right, and perhaps top, bottom
    return grid.crop(-int(pad[2 - 2 * axis]))


_WINDOWED: dict[str, Callable[[int, Grid, tuple[Any, ...], dict[str, Any]], Grid]] = {
    "conv2d": _after_conv,
    "conv_transpose2d": _after_transposed,
    "max_pool2d": _after_pool,
    "max_pool2d_with_indices": _after_pool,
    "avg_pool2d": _after_pool,
    "pad": _after_pad,
}
