"""The head of a classifier, rewritten so that it slides over maps of any size.

Source: Long, Shelhamer and Darrell 2015, section 3.1.
"""

import copy
from collections.abc import Mapping
from math import prod

import torch
from timm.layers.norm import RmsNorm2d, SimpleNorm2d
from torch import Tensor, fx, nn

from fullyconv.surgery.graphs import (
    NotConvertible,
    Size,
    Value,
    channels_last,
    function_of,
    named,
    turned,
)
from fullyconv.surgery.layers import linear_to_conv


def leave_out_idle_pools(network: fx.GraphModule, values: Mapping[fx.Node, Value]) -> None:
    """Takes out adaptive pools that change nothing at the classifier's own size, and would fix the map at any other."""
    for node in network.graph.nodes:
        if function_of(network, node) in _ADAPTIVE and values[node].shape == values[node.all_input_nodes[0]].shape:
            node.replace_all_uses_with(node.all_input_nodes[0])
            network.graph.erase_node(node)


_RESHAPES = ("flatten", "Flatten", "view", "reshape", "squeeze", "contiguous", "permute", "transpose", "unsqueeze")
_ADAPTIVE = ("AdaptiveAvgPool2d", "adaptive_avg_pool2d", "AdaptiveMaxPool2d", "adaptive_max_pool2d")
_AVERAGES = ("AdaptiveAvgPool2d", "adaptive_avg_pool2d", "AvgPool2d", "avg_pool2d", "mean")
_MAXIMA = ("AdaptiveMaxPool2d", "adaptive_max_pool2d", "MaxPool2d", "max_pool2d", "amax")
_CELLWISE = (
    *("relu", "relu_", "relu6", "gelu", "silu", "hardswish", "hardtanh", "tanh", "sigmoid", "elu", "leaky_relu"),
    *(
        "add",
        "iadd",
        "mul",
        "imul",
        "sub",
        "truediv",
        "clamp",
        "dropout",
        "dropout_",
        "float",
        "Identity",
        "to",
        "clone",
    ),
)
_OVER_CLASSES = ("softmax", "log_softmax", "Softmax", "LogSoftmax", "cat", "normalize")
_PARTS = "pool, flatten, norm, activation, dropout and linear"
_CELLWISE_MODULES = ("torch.nn.modules.activation", "torch.nn.modules.dropout", "timm.layers.activations")


