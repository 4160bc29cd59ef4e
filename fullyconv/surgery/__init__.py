"""Operations on networks: any classifier made to slide, weights moved from net to net, the grid of any layer."""

from fullyconv.surgery.conversion import DenseClassifier, convolutionalize
from fullyconv.surgery.description import build, describe
from fullyconv.surgery.graphs import NotConvertible
from fullyconv.surgery.layers import (
    Transplant,
    bilinear_kernel,
    conv_to_linear,
    linear_to_conv,
    transplant,
    twin,
    with_bands,
)
from fullyconv.surgery.tracing import Call, Trace, blueprint, place_on, trace

__all__ = [
    "Call",
    "DenseClassifier",
    "NotConvertible",
    "Trace",
    "Transplant",
    "bilinear_kernel",
    "blueprint",
    "build",
    "conv_to_linear",
    "convolutionalize",
    "describe",
    "linear_to_conv",
    "place_on",
    "trace",
    "transplant",
    "twin",
    "with_bands",
]
