"""A classifier made to slide: its head is found in its graph and rewritten, so that it takes images of any size.

Source: Long, Shelhamer and Darrell 2015, section 3.1.
"""

import copy
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from math import prod
from typing import Any

import torch
from timm.layers.norm import RmsNorm2d, SimpleNorm2d
from timm.models._features_fx import get_notrace_functions, get_notrace_modules
from timm.models.vgg import ConvMlp as HiddenLayers
from torch import Tensor, fx, nn

from fullyconv.surgery.layers import linear_to_conv
from fullyconv.surgery.tracing import blueprint, place_of, watched

Size = tuple[int, int]


class NotConvertible(ValueError):  # noqa: N818 - it says what the network is
    """A network that cannot be made to slide; its message names the layer and says why."""


class DenseClassifier(nn.Module):
    """A classifier that slides: a map of class scores for an image `(N, C, H, W)`.

    At the classifier's own size the map has one cell, which holds its logits.

    Args:
        network: The rewritten graph, with the classifier's layers under their names.
        size: The classifier's own height and width.
        channels: Bands of its images.
        score: The name of the last layer with weights, a convolution now.
        pools: Names of the pools of the head.
        covering: Names of convolutions whose kernel covers the whole map at the classifier's own size.
    """

    def __init__(
        self,
        network: fx.GraphModule,
        size: Size,
        channels: int,
        *,
        score: str,
        pools: Sequence[str],
        covering: Sequence[str],
    ) -> None:
        super().__init__()
        self.network = network
        self.size = size
        self.channels = channels
        self.score = score
        self.pools = tuple(pools)
        self.covering = tuple(covering)

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.network(image)
        return scores

    def logits(self, image: Tensor) -> Tensor:
        """The classifier's own logits `(N, K)` for images of its own size."""
        return self(image).flatten(1)  # type: ignore[no-any-return]

    @property
    def score_layer(self) -> nn.Conv2d:
        """The convolution that gives the class scores."""
        layer = self.network.get_submodule(self.score)
        assert isinstance(layer, nn.Conv2d)
        return layer

    def trunk(self, strides: Sequence[int], layers: Mapping[int, str] | None = None) -> fx.GraphModule:
        """The network below its score layer as feature maps, finest first; its weights are shared with this one.

        The pools of the head are left out, as in the paper's GoogLeNet, and kernels that cover the classifier's whole
        map keep the size of theirs: each cell speaks for itself, up to the border.

        A tap is what enters the module that halves the resolution: the last output of a stage. The coarsest map also
        stands for a wanted stride that is less than twice its own, as stride 7 does for 8.

        Args:
            strides: Wanted strides in pixels; those beyond the coarsest map's are left out.
            layers: Which layer's output is the tap of a stride, where another one is wanted.

        Raises:
            NotConvertible: If there is no map of a wanted stride.
        """
        shared = {id(tensor): tensor for tensor in chain(self.network.parameters(), self.network.buffers())}
        network = copy.deepcopy(self.network, shared)
        for name in self.covering:
            conv = network.get_submodule(name)
            assert isinstance(conv, nn.Conv2d)
            conv.padding = (conv.kernel_size[0] // 2, conv.kernel_size[1] // 2)
        for node in network.graph.nodes:
            if node.op == "call_module" and node.target in self.pools:
                node.replace_all_uses_with(node.all_input_nodes[0])
        taps = _taps(network, self.size, self.channels, self.score, layers or {})
        coarsest = max(taps)
        meant = {min(stride, coarsest) for stride in strides if stride < 2 * coarsest}
        missing = sorted(meant - taps.keys())
        if missing or not meant:
            possible = min((stride for stride in (4, 8, 16) if stride >= coarsest), default=32)
            raise NotConvertible(
                f"it has maps at strides {', '.join(map(str, sorted(taps)))}, "
                f"not at {', '.join(map(str, missing or strides))}; fcn{possible}s is possible"
            )
        wanted = [taps[stride] for stride in sorted(meant)]
        return _cut(network, wanted)


def convolutionalize(classifier: nn.Module, size: Size = (224, 224), *, channels: int = 3) -> DenseClassifier:
    """The classifier as a network that slides over images of any size; its weights are shared.

    Its graph is traced, and the head is rewritten: a pool over the whole map becomes a pool with the kernel that it has
    at the classifier's own size and a stride of 1, a flattened map and the linear layer behind it a convolution whose
    kernel covers that map, and norms, activations and dropout work cell by cell. Everything below stays as it is.

    Args:
        classifier: Gives logits `(N, K)` for images of its own size.
        size: That height and width.
        channels: Bands of the image.

    Raises:
        NotConvertible: If its graph cannot be traced, if it has no linear head, or if the head mixes positions in
            another way; with the name of the layer.
    """
    network = _traced(classifier)
    values, covering = _survey(network, size, channels)
    _leave_out_idle_pools(network, values)
    output = _logits(network.graph, values)
    if len(values[output].shape) != 2:
        raise NotConvertible(f"it gives {tuple(values[output].shape)} for one image, not (1, classes): no classifier")
    head = _Head(network, values)
    head.rewrite(output)
    head.join_scores()
    covering = [name for name in (*covering, *head.covering) if name]
    score = _score_layer(network, values[output].shape[1])
    network.graph.eliminate_dead_code()
    network.delete_all_unused_submodules()
    network.recompile()
    dense = DenseClassifier(network, size, channels, score=score, pools=head.pools, covering=covering)
    dense.train(classifier.training)
    return dense


# The graph -----------------------------------------------------------------------------------------------------------

_WHOLE_OF_TIMM = ("timm.layers.drop", "timm.layers.norm")
_CONTAINERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)


