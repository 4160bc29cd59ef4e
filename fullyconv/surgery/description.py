"""A network's graph as plain data, from which the network is built again without its code: no pickle, no Python file.

Layers are torch's own, with the arguments that they were made with, and functions are torch's, by name.
"""

import inspect
import keyword
import operator
import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.parametrize import is_parametrized
from torchvision.models.convnext import LayerNorm2d
from torchvision.ops import StochasticDepth

from fullyconv.surgery.graphs import NotConvertible
from fullyconv.surgery.head import ChannelNorm

_SPACES: dict[str, Any] = {"torch": torch, "torch.nn.functional": F, "operator": operator}
_OPERATORS = frozenset(
    [
        "add",
        "sub",
        "mul",
        "truediv",
        "floordiv",
        "mod",
        "pow",
        "neg",
        "getitem",
        "iadd",
        "isub",
        "imul",
        "matmul",
        "eq",
        "lt",
        "le",
        "gt",
        "ge",
    ]
)
# Layers that are not torch.nn's own: of this package, and of torchvision's networks.
_KINDS: dict[str, type[nn.Module]] = {
    "ChannelNorm": ChannelNorm,
    "LayerNorm2d": LayerNorm2d,
    "StochasticDepth": StochasticDepth,
}
_ATTRIBUTES = ("shape", "dtype", "device", "ndim")

# What only computes: names in torch, torch.nn.functional and the methods of tensors; so do `relu_` and the like.
_COMPUTING = """
abs absolute acos acosh add addbmm addcdiv addcmul addmm addmv asin asinh atan atan2 atanh baddbmm ceil clamp clamp_max
clamp_min clip copysign cos cosh deg2rad div divide erf erfc erfinv exp exp2 expm1 fill float_power floor floor_divide
fmax fmin fmod frac hypot lerp log log10 log1p log2 logaddexp logaddexp2 logit maximum minimum mul multiply nan_to_num
neg negative pow positive rad2deg reciprocal remainder round rsqrt sgn sign sin sinc sinh sqrt square sub subtract tan
true_divide trunc where xlogy zero

bitwise_and bitwise_not bitwise_or bitwise_xor eq equal ge greater greater_equal gt isclose isfinite isinf isnan le less
less_equal logical_and logical_not logical_or logical_xor lt masked_fill masked_scatter masked_select ne not_equal

all amax amin aminmax any argmax argmin argsort count_nonzero cummax cummin cumprod cumsum diff kthvalue logcumsumexp
logsumexp max mean median min mode nanmean nansum norm prod quantile sort std sum topk var

bmm cross diag diag_embed diagonal dist dot inner kron matmul mm mv outer trace tril triu

broadcast_to cat chunk clone concat contiguous detach dim dsplit expand expand_as flatten flip fliplr flipud gather
hsplit index_add index_fill index_put index_select moveaxis movedim narrow ndimension nelement numel permute ravel
repeat repeat_interleave reshape reshape_as roll rot90 scatter scatter_add select size split split_with_sizes squeeze
stack stride swapaxes swapdims t take take_along_dim tensor_split tile transpose unbind unflatten unsqueeze view view_as
vsplit

bernoulli bfloat16 bool byte double element_size float half int is_contiguous is_floating_point long new_empty new_full
new_ones new_zeros short to type_as

adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool1d adaptive_max_pool2d affine_grid alpha_dropout avg_pool1d
avg_pool2d batch_norm bilinear celu channel_shuffle conv1d conv2d conv_transpose1d conv_transpose2d cosine_similarity
dropout dropout1d dropout2d elu embedding feature_alpha_dropout fold gelu glu grid_sample group_norm hardshrink
hardsigmoid hardswish hardtanh instance_norm interpolate layer_norm leaky_relu linear local_response_norm log_softmax
logsigmoid lp_pool1d lp_pool2d max_pool1d max_pool2d max_unpool2d mish normalize one_hot pad pairwise_distance
pixel_shuffle pixel_unshuffle prelu relu relu6 rms_norm rrelu scaled_dot_product_attention selu sigmoid silu softmax
softmin softplus softshrink softsign tanh tanhshrink threshold unfold upsample
"""
_HARMLESS = frozenset(_COMPUTING.split())