class ChannelNorm(nn.LayerNorm):
    """A layer norm over the channels of each cell of a map `(N, C, H, W)`."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Head:
    """Rewrites the nodes between the last map and the logits so that they work on maps of any size.

    Every value of the head is, at the classifier's own size, a vector of `C * h * w` numbers. In the rewritten graph it
    is a map of C channels; its window `(h, w)` says which block of cells the vector stood for.
    """

    def __init__(self, network: fx.GraphModule, values: Mapping[fx.Node, Value]) -> None:
        self.network = network
        self.graph = network.graph
        self.values = dict(values)
        self.windows: dict[fx.Node, Size] = {}
        self.pools: list[str] = []
        self.covering: list[str] = []

    def rewrite(self, output: fx.Node) -> None:
        head = self._nodes(output)
        for node in [node for node in self.graph.nodes if node in head]:
            self._rewrite(node)

    def join_scores(self) -> None:
        """Makes one convolution of linear layers whose scores are added, as those of two heads for distillation are."""
        scores = self.graph.output_node().all_input_nodes[0]
        inside, sources = self._linear_part(scores)
        branches = any(len(node.all_input_nodes) > 1 for node in inside)
        if not branches or len(sources) != 1 or sources[0] not in self.windows:
            return
        part = fx.Graph()
        copies = {sources[0]: part.placeholder("cells")}
        for node in self.graph.nodes:
            if node in inside:
                copies[node] = part.node_copy(node, copies.__getitem__)
        part.output(copies[scores])
        channels = self.values[sources[0]].shape.numel() // prod(self.windows[sources[0]])
        self.network.add_submodule("joined_scores", _as_one(fx.GraphModule(self.network, part), channels))
        with self.graph.inserting_before(scores):
            joined = self.graph.call_module("joined_scores", (sources[0],))
        self._replace(scores, joined, self.values[scores], (1, 1))

    def _linear_part(self, scores: fx.Node) -> tuple[set[fx.Node], list[fx.Node]]:
        """The nodes from which scores follow linearly, cell by cell, and what these read."""
        inside: set[fx.Node] = set()
        sources: list[fx.Node] = []
        waiting = [scores]
        while waiting:
            node = waiting.pop()
            if self._is_linear(node):
                inside.add(node)
                waiting += node.all_input_nodes
            elif node not in sources:
                sources.append(node)
        return inside, sources

    def _is_linear(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            layer = self.network.get_submodule(str(node.target))
            pointwise = isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)
            return pointwise or isinstance(layer, nn.BatchNorm2d | nn.Dropout | nn.Identity)
        function = function_of(self.network, node)
        return function in ("add", "iadd", "sub") or (function in ("mul", "truediv") and len(node.all_input_nodes) == 1)

    def _nodes(self, output: fx.Node) -> set[fx.Node]:
        """What lies between the last maps and the output, which is left alone where it is a map already."""
        found: set[fx.Node] = set()
        waiting = [output]
        while waiting:
            node = waiting.pop()
            if node in found or node in self.windows:
                continue
            if self._is_map(node):
                self._enter(node)
            elif node.op == "placeholder":
                raise NotConvertible("its head reads the image itself, not a map of it")
            elif node.op == "get_attr" and self.values[node].shape.numel() > 1:
                raise NotConvertible(
                    f"{named(node)} mixes positions by a tensor of its own, so it works at one size only"
                )
            else:
                found.add(node)
                waiting += [source for source in node.all_input_nodes if source in self.values]
        return {node for node in found if node.op != "get_attr"}

    def _is_map(self, node: fx.Node) -> bool:
        """Whether a node gives a map; one cell that a pool made of many is the head's affair."""
        value = self.values[node]
        if value.cells is None or len(value.shape) != 4:
            return False
        pooled = value.cells == (1, 1) and function_of(self.network, node) in (*_AVERAGES, *_MAXIMA)
        return not (pooled and self.values[node.all_input_nodes[0]].cells != (1, 1))

    def _enter(self, node: fx.Node) -> None:
        """Takes a map as the head's beginning, channels first."""
        value = self.values[node]
        assert value.cells
        self.windows[node] = value.cells
        if not channels_last(value):
            return
        first = turned(node)
        node.replace_all_uses_with(first, delete_user_cb=lambda user: user is not first)
        self.values[first], self.windows[first] = value, value.cells

    def _rewrite(self, node: fx.Node) -> None:
        sources = [source for source in node.all_input_nodes if source in self.windows]
        windows = {self.windows[source] for source in sources}
        function = function_of(self.network, node)
        if len(sources) == 1 and self._reshapes(node, sources[0]):
            self._leave_out(node, sources[0])
        elif len(sources) == 1 and self._pools(node, sources[0]):
            self._let_pool_slide(node, sources[0])
        elif sources and node.op == "call_module":
            self._rewrite_layer(node, sources[0], self.windows[sources[0]])
        elif windows == {(1, 1)} and function in _OVER_CLASSES:
            self._along_channels(node)
        elif len(windows) == 1 and function in _CELLWISE:
            self.windows[node] = self.windows[sources[0]]
        else:
            raise self._refusal(node, f"{function} is none of {_PARTS}, of which a head is made")

    def _share(self, node: fx.Node, source: fx.Node) -> int:
        """How many numbers of a node's source there are for each of its own."""
        return self.values[source].shape.numel() // self.values[node].shape.numel()

    def _reshapes(self, node: fx.Node, source: fx.Node) -> bool:
        return function_of(self.network, node) in _RESHAPES and self._share(node, source) == 1

    def _leave_out(self, node: fx.Node, source: fx.Node) -> None:
        """A map stays a map; what is flattened must have its channels before its positions, as kernels have."""
        before, after, cells = self.values[source].shape, self.values[node].shape, prod(self.windows[source])
        channels = before.numel() // cells
        if cells > 1 and len(after) == 2 and before[1] not in (channels, before.numel()):
            function = function_of(self.network, node)
            raise self._refusal(node, f"{function} puts positions before channels; flatten maps (N, C, H, W)")
        self._replace(node, source, self.values[node], self.windows[source])

    def _pools(self, node: fx.Node, source: fx.Node) -> bool:
        whole = self._share(node, source) == prod(self.windows[source])
        return whole and function_of(self.network, node) in (*_AVERAGES, *_MAXIMA)

    def _let_pool_slide(self, node: fx.Node, source: fx.Node) -> None:
        average = function_of(self.network, node) in _AVERAGES
        pool = self._sliding_pool(node, source, self.windows[source], average)
        self._replace(node, pool, self.values[node], (1, 1))

    def _rewrite_layer(self, node: fx.Node, source: fx.Node, window: Size) -> None:
        name = str(node.target)
        layer = self.network.get_submodule(name)
        self.windows[node] = window
        if isinstance(layer, nn.Linear):
            self._put(name, linear_to_conv(layer, window))
            if window != (1, 1):
                self.covering.append(name)
            self.windows[node] = (1, 1)
        elif isinstance(layer, nn.BatchNorm1d) and window == (1, 1):
            flat = nn.BatchNorm2d(
                layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats
            )
            flat.__dict__.update({key: layer.__dict__[key] for key in ("_parameters", "_buffers", "training")})
            self._put(name, flat)
        elif isinstance(layer, nn.LayerNorm) and self.values[source].shape[-1] == self.values[source].shape.numel():
            over_channels = ChannelNorm(layer.normalized_shape, layer.eps, layer.elementwise_affine)
            over_channels.__dict__.update({key: layer.__dict__[key] for key in ("_parameters", "training")})
            self._put(name, over_channels)
        elif isinstance(layer, nn.Softmax | nn.LogSoftmax) and window == (1, 1):
            self._put(name, type(layer)(dim=1))
        elif not self._cellwise(layer, window, self.values[source]):
            raise self._refusal(
                node, f"{type(layer).__name__} mixes positions, or reads no such map; a head is made of {_PARTS}"
            )

    def _cellwise(self, layer: nn.Module, window: Size, before: Value) -> bool:
        """Whether a layer may stay: it works number by number, or on the channels of one cell of a map."""
        if type(layer).__module__.startswith(_CELLWISE_MODULES) or isinstance(layer, nn.Identity):
            return not isinstance(layer, nn.Softmax2d | nn.MultiheadAttention)
        one_cell = window == (1, 1) and len(before.shape) == 4
        pointwise = isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)
        return one_cell and (pointwise or isinstance(layer, nn.LayerNorm | nn.BatchNorm2d | RmsNorm2d | SimpleNorm2d))

    def _sliding_pool(self, node: fx.Node, source: fx.Node, window: Size, average: bool) -> fx.Node:
        if window == (1, 1):
            return source
        name = f"sliding_pool{len(self.pools) or ''}"
        self.pools.append(name)
        self.network.add_submodule(name, nn.AvgPool2d(window, 1) if average else nn.MaxPool2d(window, 1))
        with self.graph.inserting_before(node):
            return self.graph.call_module(name, (source,))

    def _along_channels(self, node: fx.Node) -> None:
        """What stands over all classes, such as a softmax, stands over the channels of each cell."""
        arguments = dict(node.kwargs)
        if "dim" in arguments or len(node.args) < 2:
            node.kwargs = {**arguments, "dim": 1}
        else:
            node.args = (node.args[0], 1, *node.args[2:])
        self.windows[node] = (1, 1)

    def _put(self, name: str, layer: nn.Module) -> None:
        self.network.delete_submodule(name)
        self.network.add_submodule(name, layer)

    def _replace(self, node: fx.Node, dense: fx.Node, value: Value, window: Size) -> None:
        node.replace_all_uses_with(dense)
        self.values[dense], self.windows[dense] = value, window

    @staticmethod
    def _refusal(node: fx.Node, reason: str) -> NotConvertible:
        return NotConvertible(f"it cannot slide at {named(node)}: {reason}")