class _Tracer(fx.Tracer):
    """Goes into every module but torch's own, what inherits from them, and what timm keeps whole."""

    def __init__(self) -> None:
        super().__init__(autowrap_functions=tuple(get_notrace_functions()))  # type: ignore[no-untyped-call]
        self.whole = tuple(get_notrace_modules())  # type: ignore[no-untyped-call]
        self.failed = ""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        kinds = [kind for kind in type(m).__mro__ if kind not in _CONTAINERS]
        if isinstance(m, HiddenLayers):
            return False
        return isinstance(m, self.whole) or any(
            kind.__module__.startswith(("torch.nn.", "torchvision.ops.stochastic_depth", *_WHOLE_OF_TIMM))
            for kind in kinds
        )

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        try:
            return super().call_module(m, partial(_hidden, m) if isinstance(m, HiddenLayers) else forward, args, kwargs)
        except Exception:
            self.failed = self.failed or self.path_of_module(m)
            raise


def _hidden(layers: HiddenLayers, image: fx.Proxy) -> fx.Proxy:
    """What the hidden layers of timm's VGG give, which pool maps that are smaller than their kernel to its size."""
    hidden = layers.drop(layers.act1(layers.fc1(image)))
    return layers.act2(layers.fc2(hidden))  # type: ignore[no-any-return]


def _traced(classifier: nn.Module) -> fx.GraphModule:
    """The graph of a classifier as it runs in evaluation; dropout and batch norms still follow the mode."""
    training, tracer = classifier.training, _Tracer()
    classifier.eval()
    try:
        graph = tracer.trace(classifier)
        network = fx.GraphModule(classifier, graph, type(classifier).__name__)
    except Exception as error:  # whatever a forward pass may raise when it is handed a stand-in for a tensor
        where = f"layer {tracer.failed}" if tracer.failed else "its forward pass"
        raise NotConvertible(f"{where} cannot be traced: {_first_line(error)}") from error
    finally:
        classifier.train(training)
    for node in graph.nodes:
        if node.op == "get_attr":  # what the graph reads must come back with its weights
            parent, _, leaf = str(node.target).rpartition(".")
            network.get_submodule(parent)._non_persistent_buffers_set.discard(leaf)
    return network


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


@dataclass(frozen=True)
class _Value:
    """What a node gives at the classifier's own size.

    Args:
        shape: Of the tensor.
        cells: Height and width of the map that it follows cell by cell; none if it does not.
        stride: Pixels from one cell to the next.
    """

    shape: torch.Size
    cells: Size | None = None
    stride: int = 0


class _Survey(fx.Interpreter):
    """Runs a graph and keeps what each node gave."""

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.values: dict[fx.Node, _Value] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            place = place_of(result)
            self.values[n] = _Value(result.shape, place.size, int(place.grid.stride)) if place else _Value(result.shape)
        return result


@torch.no_grad()
def _survey(network: fx.GraphModule, size: Size, channels: int) -> tuple[dict[fx.Node, _Value], list[str]]:
    """What each node gives for one image, and the convolutions whose kernel covers the whole of a larger map."""
    shadow = blueprint(network).eval()
    covering: list[str] = []

    def note(name: str, conv: nn.Conv2d, image: Tensor) -> None:
        if tuple(image.shape[2:]) == conv.kernel_size != (1, 1) and conv.padding == (0, 0):
            covering.append(name)

    for name, module in shadow.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda conv, args, name=name: note(name, conv, args[0]))
    assert isinstance(shadow, fx.GraphModule)
    survey = _Survey(shadow)
    try:
        watched(shadow, survey.run, channels, size)
    except (ValueError, RuntimeError, AssertionError, TypeError, AttributeError) as error:
        raise NotConvertible(f"it does not run on {channels} x {size[0]} x {size[1]}: {_first_line(error)}") from error
    twins = dict(zip(shadow.graph.nodes, network.graph.nodes, strict=True))
    return {twins[node]: value for node, value in survey.values.items()}, covering


