"""Each runtime: how it is made of a network, and what it refuses."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fullyconv.errors import FullyconvError
from fullyconv.models import FCN
from fullyconv.runtimes.formats import NEEDED, Format, Precision, require
from fullyconv.runtimes.graphs import FORMATS, Graphs
from fullyconv.runtimes.packed import FloatPrecision, NotPackable, Scores, packed

Computing = Literal["torch", "packed", "compile", "onnx", "openvino"]
Runtime = Literal["auto", "torch", "packed", "compile", "onnx", "openvino", "fastest"]

ON_GPUS = ("torch", "compile")
ANOTHER = "--runtime auto takes one that can"


@dataclass(frozen=True)
class Running:
    """A network in a runtime that has computed a first image.

    Args:
        runtime: Its name.
        compute: The coarse scores of images `(N, C, H, W)` in [0, 1], in float32.
        first: Those of the first image.
    """

    runtime: Computing
    compute: Scores
    first: Tensor


def refuse_impossible(runtime: Runtime, precision: Precision) -> None:
    """Raises SEG-X001 for a precision that is not there, SEG-U009 for a missing package."""
    if precision == "bf16" and runtime == "onnx":
        raise FullyconvError("SEG-X001", "--runtime onnx has no --precision bf16; take --runtime openvino or packed")
    if precision == "bf16" and not has_bf16():
        raise FullyconvError("SEG-X001", "this processor does not compute in bf16; leave --precision bf16 out")
    if precision == "int8" and runtime in ("torch", "packed", "compile"):
        raise FullyconvError(
            "SEG-X001", f"--runtime {runtime} has no --precision int8; take --runtime openvino or onnx"
        )
    if runtime in ("onnx", "openvino"):
        require(runtime, option="--runtime")
    elif precision == "int8" and not of_int8():
        require("openvino", option="--precision int8 by")


def has_bf16() -> bool:
    """Whether convolutions compute in bf16 here."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def of_int8() -> list[Format]:
    """The runtimes of int8 that are installed, the faster first."""
    return [format for format in FORMATS if all(map(find_spec, NEEDED[format]))]


def start(runtime: Computing, model: FCN, precision: Precision, image: Tensor, graphs: Graphs) -> Running:
    """A network in a runtime, with the scores of an image.

    Args:
        runtime: What computes.
        model: In evaluation mode.
        precision: What convolutions compute in.
        image: As `FCN.scores` takes it.
        graphs: Where the network's graphs come from.

    Raises:
        FullyconvError: SEG-P020 if the runtime cannot compute the network, SEG-X002 for int8 without images to measure
            its ranges on.
    """
    if image.device.type != "cpu" and runtime not in ON_GPUS:
        asked = "--precision int8" if precision == "int8" else f"--runtime {runtime}"
        raise FullyconvError("SEG-P020", f"{asked} computes on the CPU, and the network is on a GPU; leave it out")
    if runtime in ("onnx", "openvino"):
        compute = _by_graph(runtime, model, precision, graphs)
    else:
        assert precision != "int8", "refused before"
        compute = _MAKERS[runtime](model, precision)
    return Running(runtime, compute, compute(image))


def _plain(model: FCN, precision: FloatPrecision) -> Scores:
    def scores(image: Tensor) -> Tensor:
        with torch.autocast(image.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            return model.scores(image).float()

    return scores


def _packed(model: FCN, precision: FloatPrecision) -> Scores:
    try:
        return packed(model, precision=precision)
    except NotPackable as error:
        raise _refused("packed", str(error)) from error


def _compiled(model: FCN, precision: FloatPrecision) -> Scores:
    """The network with its trunks compiled; the rest goes by the size of the image, and would break a graph."""
    memo: dict[int, Any] = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    for part in model.modules():
        if isinstance(part, FCN) and "trunk" in part._modules:
            memo[id(part.trunk)] = torch.compile(part.trunk)
    compute = _plain(copy.deepcopy(model, memo), precision)

    def scores(image: Tensor) -> Tensor:
        try:
            return compute(image)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise _refused("compile", str(error)) from error

    return scores


def _by_graph(format: Literal["onnx", "openvino"], model: FCN, precision: Precision, graphs: Graphs) -> Scores:
    cure = "leave --precision int8 out" if precision == "int8" else ANOTHER
    try:
        run = graphs.opened(model, format, precision)
    except Exception as error:  # exporters and runtimes have their own
        if isinstance(error, FullyconvError) and error.code != "SEG-X003":
            raise
        raise _refused(format, error.message if isinstance(error, FullyconvError) else str(error), cure) from error

    def scores(image: Tensor) -> Tensor:
        pixels = np.ascontiguousarray(image.permute(0, 2, 3, 1).numpy())
        try:
            return torch.from_numpy(run(pixels))
        except MemoryError:  # says nothing against the runtime: smaller tiles may do
            raise
        except Exception as error:
            raise _refused(format, str(error), cure) from error

    return scores


def _refused(runtime: Computing, reason: str, cure: str = ANOTHER) -> FullyconvError:
    shown = next(iter(reason.splitlines()), "")[:200]
    return FullyconvError("SEG-P020", f"--runtime {runtime} cannot compute this network ({shown}); {cure}")


_MAKERS: dict[Computing, Callable[[FCN, FloatPrecision], Scores]] = {
    "torch": _plain,
    "packed": _packed,
    "compile": _compiled,
}
