"""A network as a graph for another runtime, in int8 too: made once, and kept in its model folder."""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from torch import fx

from fullyconv.artefact import GRAPHS
from fullyconv.errors import FullyconvError
from fullyconv.models import FCN
from fullyconv.runtimes.formats import SUFFIXES, Array, Format, Precision, Run, opened, place, require, write
from fullyconv.runtimes.pipeline import Pipeline, traced
from fullyconv.runtimes.weights import digest
from fullyconv.wording import counted

WRITTEN = 2  # raised whenever the graph of the same network would be another; older ones count no longer
FORMATS: tuple[Literal["openvino", "onnx"], ...] = ("openvino", "onnx")  # in int8 the first is the faster


@dataclass(frozen=True)
class Graphs:
    """Where the graphs of a network come from.

    Args:
        folder: The model folder, which keeps them; none keeps nothing.
        calibration: Images `(1, H, W, C)` in [0, 1], to measure on them what 8 bits have to stand for; if left out, the
            graph in int8 is the one that the folder keeps.
    """

    folder: Path | None = None
    calibration: Sequence[Array] | None = None

    def opened(self, model: FCN, format: Format, precision: Precision) -> Run:
        """The coarse scores `(N, K, h, w)` of images `(N, H, W, C)` in [0, 1], by the runtime of a format.

        Raises:
            FullyconvError: SEG-X002 for int8 if there are no images and the folder keeps no graph of this network that
                can be read, SEG-X003 if the network has no graph for every size, SEG-U009 if nncf is missing.
        """
        images = self.calibration if precision == "int8" else None
        kept, fault = self._place(model, format, precision), ""
        if images is None and kept is not None and kept.exists():
            try:
                return opened(kept, format, precision)
            except Exception as error:  # each runtime has its own
                fault = f"{kept} cannot be read ({' '.join(str(error).split())[-160:]})"
        if precision == "int8" and images is None:
            fault = fault or ("" if kept is None else f"{kept.parent} keeps none of this network for {format}")
            raise FullyconvError(
                "SEG-X002",
                "int8 needs images like those to come, to measure its ranges on; say --calibrate DATA"
                + (f" ({fault})" if fault else ""),
            )
        if images is not None and format == "openvino":
            require(format, "nncf", option="--precision int8 by")
        with TemporaryDirectory(ignore_cleanup_errors=True) as scratch:  # Windows deletes no file that is mapped
            file = Path(scratch) / f"model{SUFFIXES[format]}"
            ranges = "" if images is None else f", with ranges for int8 from {counted(len(images), 'image')}"
            print(f"writing the network for {format}{ranges}{'' if kept is None else ', once'}", file=sys.stderr)
            write(traced(Pipeline(model, output="scores"), "float"), file, format, {}, images)
            if kept is not None:
                try:
                    place(file, kept)
                except OSError as error:  # it is computed with all the same
                    print(f"{kept.parent} cannot keep it: {error.strerror}", file=sys.stderr)
            return opened(file, format, precision)

    def discard(self, model: FCN, format: Format, precision: Precision) -> None:
        """Removes what the folder keeps of a network in a format, if it can be removed."""
        kept = self._place(model, format, precision)
        if kept is None:
            return
        try:
            for part in (kept, *([kept.with_suffix(".bin")] if format == "openvino" else [])):
                part.unlink(missing_ok=True)
        except OSError as error:  # it is in nobody's way
            print(f"{kept} stays: {error.strerror}", file=sys.stderr)

    def _place(self, model: FCN, format: Format, precision: Precision) -> Path | None:
        """Where the folder keeps a graph of just this network."""
        if self.folder is None:
            return None
        numbers = "int8" if precision == "int8" else "fp32"  # of which OpenVINO computes bf16 as well
        key = hashlib.sha256(f"{WRITTEN} {_made_of(model)}".encode()).hexdigest()[:12]
        return self.folder / f"{GRAPHS}{numbers}-{key}{SUFFIXES[format]}"


def _made_of(model: FCN) -> str:
    """What a network's scores come from: its layers with their settings, how these are put together, and its weights.

    Settings are those that layers show, grids and scales among them.
    """
    codes = [part.code for part in model.modules() if isinstance(part, fx.GraphModule)]
    return f"{model} {codes} {digest(model)}"