def _leave_out_idle_pools(network: fx.GraphModule, values: Mapping[fx.Node, _Value]) -> None:
    """Takes out adaptive pools that change nothing at the classifier's own size, and would fix the map at any other."""
    for node in network.graph.nodes:
        if _function(network, node) in _ADAPTIVE and values[node].shape == values[node.all_input_nodes[0]].shape:
            node.replace_all_uses_with(node.all_input_nodes[0])
            network.graph.erase_node(node)


def _logits(graph: fx.Graph, values: Mapping[fx.Node, _Value]) -> fx.Node:
    """The node that gives the logits, which the network may hand out alone, in a tuple, or in a dict."""
    (output,) = (node for node in graph.nodes if node.op == "output")
    tensors: list[fx.Node] = [node for node in output.all_input_nodes if node in values]
    if len(tensors) != 1:
        raise NotConvertible(f"it gives {len(tensors)} tensors, not logits alone")
    output.args = (tensors[0],)
    return tensors[0]


def _function(network: fx.GraphModule, node: fx.Node) -> str:
    """What a node computes: a layer's class, or the name of a function or method."""
    if node.op == "call_module":
        return type(network.get_submodule(str(node.target))).__name__
    return str(getattr(node.target, "__name__", node.target))


def _place(node: fx.Node) -> str:
    """How to call a node in a message: by the layer that it is or runs in."""
    return f"layer {'.'.join(_scope(node))}" if _scope(node) else f"its {node.name}"


def _channels_last(value: _Value) -> bool:
    return value.cells is not None and tuple(value.shape[2:]) != value.cells


def _turned(node: fx.Node) -> fx.Node:
    """A new node behind one that gives a map with its channels last: the same map, channels first."""
    with node.graph.inserting_after(node):
        name = f"{node.name}_channels_first"
        return node.graph.create_node("call_method", "permute", (node, 0, 3, 1, 2), name=name)


# The head ------------------------------------------------------------------------------------------------------------

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
_CELLWISE_MODULES = ("torch.nn.modules.activation", "torch.nn.modules.dropout", "timm.layers.activations")


class ChannelNorm(nn.LayerNorm):
    """A layer norm over the channels of each cell of a map `(N, C, H, W)`."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _Head:
    """Rewrites the nodes between the last map and the logits so that they work on maps of any size.

    Every value of the head is, at the classifier's own size, a vector of `C * h * w` numbers. In the rewritten graph it
    is a map of C channels; its window `(h, w)` says which block of cells the vector stood for.
    """

    def __init__(self, network: fx.GraphModule, values: Mapping[fx.Node, _Value]) -> None:
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
        function = _function(self.network, node)
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
                    f"{_place(node)} mixes positions by a tensor of its own, so it works at one size only"
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
        pooled = value.cells == (1, 1) and _function(self.network, node) in (*_AVERAGES, *_MAXIMA)
        return not (pooled and self.values[node.all_input_nodes[0]].cells != (1, 1))

    def _enter(self, node: fx.Node) -> None:
        """Takes a map as the head's beginning, channels first."""
        value = self.values[node]
        assert value.cells
        self.windows[node] = value.cells
        if not _channels_last(value):
            return
        turned = _turned(node)
        node.replace_all_uses_with(turned, delete_user_cb=lambda user: user is not turned)
        self.values[turned], self.windows[turned] = value, value.cells

    def _rewrite(self, node: fx.Node) -> None:
        sources = [source for source in node.all_input_nodes if source in self.windows]
        function = _function(self.network, node)
        if not sources:
            raise self._refusal(node, f"{function} is none of pool, flatten, norm, activation, dropout and linear")
        source, value = sources[0], self.values[node]
        window, before = self.windows[source], self.values[source]
        cells, share = prod(window), before.shape.numel() // value.shape.numel()
        if len(sources) == 1 and function in _RESHAPES and share == 1:
            channels = before.shape.numel() // cells
            if cells > 1 and len(value.shape) == 2 and before.shape[1] not in (channels, before.shape.numel()):
                raise self._refusal(node, f"{function} puts positions before channels")
            self._replace(node, source, value, window)
        elif len(sources) == 1 and function in (*_AVERAGES, *_MAXIMA) and share == cells:
            self._replace(node, self._sliding_pool(node, source, window, function in _AVERAGES), value, (1, 1))
        elif node.op == "call_module":
            self._rewrite_layer(node, source, window)
        elif function in _OVER_CLASSES and window == (1, 1):
            self._along_channels(node)
            self.windows[node] = (1, 1)
        elif function in _CELLWISE and len({self.windows[each] for each in sources}) == 1:
            self.windows[node] = window
        else:
            raise self._refusal(node, f"{function} is none of pool, flatten, norm, activation, dropout and linear")

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
            raise self._refusal(node, f"{type(layer).__name__} mixes positions, or reads no such map")

    def _cellwise(self, layer: nn.Module, window: Size, before: _Value) -> bool:
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
        arguments = dict(node.kwargs)
        if "dim" in arguments or len(node.args) < 2:
            node.kwargs = {**arguments, "dim": 1}
        else:
            node.args = (node.args[0], 1, *node.args[2:])

    def _put(self, name: str, layer: nn.Module) -> None:
        self.network.delete_submodule(name)
        self.network.add_submodule(name, layer)

    def _replace(self, node: fx.Node, dense: fx.Node, value: _Value, window: Size) -> None:
        node.replace_all_uses_with(dense)
        self.values[dense], self.windows[dense] = value, window

    @staticmethod
    def _refusal(node: fx.Node, reason: str) -> NotConvertible:
        return NotConvertible(f"it cannot slide at {_place(node)}: {reason}")


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


