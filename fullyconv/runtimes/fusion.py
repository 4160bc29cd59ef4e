"""Layers fused into single convolutions, in the graph of a trunk.

Batch norms go into the convolutions before them, additions and activations into those whose result they work on.
"""

import copy
import operator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from timm.layers.activations import GELU
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata
from torch.nn.utils.fusion import fuse_conv_bn_weights

from fullyconv.models.classic import Rectified
from fullyconv.runtimes.convolutions import LANES, Activation, PackedConv, UnfoldedConv
from fullyconv.surgery import blueprint
from fullyconv.surgery.graphs import function_of

Shapes = dict[fx.Node, torch.Size]

USUAL = (1, 512, 512)  # images, height and width for which weights are laid out; others run too

# What oneDNN calls the activations that it can compute while a convolution's result is still in the registers, by the
# layer's class, the function or the method's name: exactly these, as what inherits from a layer may compute otherwise.
ACTIVATIONS: dict[Any, str] = {
    **dict.fromkeys((nn.ReLU, F.relu, torch.relu, torch.relu_, "relu", "relu_"), "relu"),
    **dict.fromkeys((nn.ReLU6, nn.Hardtanh), "hardtanh"),
    **dict.fromkeys((nn.LeakyReLU,), "leaky_relu"),
    **dict.fromkeys((nn.Hardswish, F.hardswish), "hardswish"),
    **dict.fromkeys((nn.SiLU, F.silu), "swish"),
    **dict.fromkeys((nn.Sigmoid, torch.sigmoid, F.sigmoid, "sigmoid", "sigmoid_"), "sigmoid"),
    **dict.fromkeys((nn.Hardsigmoid, F.hardsigmoid), "hardsigmoid"),
    **dict.fromkeys((nn.Tanh, torch.tanh, F.tanh, "tanh", "tanh_"), "tanh"),
    **dict.fromkeys((nn.GELU, GELU, F.gelu), "gelu"),
}
SUMS = (operator.add, torch.add)
IDLE = (nn.Identity, nn.Dropout, nn.Dropout2d)
PARAMETERS = {"hardtanh": ("min_val", "max_val"), "leaky_relu": ("negative_slope",)}


def packed_graph(trunk: fx.GraphModule, channels: int, dtype: torch.dtype) -> fx.GraphModule:
    """A trunk's graph in which every run of a convolution, norm, sum and activation is one `PackedConv`.

    What cannot be fused stays as it is, in the same precision; tensors that do not change are shared with the trunk.

    Args:
        trunk: In evaluation, whatever its mode.
        channels: Bands of the image.
        dtype: What the graph computes in.
    """
    shared = {id(tensor): tensor.detach() for tensor in chain(trunk.parameters(), trunk.buffers())}
    network = copy.deepcopy(trunk, shared).eval()
    _take_apart(network)
    _leave_out_idle(network)
    for node in network.graph.nodes:
        if isinstance(_layer(network, node), nn.LocalResponseNorm):
            network.set_submodule(str(node.target), Widened(network.get_submodule(str(node.target))))
    shapes = _shapes(network, channels)
    for node in list(network.graph.nodes):
        if is_plain(_layer(network, node)):
            _fuse(network, _run_from(network, node, shapes), shapes, dtype)
    network.delete_all_unused_submodules()
    network.recompile()
    return network.to(dtype)


