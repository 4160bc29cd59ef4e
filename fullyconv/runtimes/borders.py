"""Border reuse: in Caffe's geometry, what a network makes of the padding around an image is computed once.

The first layer pads an image by 100 pixels, so that most cells of the early maps lie where they see no pixel of the
image. What they hold depends on the weights and on their distance from the map's borders alone. It is cut from the maps
of a blank image that is as small as can be, and stretched, since along a border nothing changes. For every image,
hardly more is computed than the cells that see it: for FCN-8s over VGG16 and 500 x 500 pixels, 265 of 362 GFLOP.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from fullyconv.geometry import Grid
from fullyconv.runtimes.convolutions import FusedConv
from fullyconv.runtimes.fusion import Widened

REMEMBERED = 16  # blank images; for FCN-8s over VGG16, 3 MB each

CHEAP = 1152  # weights to a value, up to which a few more are computed sooner than a whole map is copied into its frame

CELL_BY_CELL = (nn.ReLU, nn.Dropout, nn.LocalResponseNorm, Widened)
JOINING = (torch.relu, torch.cat)

Size = tuple[int, int]
Extents = Mapping[fx.Node, tuple["_Extent", "_Extent"]]  # of each map, down and across


def reuse_borders(trunk: fx.GraphModule) -> nn.Module:
    """A module that gives what a trunk gives, but computes only what the image reaches; its layers are the trunk's own.

    Args:
        trunk: In evaluation. If no window of its first layer lies in the padding, every cell sees the image, and the
            trunk is given back.
    """
    axes = (_Axis(trunk, 0), _Axis(trunk, 1))
    return BorderReuse(trunk, axes) if all(axis.pads_widely for axis in axes) else trunk


@dataclass(frozen=True)
class _Window:
    """A convolution or pool along one axis.

    Args:
        span: Cells from the first to the last that it reads.
        stride: Cells from one window to the next.
        padding: Cells before the map where the first window begins.
        rounds_up: Whether a last window may reach over the end.
    """

    span: int
    stride: int
    padding: int
    rounds_up: bool

    def cells(self, size: int) -> int:
        """How many windows a map has."""
        steps = size + 2 * self.padding - self.span
        if not self.rounds_up:
            return steps // self.stride + 1
        # A window that would begin in the padding at the end is left out.
        return min(-(-steps // self.stride), (size + self.padding - 1) // self.stride) + 1

    def reads(self, windows: range) -> range:
        """The cells that some windows read, those beyond the map included."""
        return range(windows.start * self.stride - self.padding, windows[-1] * self.stride - self.padding + self.span)


@dataclass(frozen=True)
class _Extent:
    """A map along one axis.

    Args:
        cells: How many it has.
        reached: Those that see the image.
        kept: Those and their neighbours, as far as later layers read them.
        computed: Those kept cells that are not taken from a blank image.
    """

    cells: int
    reached: range
    kept: range
    computed: range

    @property
    def whole(self) -> bool:
        """Whether every cell sees the image."""
        return len(self.reached) == self.cells

    @property
    def complete(self) -> bool:
        """Whether every cell is computed."""
        return len(self.computed) == self.cells


class _Axis:
    """How the maps of a trunk lie along one axis, as far from the image as they follow it cell by cell.

    Args:
        trunk: Its graph.
        axis: 0 down, 1 across.
    """

    def __init__(self, trunk: fx.GraphModule, axis: int) -> None:
        self.windows: dict[fx.Node, _Window] = {}
        self.grids: dict[fx.Node, Grid] = {}
        self.framed = {node for node in trunk.graph.nodes if _is_worth_a_frame(_layer(trunk, node))}
        for node in trunk.graph.nodes:
            sources = [self.grids.get(source) for source in node.all_input_nodes]
            grids = [grid for grid in sources if grid is not None]
            if node.op == "placeholder":
                self.grids[node] = Grid()
            elif len(grids) < len(sources) or node.op == "output":
                continue
            elif len(sources) == 1 and (window := _window_of(_layer(trunk, node), axis)):
                self.windows[node] = window
                self.grids[node] = grids[0].convolve(window.span, window.stride, window.padding)
            elif isinstance(_layer(trunk, node), CELL_BY_CELL) or node.target in JOINING:
                self.grids[node] = reduce(Grid.join, grids)
        self.first = [window for node, window in self.windows.items() if node.all_input_nodes[0].op == "placeholder"]
        self.extents = lru_cache(maxsize=4 * REMEMBERED)(self._extents)

    @property
    def pads_widely(self) -> bool:
        """Whether one layer reads the image, and has windows that lie in its padding."""
        return len(self.first) == 1 and self.first[0].padding >= self.first[0].span

    def _extents(self, size: int) -> dict[fx.Node, _Extent]:
        """Of every map for an image of so many pixels."""
        cells: dict[fx.Node, int] = {}
        reached: dict[fx.Node, range] = {}
        kept: dict[fx.Node, range] = {}
        computed: dict[fx.Node, range] = {}
        for node, grid in self.grids.items():
            sources = [cells[source] for source in node.all_input_nodes]
            cells[node] = self.windows[node].cells(sources[0]) if node in self.windows else (sources or [size])[0]
            reached[node] = range(
                max(0, math.ceil(-grid.last / grid.stride)),
                min(cells[node], math.floor((size - 1 - grid.first) / grid.stride) + 1),
            )
        for node in reversed(self.grids):
            read = [self._read(user, cells, kept, computed) or range(cells[node]) for user in node.users]
            ends = [reached[node], *read]
            kept[node] = range(
                max(0, min(part.start for part in ends)), min(cells[node], max(part.stop for part in ends))
            )
            computed[node] = reached[node] if node in self.framed else kept[node]
        return {node: _Extent(cells[node], reached[node], kept[node], computed[node]) for node in self.grids}

    def _read(
        self,
        node: fx.Node,
        cells: Mapping[fx.Node, int],
        kept: Mapping[fx.Node, range],
        computed: Mapping[fx.Node, range],
    ) -> range | None:
        """The cells of its source that a node reads; none if it is not known, or computed as a whole."""
        if node not in self.windows:
            return kept.get(node)
        return None if len(computed[node]) == cells[node] else self.windows[node].reads(computed[node])

    def blank_size(self, size: int, maps: Sequence[fx.Node]) -> int:
        """The length of the smallest blank image some maps of which, stretched, are those of one of so many pixels."""
        step = int(max(grid.stride for grid in self.grids.values()))
        smaller = range((size - 1) % step + 1, size, step)
        return next((blank for blank in smaller if self._stretch(blank, maps)), size)

    def _stretch(self, size: int, maps: Sequence[fx.Node]) -> bool:
        """Whether the middle of each map sees nothing of what lies beyond the padding, so that it can be repeated."""
        margin = self.first[0].padding
        return all(
            _middle(self.extents(size)[node])
            in replace(self.grids[node], start=self.grids[node].start + margin).inside(size + 2 * margin)
            for node in maps
        )


def _middle(extent: _Extent) -> int:
    return (extent.reached.start + extent.reached.stop) // 2


def _positions(extent: _Extent, blank: _Extent) -> Tensor:
    """Which of the kept cells of a blank image's map stands for each of the kept cells of a larger one's."""
    cells, middle = torch.arange(extent.kept.start, extent.kept.stop), _middle(blank)
    stretched = (cells - (extent.cells - blank.cells)).clamp(min=middle)
    return torch.where(cells < middle, cells, stretched) - blank.kept.start


def _layer(trunk: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return trunk.get_submodule(str(node.target)) if node.op == "call_module" else None


def _is_worth_a_frame(layer: nn.Module | None) -> bool:
    """Whether what a layer gives is computed only where the image is seen, and copied into a frame."""
    if isinstance(layer, nn.Conv2d | FusedConv):
        return math.prod(layer.weight.shape[1:]) > CHEAP
    return isinstance(layer, nn.MaxPool2d)


def _window_of(layer: nn.Module | None, axis: int) -> _Window | None:
    if not isinstance(layer, nn.Conv2d | nn.MaxPool2d | FusedConv) or isinstance(layer.padding, str):
        return None
    kernel_size, stride, padding, dilation = (
        value if isinstance(value, int) else value[axis]
        for value in (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    )
    rounds_up = isinstance(layer, nn.MaxPool2d) and layer.ceil_mode
    return _Window(dilation * (kernel_size - 1) + 1, stride, padding, rounds_up)


class BorderReuse(nn.Module):
    """The maps of a trunk, with the borders of a blank image's.

    Weights that change later are not seen in the borders that are remembered.

    Args:
        trunk: In evaluation.
        axes: Of its maps.
    """

    def __init__(self, trunk: fx.GraphModule, axes: tuple[_Axis, _Axis]) -> None:
        super().__init__()
        self.trunk = trunk
        self.axes = axes
        self.plan = lru_cache(maxsize=4 * REMEMBERED)(self._plan)
        self.borders = lru_cache(maxsize=REMEMBERED)(self._borders)

    def forward(self, image: Tensor) -> Any:
        """What the trunk gives for images `(N, C, H, W)`."""
        extents, blank_size = self.plan(image.shape[2], image.shape[3])
        blank, borders = self.borders(blank_size, image.shape[1], image.dtype)
        return _Reached(self.trunk, self.axes, extents, blank, borders).run(image)

    def _plan(self, height: int, width: int) -> tuple[Extents, Size]:
        """The maps of an image of this size, and the size of the blank one whose borders they have."""
        extents = self._extents((height, width))
        partial = [node for node in extents if not _is_whole(extents[node])]
        down, across = self.axes
        return extents, (down.blank_size(height, partial), across.blank_size(width, partial))

    def _extents(self, size: Size) -> Extents:
        rows, columns = (axis.extents(length) for axis, length in zip(self.axes, size, strict=True))
        return {node: (rows[node], columns[node]) for node in rows}

    def _borders(self, size: Size, channels: int, dtype: torch.dtype) -> tuple[Extents, dict[fx.Node, Tensor]]:
        """The maps of a blank image, and what they hold where it is kept."""
        blank = _Blank(self.trunk, self._extents(size))
        blank.run(torch.zeros(1, channels, *size, dtype=dtype).to(memory_format=torch.channels_last))
        return blank.extents, blank.borders


class _Blank(fx.Interpreter):
    """Runs a trunk as far as there are cells that do not see the image, and keeps those that are read."""

    def __init__(self, trunk: fx.GraphModule, extents: Extents) -> None:
        super().__init__(trunk)
        self.extents = extents
        self.borders: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        if n.op != "placeholder" and (n not in self.extents or _is_whole(self.extents[n])):
            return None
        value: Tensor = super().run_node(n)
        rows, columns = self.extents[n]
        self.borders[n] = _cropped(value, (0, 0), rows.kept, columns.kept).clone()
        return value


class _Reached(fx.Interpreter):
    """Runs a trunk where the image is seen; a map is what is kept of it."""

    def __init__(
        self,
        trunk: fx.GraphModule,
        axes: Sequence[_Axis],
        extents: Extents,
        blank: Extents,
        borders: Mapping[fx.Node, Tensor],
    ) -> None:
        super().__init__(trunk)
        self.windows = {node: (axes[0].windows[node], axes[1].windows[node]) for node in axes[0].windows}
        self.extents = extents
        self.blank = blank
        self.borders = borders

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "placeholder" or n not in self.extents or all(extent.complete for extent in self.extents[n]):
            return super().run_node(n)
        if n in self.windows:
            layer = self.module.get_submodule(str(n.target))
            inner = _without_padding(layer)(self._read(n, -math.inf if _pools(layer) else 0))
            for source in self.user_to_last_uses.get(n, []):
                self.env[source] = None  # so that at most two large maps are there at a time
            return self._framed(n, inner)
        args = map_arg(n.args, lambda source: self._kept(source, n))
        return getattr(self, n.op)(n.target, args, n.kwargs)

    def _kept(self, source: fx.Node, node: fx.Node) -> Tensor:
        """Of a source, what is kept of a node that follows it cell by cell."""
        (rows, columns), (top, left) = self.extents[node], self.extents[source]
        return _cropped(self.env[source], (top.kept.start, left.kept.start), rows.kept, columns.kept)

    def _read(self, node: fx.Node, beyond: float) -> Tensor:
        """Of its source, what a layer reads for the cells that are computed.

        Args:
            node: Of the layer.
            beyond: What stands where the map has ended.
        """
        (source,) = node.all_input_nodes
        reads = [
            window.reads(extent.computed) for window, extent in zip(self.windows[node], self.extents[node], strict=True)
        ]
        inside = [
            range(max(0, read.start), min(extent.cells, read.stop))
            for read, extent in zip(reads, self.extents[source], strict=True)
        ]
        starts = [extent.kept.start for extent in self.extents[source]]
        part = _cropped(self.env[source], starts, *inside)
        (top, bottom), (left, right) = (
            (within.start - read.start, read.stop - within.stop) for read, within in zip(reads, inside, strict=True)
        )
        if not any((top, bottom, left, right)):
            return part
        return F.pad(part, (left, right, top, bottom), value=beyond)

    def _framed(self, node: fx.Node, inner: Tensor) -> Tensor:
        """What is kept of a map: the cells that were computed, and around them a blank image's."""
        rows, columns = self.extents[node]
        if (rows.computed, columns.computed) == (rows.kept, columns.kept):
            return inner
        blank, border = self.blank[node], self.borders[node]
        size = (len(inner), inner.shape[1], len(rows.kept), len(columns.kept))
        whole = torch.empty(size, dtype=inner.dtype, memory_format=_format(inner))
        down, across = _positions(rows, blank[0]), _positions(columns, blank[1])
        above, left = rows.computed.start - rows.kept.start, columns.computed.start - columns.kept.start
        below, right = above + len(rows.computed), left + len(columns.computed)
        whole[:, :, above:below, left:right] = inner
        for y, x in (
            (slice(0, above), slice(None)),
            (slice(below, None), slice(None)),
            (slice(above, below), slice(0, left)),
            (slice(above, below), slice(right, None)),
        ):
            whole[:, :, y, x] = border[:, :, down[y]][:, :, :, across[x]]
        return whole


def _is_whole(extents: tuple[_Extent, _Extent]) -> bool:
    return extents[0].whole and extents[1].whole


def _cropped(image: Tensor, start: Sequence[int], rows: range, columns: range) -> Tensor:
    """Some rows and columns of a map of which `start` is the first of each."""
    return image[:, :, rows.start - start[0] : rows.stop - start[0], columns.start - start[1] : columns.stop - start[1]]


def _format(image: Tensor) -> torch.memory_format:
    last = image.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _pools(layer: nn.Module) -> bool:
    return isinstance(layer, nn.MaxPool2d)


def _without_padding(layer: nn.Module) -> nn.Module:
    """The same layer, weights and all, for maps that bring their padding along."""
    valid = copy.copy(layer)
    vars(valid)["padding"] = (0, 0)
    return valid