def _score_layer(network: fx.GraphModule, classes: int) -> str:
    """The name of the last layer with weights, a convolution that gives a channel for each class."""
    (output,) = (node for node in network.graph.nodes if node.op == "output")
    node = output.all_input_nodes[0]
    while True:
        layer = network.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, nn.Conv2d):
            break
        sources = [source for source in node.all_input_nodes if source.op != "get_attr"]
        if len(sources) != 1 or (layer is not None and any(True for _ in layer.parameters())):
            raise NotConvertible(f"{_place(node)} ends it, not a linear layer that gives {classes} classes")
        node = sources[0]
    if layer.out_channels != classes:
        raise NotConvertible(f"{_place(node)} gives {layer.out_channels} channels for {classes} classes")
    return str(node.target)


# Taps ----------------------------------------------------------------------------------------------------------------


def _taps(
    network: fx.GraphModule, size: Size, channels: int, score: str, layers: Mapping[int, str]
) -> dict[int, fx.Node]:
    """The tap of each stride: what enters the module that halves the resolution; the coarsest feeds the score layer."""
    values, _ = _survey(network, size, channels)
    nodes = {str(node.target): node for node in network.graph.nodes if node.op == "call_module"}
    coarsest = nodes[score].all_input_nodes[0]
    taps = {values[entering].stride: entering for entering in _entering(values, _ancestors(coarsest))}
    chosen = {stride: _output_of(name, network.graph) for stride, name in layers.items()}
    taps |= {values[coarsest].stride: coarsest, **chosen}
    return {stride: _turned(tap) if _channels_last(values[tap]) else tap for stride, tap in taps.items()}


def _output_of(module: str, graph: fx.Graph) -> fx.Node:
    path = tuple(module.split("."))
    inside: list[fx.Node] = [node for node in graph.nodes if _scope(node)[: len(path)] == path]
    return inside[-1]


def _entering(values: Mapping[fx.Node, _Value], below: set[fx.Node]) -> list[fx.Node]:
    """The maps that enter modules which give coarser ones; of each stride, the best choice comes last.

    That is the outermost module that halves it, and of several the latest; one that quarters it will do at need.
    """
    members: dict[tuple[str, ...], list[fx.Node]] = {}
    for node, value in values.items():
        if value.cells and node in below and node.op != "placeholder":
            scope = _scope(node)
            for depth in range(1, len(scope) + 1):
                members.setdefault(scope[:depth], []).append(node)
    found = []
    for order, (scope, inner) in enumerate(members.items()):
        outside = [
            source
            for node in inner
            for source in node.all_input_nodes
            if source not in inner and source in values and values[source].cells and source.op != "placeholder"
        ]
        factor = values[inner[-1]].stride / values[outside[-1]].stride if outside else 1
        if factor >= 2 and len(values[outside[-1]].shape) == 4:
            found.append(((factor == 2, -len(scope), order), outside[-1]))
    return [entering for _, entering in sorted(found, key=operator.itemgetter(0))]


def _scope(node: fx.Node) -> tuple[str, ...]:
    """The path of the module that a node runs in, which is the layer's own for a layer."""
    if node.op == "call_module":
        return tuple(str(node.target).split("."))
    paths = list(node.meta.get("nn_module_stack", {}).values())
    return tuple(paths[-1][0].split(".")) if paths else ()


def _ancestors(node: fx.Node) -> set[fx.Node]:
    found, waiting = {node}, [node]
    while waiting:
        for source in waiting.pop().all_input_nodes:
            if source not in found:
                found.add(source)
                waiting.append(source)
    return found


def _cut(network: fx.GraphModule, taps: Sequence[fx.Node]) -> fx.GraphModule:
    """The network up to some nodes, whose values it gives as a list."""
    (output,) = (node for node in network.graph.nodes if node.op == "output")
    output.args = (list(taps),)
    network.graph.eliminate_dead_code()
    network.delete_all_unused_submodules()
    network.recompile()
    return network
