"""Which maps of a network are scored: the last one of each stage, found from what its graph gives."""

import operator
from collections.abc import Mapping

from torch import fx

from fullyconv.surgery.graphs import Size, Value, ancestors, channels_last, survey, turned
from fullyconv.surgery.tracing import scope_of


def taps_of(
    network: fx.GraphModule, size: Size, channels: int, score: str, layers: Mapping[int, str]
) -> dict[int, fx.Node]:
    """The tap of each stride: what enters the module that halves the resolution; the coarsest feeds the score layer."""
    values, _ = survey(network, size, channels)
    nodes = {str(node.target): node for node in network.graph.nodes if node.op == "call_module"}
    coarsest = nodes[score].all_input_nodes[0]
    taps = {values[entering].stride: entering for entering in _entering(values, ancestors(coarsest))}
    chosen = {stride: _output_of(name, network.graph) for stride, name in layers.items()}
    taps |= {values[coarsest].stride: coarsest, **chosen}
    return {stride: turned(tap) if channels_last(values[tap]) else tap for stride, tap in taps.items()}


def _output_of(module: str, graph: fx.Graph) -> fx.Node:
    path = tuple(module.split("."))
    inside: list[fx.Node] = [node for node in graph.nodes if scope_of(node)[: len(path)] == path]
    return inside[-1]


def _entering(values: Mapping[fx.Node, Value], below: set[fx.Node]) -> list[fx.Node]:
    """The maps that enter modules which give coarser ones; of each stride, the best choice comes last.

    That is the outermost module that halves it, and of several the latest; one that quarters it will do at need.
    """
    members: dict[tuple[str, ...], list[fx.Node]] = {}
    for node, value in values.items():
        if value.cells and node in below and node.op != "placeholder":
            scope = scope_of(node)
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
