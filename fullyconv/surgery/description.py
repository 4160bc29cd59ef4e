"""A network's graph as plain data, from which the network is built again without its code: no pickle, no Python file.

Layers are torch's own, with the arguments that they were made with, and functions are torch's, by name.
"""

import inspect
import operator
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
_OF_TENSORS = frozenset(["cat", "concat", "stack"])  # torch's functions of tensors that no tensor has as a method
_ATTRIBUTES = ("shape", "dtype", "device", "ndim")


def _harmless(space: str, name: str) -> bool:
    """Whether a function only computes: a file from elsewhere may name it."""
    if name.startswith("_"):
        return False
    if space == "torch":
        return name in _OF_TENSORS or callable(getattr(Tensor, name, None)) or callable(getattr(F, name, None))
    return name in _OPERATORS if space == "operator" else space in _SPACES and callable(getattr(F, name, None))


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
    for name, layer in description["layers"].items():
        _put(
            root, name, _layer_kind(layer["kind"])(**{key: _given(value) for key, value in layer["arguments"].items()})
        )
    for name, tensor in description["tensors"].items():
        value = torch.zeros(tensor["shape"], dtype=_given(tensor["dtype"]))
        _put(root, name, nn.Parameter(value) if tensor["trained"] else value)
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}
    for each in description["nodes"]:
        target = _function(each["target"]) if each["op"] == "call_function" else each["target"]
        args, kwargs = _linked(each["args"], nodes), _linked(each["kwargs"], nodes)
        if target is getattr:
            args = [args[0], each["target"].partition(":")[2]]
        if each["op"] == "call_method" and (target.startswith("_") or not callable(getattr(Tensor, target, None))):
            raise ValueError(f"{target} is no method of tensors")
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
    return ... if kind == "ellipsis" else getattr(torch, inner)


def _given(value: Any) -> Any:
    return _linked(value, {})


def _layer_kind(name: str) -> type[nn.Module]:
    kind = _KINDS.get(name, getattr(nn, name, None))
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ValueError(f"{name} is no layer of torch.nn")
    return kind


def _function(name: str) -> Any:
    space, _, function = name.partition(":")
    if space == "attribute" and function in _ATTRIBUTES:
        return getattr
    if not _harmless(space, function) or not hasattr(_SPACES[space], function):
        raise ValueError(f"{name} is no function that computes on tensors")
    return getattr(_SPACES[space], function)


def _put(root: nn.Module, name: str, value: nn.Module | Tensor) -> None:
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
