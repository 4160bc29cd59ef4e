"""Each runtime: how it is made of a network, and what it refuses."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fullyconv.errors import FullyconvError
from fullyconv.models import FCN
from fullyconv.runtimes.formats import NEEDED, SUFFIXES, Format, Precision, Run, opened, require, write
from fullyconv.runtimes.packed import FloatPrecision, NotPackable, Scores, packed
from fullyconv.runtimes.pipeline import Pipeline, traced
from fullyconv.runtimes.quantized import FORMATS, Int8

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


def start(runtime: Computing, model: FCN, precision: Precision, image: Tensor, int8: Int8) -> Running:
    """A network in a runtime, with the scores of an image.

    Args:
        runtime: What computes.
        model: In evaluation mode.
        precision: What convolutions compute in.
        image: As `FCN.scores` takes it.
        int8: Where that form of the network comes from.

    Raises:
        FullyconvError: SEG-P020 if the runtime cannot compute the network, SEG-X002 for int8 without images to measure
            its ranges on.
    """
    if image.device.type != "cpu" and runtime not in ON_GPUS:
        raise FullyconvError(
            "SEG-P020", f"--runtime {runtime} computes on the CPU, and the network is on a GPU; leave it out"
        )
    compute = _in_int8(runtime, model, int8) if precision == "int8" else _MAKERS[runtime](model, precision)
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


def _exported(format: Literal["onnx", "openvino"], model: FCN, precision: FloatPrecision) -> Scores:
    # Windows does not delete a file that a runtime has mapped.
    with _refusing(format), TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = Path(folder) / f"model{SUFFIXES[format]}"
        write(traced(Pipeline(model, output="scores"), "float"), file, format, {})
        return _scores(opened(file, format, precision))


def _in_int8(format: Computing, model: FCN, int8: Int8) -> Scores:
    assert format in FORMATS, "refused before"
    with _refusing(format, cure="leave --precision int8 out"):
        return _scores(int8.opened(model, format))


@contextmanager
def _refusing(format: Format, cure: str = ANOTHER) -> Iterator[None]:
    """Raises SEG-P020 for what exporters and runtimes raise, which have their own errors."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, FullyconvError):
            raise _refused(format, str(error), cure) from error
        if error.code != "SEG-X003":  # that its graph cannot be made
            raise
        raise _refused(format, error.message, cure) from error


def _scores(run: Run) -> Scores:
    return lambda image: torch.from_numpy(run(np.ascontiguousarray(image.permute(0, 2, 3, 1).numpy())))


def _refused(runtime: Runtime | Format, reason: str, cure: str = ANOTHER) -> FullyconvError:
    shown = next(iter(reason.splitlines()), "")[:200]
    return FullyconvError("SEG-P020", f"--runtime {runtime} cannot compute this network ({shown}); {cure}")


_MAKERS: dict[Computing, Callable[[FCN, FloatPrecision], Scores]] = {
    "torch": _plain,
    "packed": _packed,
    "compile": _compiled,
    "onnx": lambda model, precision: _exported("onnx", model, precision),
    "openvino": lambda model, precision: _exported("openvino", model, precision),
}