@torch.no_grad()
def _as_one(part: fx.GraphModule, channels: int) -> nn.Conv2d:
    """The convolution that a network is that works linearly on each cell: it is asked about every channel alone."""
    weight = next(part.parameters())
    asked = torch.cat((torch.zeros(1, channels), torch.eye(channels)))[:, :, None, None]
    answers = copy.deepcopy(part).eval().to(torch.float64)(asked.to(weight.device, torch.float64)).flatten(1)
    conv = nn.Conv2d(channels, answers.shape[1], 1, device=weight.device, dtype=weight.dtype)
    conv.weight.copy_((answers[1:] - answers[0]).T[:, :, None, None])
    conv.bias.copy_(answers[0])  # type: ignore[union-attr]
    return conv


def score_layer_of(network: fx.GraphModule, classes: int) -> str:
    """The name of the last layer with weights, a convolution that gives a channel for each class."""
    (output,) = (node for node in network.graph.nodes if node.op == "output")
    node = output.all_input_nodes[0]
    while True:
        layer = network.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, nn.Conv2d):
            break
        sources = [source for source in node.all_input_nodes if source.op != "get_attr"]
        if len(sources) != 1 or (layer is not None and any(True for _ in layer.parameters())):
            raise NotConvertible(f"{named(node)} ends it, not a linear layer that gives {classes} classes")
        node = sources[0]
    if layer.out_channels != classes:
        raise NotConvertible(f"{named(node)} gives {layer.out_channels} channels for {classes} classes")
    return str(node.target)
