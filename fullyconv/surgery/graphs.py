"""The graph of a network: how it is traced, what its nodes give and where they stand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.models._features_fx import get_notrace_functions, get_notrace_modules
from timm.models.vgg import ConvMlp as HiddenLayers
from torch import Tensor, fx, nn

from fullyconv.surgery.tracing import blueprint, place_of, scope_of, watched

Size = tuple[int, int]


class NotConvertible(ValueError):  # noqa: N818 - it says what the network is
    """A network that cannot be made to slide; its message names the layer and says why."""


_WHOLE_OF_TIMM = ("timm.layers.drop", "timm.layers.norm")
_CONTAINERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)


_DROPOUTS: dict[object, type[nn.Module]] = {
    torch.dropout: nn.Dropout,
    F.dropout: nn.Dropout,
    F.dropout2d: nn.Dropout2d,
    F.alpha_dropout: nn.AlphaDropout,
}


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


def traced(classifier: nn.Module) -> fx.GraphModule:
    """The graph of a classifier as it runs in evaluation; dropout and batch norms still follow the mode."""
    training, tracer = classifier.training, _Tracer()
    classifier.eval()
    try:
        graph = tracer.trace(classifier)
        network = fx.GraphModule(classifier, graph, type(classifier).__name__)
    except Exception as error:  # whatever a forward pass may raise when it is handed a stand-in for a tensor
        where = f"layer {tracer.failed}" if tracer.failed else "its forward pass"
        raise NotConvertible(
            f"{where} cannot be traced, as what it computes depends on the image: {_first_line(error)}"
        ) from error
    finally:
        classifier.train(training)
    _let_dropout_follow(network)
    for node in graph.nodes:
        if node.op == "get_attr":  # what the graph reads must come back with its weights
            parent, _, leaf = str(node.target).rpartition(".")
            network.get_submodule(parent)._non_persistent_buffers_set.discard(leaf)
    return network


def _let_dropout_follow(network: fx.GraphModule) -> None:
    """Makes layers of dropout that the forward pass calls as a function, which was traced as it is in evaluation."""
    for node in network.graph.nodes:
        kind = _DROPOUTS.get(node.target)
        given = {**dict(zip(("input", "p", "train"), node.args, strict=False)), **node.kwargs}
        if kind is None or given.get("train") or given.get("training"):  # dropped in evaluation, too
            continue
        name = ".".join((*scope_of(node), f"functional_{node.name}"))
        network.add_submodule(name, kind(given["p"]))
        with network.graph.inserting_before(node):
            node.replace_all_uses_with(network.graph.call_module(name, (given["input"],)))
        network.graph.erase_node(node)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


@dataclass(frozen=True)
class Value:
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
        self.values: dict[fx.Node, Value] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            place = place_of(result)
            self.values[n] = Value(result.shape, place.size, int(place.grid.stride)) if place else Value(result.shape)
        return result


@torch.no_grad()
def survey(network: fx.GraphModule, size: Size, channels: int) -> tuple[dict[fx.Node, Value], list[str]]:
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


def function_of(network: fx.GraphModule, node: fx.Node) -> str:
    """What a node computes: a layer's class, or the name of a function or method."""
    if node.op == "call_module":
        return type(network.get_submodule(str(node.target))).__name__
    return str(getattr(node.target, "__name__", node.target))


def named(node: fx.Node) -> str:
    """How to call a node in a message: by the layer that it is or runs in, or else the last one before it."""
    if scope_of(node):
        return f"layer {'.'.join(scope_of(node))}"
    source = node
    while source.all_input_nodes and not scope_of(source):
        source = source.all_input_nodes[0]
    return f"its {node.name}" + (f" behind layer {'.'.join(scope_of(source))}" if scope_of(source) else "")


def ancestors(node: fx.Node) -> set[fx.Node]:
    found, waiting = {node}, [node]
    while waiting:
        for source in waiting.pop().all_input_nodes:
            if source not in found:
                found.add(source)
                waiting.append(source)
    return found


def channels_last(value: Value) -> bool:
    return value.cells is not None and tuple(value.shape[2:]) != value.cells


def turned(node: fx.Node) -> fx.Node:
    """A new node behind one that gives a map with its channels last: the same map, channels first."""
    with node.graph.inserting_after(node):
        name = f"{node.name}_channels_first"
        return node.graph.create_node("call_method", "permute", (node, 0, 3, 1, 2), name=name)


def cut(network: fx.GraphModule, taps: Sequence[fx.Node]) -> fx.GraphModule:
    """The network up to some nodes, whose values it gives as a list."""
    (output,) = (node for node in network.graph.nodes if node.op == "output")
    output.args = (list(taps),)
    network.graph.eliminate_dead_code()
    network.delete_all_unused_submodules()
    network.recompile()
    return network
