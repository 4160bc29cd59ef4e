"""The whole way from pixels to labels as one graph for images of every size."""

import copy
import warnings
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.utils._sympy.value_ranges import ValueRanges

from fullyconv import images
from fullyconv.errors import FullyconvError
from fullyconv.kernels.reference import label_dtype
from fullyconv.models import FCN

Pixels = Literal["uint8", "float"]
Output = Literal["labels", "logits"]

TRACED = (2, 117, 149)  # images, height and width; in the graph all three are free
TRIED = ((37, 53), (64, 64), (101, 75))


class Pipeline(nn.Module):
    """Images as decoders give them to label maps or logits: layout, range, normalisation, padding, crop and all.

    Args:
        model: A copy of it is computed with, on the CPU.
        output: `labels`, class indices in the smallest unsigned type, `logits`, or the coarse `scores`.
        bf16: Whether convolutions compute in bfloat16.
    """

    def __init__(self, model: FCN, *, output: Output | Literal["scores"], bf16: bool = False) -> None:
        super().__init__()
        plain = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format)
        self.model: FCN = plain.requires_grad_(False)
        self.output = output
        self.bf16 = bf16
        self.eval()

    def forward(self, image: Shaped[Tensor, "n height width c"]) -> Tensor:
        """Labels `(N, H, W)`, or logits `(N, K, H, W)` or scores `(N, K, h, w)` in float32, of images `(N, H, W, C)`.

        Args:
            image: uint8, or float in [0, 1].
        """
        bands_first = image.permute(0, 3, 1, 2)
        pixels = bands_first.float() / 255 if image.dtype == torch.uint8 else bands_first
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
            values: Tensor = self.model.scores(pixels).float() if self.output == "scores" else self.model(pixels)
        return values.argmax(1).to(label_dtype(self.model.num_classes)) if self.output == "labels" else values

    def example(self, count: int, height: int, width: int, pixels: Pixels) -> Tensor:
        """Images of noise, the same in every run."""
        shape = (count, height, width, self.model.mean.shape[1])
        noise = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        return noise if pixels == "uint8" else noise / 255


def as_input(image: Shaped[Tensor, "c h w"], pixels: Pixels) -> np.ndarray[Any, Any]:
    """A picture `(1, H, W, C)` as the graph takes it; one of more than 8 bits is rounded to them for `uint8`."""
    if pixels == "float":
        image = images.to_float(image)
    elif image.dtype != torch.uint8:
        image = (image * 255).round().to(torch.uint8)
    return np.ascontiguousarray(image.permute(1, 2, 0)[None].numpy())


def traced(pipeline: Pipeline, pixels: Pixels) -> torch.export.ExportedProgram:
    """The graph of a pipeline, for any number of images, any height and any width.

    Raises:
        FullyconvError: SEG-X003 if the network decides by the size of the image what it computes.
    """
    free = torch.export.Dim.DYNAMIC
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's and timm's own, about deprecated calls within the trace
            program = torch.export.export(
                pipeline,
                (pipeline.example(*TRACED, pixels),),
                dynamic_shapes={"image": {0: free, 1: free, 2: free}},
                # A condition on the size is checked when the graph runs, instead of refused now.
                prefer_deferred_runtime_asserts_over_guards=True,
            )
    except Exception as error:  # torch.export raises whatever the traced code met
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise not_exportable(reason) from error
    _freed(program)
    return program


def _freed(program: torch.export.ExportedProgram) -> None:
    """Takes from a graph the conditions that torch found while tracing, changing it.

    They say that no map is a single cell wide, for which torch has other strides and one graph the same numbers.
    """
    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten._assert_scalar.default:
            program.graph.erase_node(node)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()
    program._guards_code = []
    for symbol, sizes in program.range_constraints.items():
        program.range_constraints[symbol] = ValueRanges(1, sizes.upper)


def not_exportable(reason: str) -> FullyconvError:
    """SEG-X003: no graph computes what the network computes at every size."""
    return FullyconvError(
        "SEG-X003",
        f"the network cannot be exported for images of every size ({reason}); train one over a trunk that does not "
        "look at its input's size, such as fcn8s-resnet18 or fcn8s-mobilenetv3_small_100",
    )