class Widened(nn.Module):
    """A layer that computes in float32 within a network of bf16, where torch has it in no other precision."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, image: Tensor) -> Tensor:
        return self.layer(image.float()).to(image.dtype)  # type: ignore[no-any-return]


def _layer(network: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def _take_apart(network: fx.GraphModule) -> None:
    """Gives the activations within layers nodes of their own, changing the graph."""
    norms = []
    for node in list(network.graph.nodes):
        layer = _layer(network, node)
        with network.graph.inserting_after(node):
            if type(layer) is Rectified:
                active = network.graph.call_function(torch.relu, (node,))
            elif type(layer) is BatchNormAct2d:
                norms.append(layer)
                network.add_submodule(f"{node.name}_activation", layer.act)
                active = network.graph.call_module(f"{node.name}_activation", (node,))
            else:
                continue
        node.replace_all_uses_with(active, delete_user_cb=partial(operator.is_not, active))
    for norm in norms:
        norm.act = nn.Identity()


def _leave_out_idle(network: fx.GraphModule) -> None:
    """Takes layers from a graph, changing it, that give in evaluation what they are given."""
    for node in list(network.graph.nodes):
        if type(_layer(network, node)) in IDLE:
            node.replace_all_uses_with(node.all_input_nodes[0])
            network.graph.erase_node(node)


def _shapes(network: fx.GraphModule, channels: int) -> Shapes:
    """The shape of each map for an image of the usual size."""
    shadow = blueprint(network)
    assert isinstance(shadow, fx.GraphModule)
    ShapeProp(shadow).propagate(torch.empty(USUAL[0], channels, *USUAL[1:], device="meta"))
    twins = zip(network.graph.nodes, shadow.graph.nodes, strict=True)
    metas = {node: twin.meta.get("tensor_meta") for node, twin in twins}
    return {node: meta.shape for node, meta in metas.items() if isinstance(meta, TensorMetadata)}


def is_plain(layer: nn.Module | None) -> TypeGuard[nn.Conv2d]:
    """Whether a layer is a convolution, and computes what torch's does over zeros."""
    if not isinstance(layer, nn.Conv2d) or type(layer) not in (nn.Conv2d, Rectified):
        return False
    return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


@dataclass
class _Run:
    """A convolution and what follows it that can be computed with it.

    Args:
        conv: The layer.
        nodes: Its own and those that follow; the value of the last is what the run gives.
        norm: Of the convolution's result.
        addend: What is added to that.
        activation: Of the sum.
    """

    conv: nn.Conv2d
    nodes: list[fx.Node]
    norm: nn.BatchNorm2d | None = None
    addend: fx.Node | None = None
    activation: Activation | None = None

    def extend(self, network: fx.GraphModule, node: fx.Node, shapes: Shapes) -> bool:
        """Puts a node at the end, if it can be computed with the rest, and says whether it could."""
        layer = _layer(network, node)
        if self.activation or self._is_overtaken(network, node):
            return False
        if _is_norm(layer) and len(self.nodes) == 1:
            self.norm = layer
        elif self.addend is None and _is_sum(node, shapes):
            (self.addend,) = (source for source in node.all_input_nodes if source is not self.nodes[-1])
        elif (activation := _activation(network, node)) and (activation.kind == "relu" or self.addend is None):
            self.activation = activation
        else:
            return False
        self.nodes.append(node)
        return True

    def _is_overtaken(self, network: fx.GraphModule, last: fx.Node) -> bool:
        """Whether a map is changed in place before a node, so that the convolution cannot be computed there."""
        node = self.nodes[0].next
        while node is not last:
            if node not in self.nodes and _overwrites(network, node):
                return True
            node = node.next
        return False


def _is_norm(layer: nn.Module | None) -> TypeGuard[nn.BatchNorm2d]:
    if not isinstance(layer, nn.BatchNorm2d) or type(layer) not in (nn.BatchNorm2d, BatchNormAct2d):
        return False
    return layer.running_mean is not None


def _run_from(network: fx.GraphModule, node: fx.Node, shapes: Shapes) -> _Run:
    """The longest run that starts with a convolution."""
    conv = _layer(network, node)
    assert isinstance(conv, nn.Conv2d)
    run = _Run(conv, [node])
    while len(run.nodes[-1].users) == 1 and run.extend(network, next(iter(run.nodes[-1].users)), shapes):
        pass
    return run