def _harmless(space: str, name: str) -> bool:
    """Whether a function only computes: a file from elsewhere may name it."""
    if space == "operator":
        return name in _OPERATORS
    return name.removesuffix("_") in _HARMLESS and hasattr(_SPACES.get(space), name)


def describe(network: fx.GraphModule) -> dict[str, Any]:
    """A network as what JSON can hold; its weights are left to its state.

    Returns:
        `{"layers": {name: {"kind", "arguments"}}, "parameters": {name: shape}, "buffers": {name: shape}, "nodes":
        [{"name", "op", "target", "args", "kwargs"}]}`.

    Raises:
        NotConvertible: With the name of a layer or function that is not torch's own.
    """
    layers, loose = {}, {}
    for node in network.graph.nodes:
        if node.op == "call_module":
            layers[str(node.target)] = _described_layer(str(node.target), network.get_submodule(str(node.target)))
        elif node.op == "get_attr":
            loose[str(node.target)] = _described_tensor(network, str(node.target))
    return {"layers": layers, "tensors": loose, "nodes": [_described_node(node) for node in network.graph.nodes]}


def build(description: Mapping[str, Any]) -> fx.GraphModule:
    """The network that was described, with fresh weights.

    Raises:
        ValueError: If it names a layer or function that is not torch's own, or is damaged.
    """
    root = nn.Module()
    layers, tensors = description["layers"], description["tensors"]
    for name, layer in layers.items():
        arguments = {key: _given(value) for key, value in layer["arguments"].items()}
        _put(root, name, _layer_kind(layer["kind"])(**arguments))
    for name, tensor in tensors.items():
        value = torch.zeros(tensor["shape"], dtype=_given(tensor["dtype"]))
        _put(root, name, nn.Parameter(value) if tensor["trained"] else value)
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}
    for each in description["nodes"]:
        target = _target(each, layers, tensors)
        args, kwargs = _linked(each["args"], nodes), _linked(each["kwargs"], nodes)
        if target is getattr:
            args = [args[0], each["target"].partition(":")[2]]
        if not all(map(_is_word, (each["name"], *kwargs))):
            raise ValueError(f"node {each['name']!r} or one of its arguments has no name that Python knows")
        nodes[each["name"]] = graph.create_node(each["op"], target, tuple(args), kwargs, each["name"])
    return fx.GraphModule(root, graph)


def _described_layer(name: str, layer: nn.Module) -> dict[str, Any]:
    kind = type(layer)
    if _KINDS.get(kind.__name__, getattr(nn, kind.__name__, None)) is not kind or is_parametrized(layer):
        raise NotConvertible(
            f"layer {name} is a {kind.__name__} of {kind.__module__}, so the network could not be built again without "
            "your code; write it with layers of torch.nn"
        )
    wanted = [key for key in inspect.signature(kind.__init__).parameters if key not in ("self", "device", "dtype")]
    arguments = {key: getattr(layer, key) for key in wanted if hasattr(layer, key)}
    arguments = {key: value is not None if key == "bias" else _plain(value) for key, value in arguments.items()}
    return {"kind": kind.__name__, "arguments": arguments}


def _described_tensor(network: nn.Module, name: str) -> dict[str, Any]:
    parent, _, leaf = name.rpartition(".")
    tensor = getattr(network.get_submodule(parent), leaf)
    return {"shape": list(tensor.shape), "dtype": _plain(tensor.dtype), "trained": isinstance(tensor, nn.Parameter)}


