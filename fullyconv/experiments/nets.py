"""Table 1: the time, depth, size and receptive field of the three nets, without any training."""

import statistics
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from fullyconv.experiments.findings import Findings, Row
from fullyconv.experiments.workbench import Workbench
from fullyconv.models import FCN, create
from fullyconv.timing import interleaved

CLASSES = 21
LAST_POOL = 7  # GoogLeNet's average pool, which section 4.1 discards

# Table 1: forward time on a K40c in ms, convolution layers, parameters in millions, receptive field, greatest stride.
PAPER: dict[str, tuple[float, ...]] = {
    "fcn32s-alexnet": (50, 8, 57, 355, 32),
    "fcn32s-vgg16": (210, 16, 134, 404, 32),
    "fcn32s-googlenet": (59, 22, 6, 907, 32),
}
MEASURES = (
    ("forward time", "ms"),
    ("conv. layers", ""),
    ("parameters", "M"),
    ("receptive field", "px"),
    ("stride", "px"),
)


def table1(bench: Workbench) -> Findings:
    """The nets in Caffe's geometry on an image of 500 x 500 pixels."""
    return measure_nets(bench, PAPER, size=500, rounds=20)


def measure_nets(bench: Workbench, paper: Mapping[str, tuple[float, ...]], *, size: int, rounds: int) -> Findings:
    """The rows of table 1.

    Args:
        bench: Keeps what is measured.
        paper: The numbers of each net, in the order of `MEASURES`.
        size: Height and width of the image.
        rounds: Forward passes of each net, if the time allows.
    """
    measured = bench.part("nets", _measured, bench, list(paper), size, rounds)
    rows = []
    for net, told in paper.items():
        times = [1000 * seconds for seconds in measured[net]["seconds"]]
        ours = (statistics.median(times), *measured[net]["numbers"])
        rows += [
            Row(net, measure, value, unit, theirs)
            for (measure, unit), value, theirs in zip(MEASURES, ours, told, strict=True)
        ]
    return Findings(tuple(rows), conclusion(rows), _conditions(measured, size))


def conclusion(rows: list[Row]) -> str:
    """Which of the paper's numbers ours bear out."""
    times = [row for row in rows if row.measure == "forward time"]
    order = [row.label for row in sorted(times, key=lambda row: row.ours)]
    theirs = [row.label for row in sorted(times, key=lambda row: row.paper or 0)]
    others = [row for row in rows if row.measure != "forward time" and row.paper is not None]
    apart = [row for row in others if round(row.ours) != row.paper]
    same = f"{len(others) - len(apart)} of {len(others)} numbers that do not depend on the machine equal the paper's"
    except_for = "; ".join(f"{row.label} has {row.measure} {row.ours:.0f} for {row.paper:.0f}" for row in apart)
    ranks = "as in the paper" if order == theirs else f"which in the paper are {', '.join(theirs)}"
    return (
        f"{same}{f' ({except_for})' if except_for else ''}; from fast to slow the nets are {', '.join(order)}, {ranks}."
    )


def conv_layers(net: FCN) -> int:
    """The convolutions that an image goes through one after the other, fully connected ones and the score included."""
    depth: dict[Any, int] = {}
    for node in net.trunk.graph.nodes:  # type: ignore[union-attr]
        before = max((depth[source] for source in node.all_input_nodes), default=0)
        layer = net.trunk.get_submodule(node.target) if node.op == "call_module" else None
        depth[node] = before + isinstance(layer, nn.Conv2d)
    return max(depth.values()) + 1


def _measured(bench: Workbench, names: list[str], size: int, rounds: int) -> dict[str, Any]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    nets = {}
    for name in names:
        bench.say(f"building {name}")
        nets[name] = create(name, CLASSES, geometry="caffe").eval().to(device)
    image = torch.rand(1, 3, size, size, device=device)
    bench.say(f"timing them on {size} x {size} pixels, in turns")
    with torch.no_grad():
        works = {name: lambda net=net: net(image) for name, net in nets.items()}
        seconds = interleaved(works, seconds=0.8 * bench.seconds_left(), rounds=rounds)
    return {name: {"seconds": seconds[name], **_numbers(net)} for name, net in nets.items()}


def _numbers(net: FCN) -> dict[str, Any]:
    parameters = sum(parameter.numel() for parameter in net.parameters()) / 1e6
    grid = net.coarsest
    return {
        "numbers": [conv_layers(net), parameters, int(grid.field), int(grid.stride)],
        "field_with_pool": int(grid.convolve(LAST_POOL).field),
    }


def _conditions(measured: Mapping[str, Any], size: int) -> dict[str, Any]:
    conditions: dict[str, Any] = {
        "image": f"{size} x {size} pixels",
        "time": f"median of {min(len(entry['seconds']) for entry in measured.values())} forward passes, in turns; the "
        "paper's on a Tesla K40c",
        "geometry": "caffe",
    }
    if "fcn32s-googlenet" in measured:
        field = measured["fcn32s-googlenet"]["field_with_pool"]
        conditions["receptive field"] = (
            f"derived from the layers; GoogLeNet's is {field} px with the last average pool, which table 1 counts and "
            "section 4.1 discards"
        )
    return conditions