def _is_sum(node: fx.Node, shapes: Shapes) -> bool:
    """Whether a node adds two maps of one shape, and nothing else."""
    if node.target not in SUMS or node.kwargs:
        return False
    maps = [source for source in node.all_input_nodes if source.op != "get_attr"]  # whose shapes know no batch
    return len(maps) == 2 and len({shapes.get(source) for source in maps}) == 1


def _overwrites(network: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node may change a map in place."""
    in_place = getattr(_layer(network, node), "inplace", False) or node.kwargs.get("inplace", False)
    return bool(in_place) or function_of(network, node).endswith("_")


def _activation(network: fx.GraphModule, node: fx.Node) -> Activation | None:
    layer = _layer(network, node)
    kind = ACTIVATIONS.get(node.target if layer is None else type(layer))
    if kind is None:
        return None
    scalars = tuple(getattr(layer, name) for name in PARAMETERS.get(kind, ()))
    algorithm = getattr(layer, "approximate", node.kwargs.get("approximate", "none")) if kind == "gelu" else ""
    return Activation(kind, scalars, str(algorithm))


def _fuse(network: fx.GraphModule, run: _Run, shapes: Shapes, dtype: torch.dtype) -> None:
    """Puts one layer in the place of a run, changing the graph."""
    first, last = run.nodes[0], run.nodes[-1]
    (source,) = first.all_input_nodes
    name = f"{first.name}_packed"  # by its node, as a layer may run twice
    network.add_submodule(name, _layer_of(run, shapes[source], shapes[last], dtype))
    with network.graph.inserting_before(last):
        fused = network.graph.call_module(name, (source,) if run.addend is None else (source, run.addend))
    last.replace_all_uses_with(fused)
    shapes[fused] = shapes[last]
    for node in reversed(run.nodes):
        network.graph.erase_node(node)


def _layer_of(run: _Run, before: torch.Size, after: torch.Size, dtype: torch.dtype) -> nn.Module:
    """One layer that computes a run, for maps of a usual shape before and after it."""
    weight, bias = folded(run.conv, run.norm)
    if dtype == torch.float32 and run.addend is None and (run.activation is None or run.activation.kind == "relu"):
        down, across = map(int, run.conv.padding)
        rectified = run.activation is not None
        if _gains_by_winograd(run.conv, after):
            from fullyconv.runtimes.winograd import WinogradConv  # imports numba: only those who need it wait for it

            return WinogradConv(weight, bias, (down, across), rectified=rectified)
        if _gains_by_unfolding(run.conv):
            return UnfoldedConv(weight, bias, (down, across), rectified=rectified)
    return PackedConv(run.conv, weight, bias, run.activation or Activation("none"), before, dtype)


def _gains_by_winograd(conv: nn.Conv2d, shape: torch.Size) -> bool:
    """Whether fewer multiplications make a convolution faster that gives a map of this shape."""
    channels = (conv.in_channels, conv.out_channels)
    return (
        conv.kernel_size == (3, 3)
        and _is_dense(conv)
        and all(number % LANES == 0 for number in channels)
        # Measured: 128 to 256 channels gain a tenth, 128 to 128 nothing; 32 x 32 cells are too few.
        and min(channels) >= 128
        and max(channels) >= 256
        and shape[2] * shape[3] >= 1600
    )


def _gains_by_unfolding(conv: nn.Conv2d) -> bool:
    """Whether a convolution is what a classifier's first hidden layer became, fc6: a kernel as large as a map."""
    return _is_dense(conv) and min(conv.kernel_size) >= 6 and conv.in_channels >= 256


def _is_dense(conv: nn.Conv2d) -> bool:
    return (conv.stride, conv.dilation, conv.groups) == ((1, 1), (1, 1), 1)


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d | None = None) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution and its norm."""
    weight, bias = conv.weight, conv.bias
    if norm is not None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            weight, bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
    return weight.detach(), torch.zeros(len(weight)) if bias is None else bias.detach()