def _described_node(node: fx.Node) -> dict[str, Any]:
    target = _name_of(node) if node.op == "call_function" else str(node.target)
    return {
        "name": node.name,
        "op": node.op,
        "target": target,
        "args": _plain(list(node.args)),
        "kwargs": _plain(dict(node.kwargs)),
    }


def _name_of(node: fx.Node) -> str:
    name = getattr(node.target, "__name__", "")
    for space, module in _SPACES.items():
        if getattr(module, name, None) is node.target and _harmless(space, name):
            return f"{space}:{name}"
    if node.target is getattr and node.args[1] in _ATTRIBUTES:
        return f"attribute:{node.args[1]}"
    raise NotConvertible(
        f"{node.name} calls {name or node.target}, which may do more than compute, so the network could not be built "
        "again without your code"
    )


def _plain(value: Any) -> Any:
    """A value as JSON holds it; what JSON has no form for stands in an object with its kind."""
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, slice):
        return {"slice": [_plain(value.start), _plain(value.stop), _plain(value.step)]}
    if isinstance(value, tuple):
        return {"tuple": [_plain(each) for each in value]}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {"dict": {key: _plain(each) for key, each in value.items()}}
    if value is Ellipsis:
        return {"ellipsis": True}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    raise NotConvertible(f"its graph holds a {type(value).__name__}, which cannot be written down")


def _linked(value: Any, nodes: Mapping[str, fx.Node]) -> Any:
    """A value of a graph's node, read back."""
    if isinstance(value, list):
        return [_linked(each, nodes) for each in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "node":
        return nodes[inner]
    if kind == "slice":
        return slice(*(_linked(each, nodes) for each in inner))
    if kind == "tuple":
        return tuple(_linked(each, nodes) for each in inner)
    if kind == "dict":
        return {key: _linked(each, nodes) for key, each in inner.items()}
    if kind == "ellipsis":
        return ...
    dtype = getattr(torch, inner)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{inner} is no kind of number")
    return dtype


def _given(value: Any) -> Any:
    return _linked(value, {})


def _layer_kind(name: str) -> type[nn.Module]:
    kind = _KINDS.get(name, getattr(nn, name, None))
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ValueError(f"{name} is no layer of torch.nn")
    return kind


def _target(node: Mapping[str, Any], layers: Mapping[str, Any], tensors: Mapping[str, Any]) -> Any:
    """What a node runs or reads: torch.fx writes its name into Python source as it stands.

    Raises:
        ValueError: If it is none of the network's layers and tensors, and nothing that only computes.
    """
    op, target = node["op"], node["target"]
    if op == "call_function":
        return _function(target)
    known = {
        "placeholder": _is_word(target),
        "call_module": target in layers,
        "get_attr": target in tensors,
        "call_method": target.removesuffix("_") in _HARMLESS and hasattr(Tensor, target),
        "output": True,
    }
    if not known.get(op, False):
        raise ValueError(f"node {node['name']!r} is a {op} of {target!r}, which is unknown")
    return target


def _is_word(name: str) -> bool:
    return name.isidentifier() and not keyword.iskeyword(name)


def _function(name: str) -> Any:
    space, _, function = name.partition(":")
    if space == "attribute" and function in _ATTRIBUTES:
        return getattr
    if not _harmless(space, function):
        raise ValueError(f"{name} is no function that computes on tensors")
    return getattr(_SPACES[space], function)


def _put(root: nn.Module, name: str, value: nn.Module | Tensor) -> None:
    if not all(re.fullmatch(r"[\w-]+", part) and not keyword.iskeyword(part) for part in name.split(".")):
        raise ValueError(f"{name!r} is no name of a layer or tensor")
    parent, _, leaf = name.rpartition(".")
    holder = root
    for part in filter(None, parent.split(".")):
        if part not in holder._modules:
            holder.add_module(part, nn.Module())
        holder = holder.get_submodule(part)
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        holder.register_buffer(leaf, value)
    else:
        setattr(holder, leaf, value)
