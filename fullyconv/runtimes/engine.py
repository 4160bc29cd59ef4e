"""The engine: one network's coarse scores, by the runtime that was asked for, remembered or found fastest."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from fullyconv.errors import FullyconvError
from fullyconv.kernels import reference_forced
from fullyconv.models import FCN
from fullyconv.runtimes.choice import fastest, remembered
from fullyconv.runtimes.computing import Computing, Running, Runtime, of_int8, refuse_impossible, start
from fullyconv.runtimes.formats import Array, Precision
from fullyconv.runtimes.graphs import Graphs
from fullyconv.runtimes.weights import Weights


class Engine:
    """Computes the coarse scores of a network by a runtime, which starts at the first image.

    In fp32 every runtime gives what the network gives up to rounding, within 1e-4 of the largest score. On GPUs torch
    rounds what convolutions read to 10 bits of mantissa, in TF32, while `torch.backends.cudnn.allow_tf32` is on, as it
    is at first: there the scores of a tile may differ by more than that from those of the whole image.

    Weights are packed or compiled as they are when a runtime starts; it starts again when the network has changed, as
    far as `Weights` sees.

    Args:
        model: In evaluation mode whenever the engine computes.
        runtime: `auto` is what the folder remembers for this machine, else `packed` where the network can be packed,
            else `torch`, which is also what computes on GPUs; `fastest` times all that are installed on the first
            image and remembers the winner. In int8 OpenVINO or ONNX Runtime computes.
        precision: What convolutions compute in.
        folder: The model folder, where the fastest runtime is remembered, and graphs for others are kept.
        calibration: Images `(1, H, W, C)` in [0, 1] to measure the ranges of int8 on; if left out, the folder has to
            keep the network in int8.

    Raises:
        FullyconvError: SEG-U009 if a package is missing that the runtime needs, SEG-X001 for a precision that the
            runtime or the processor has not.
    """

    def __init__(
        self,
        model: FCN,
        runtime: Runtime = "auto",
        precision: Precision = "fp32",
        *,
        folder: Path | None = None,
        calibration: Sequence[Array] | None = None,
    ) -> None:
        refuse_impossible(runtime, precision)
        self.model = model
        self.runtime = runtime
        self.precision = precision
        self.folder = folder
        self._graphs = Graphs(folder, calibration)
        self._weights = Weights(model)
        self._running: Running | None = None

    def scores(self, image: Float[Tensor, "n c height width"]) -> Float[Tensor, "n k h w"]:
        """The coarse scores on the network's grid, in float32.

        Args:
            image: In [0, 1], on the network's device.

        Raises:
            FullyconvError: SEG-P020 if the runtime cannot compute this network, SEG-P005 if its weights hold NaN,
                SEG-X002 for int8 without images to measure its ranges on.
        """
        if reference_forced():
            return self.model.scores(image).float()
        # The plain network has no copy that could be out of date.
        if self._running is not None and (self.chosen == "torch" or self._weights.are_those_of(self.model)):
            return self._running.compute(image)
        self._weights = Weights(self.model)
        self._running = self._start(image)
        return self._running.first

    def to_json(self) -> dict[str, str]:
        """`{"name", "precision"}` of what computes, or before the first image, of what was asked for."""
        if reference_forced():
            return {"name": "torch", "precision": "fp32"}
        return {"name": self.chosen or self.runtime, "precision": self.precision}

    @property
    def chosen(self) -> Computing | None:
        """The runtime that computes; none before the first image."""
        if reference_forced():
            return "torch"
        return None if self._running is None else self._running.runtime

    def _start(self, image: Tensor) -> Running:
        self._refuse_nan()
        if self.runtime == "fastest":
            return fastest(self.model, image, self.precision, self._graphs)
        faults = []
        for runtime in self._preferred(image) if self.runtime == "auto" else [self.runtime]:
            try:
                return start(runtime, self.model, self.precision, image, self._graphs)
            except FullyconvError as fault:  # the next one may do
                faults.append(fault)
        raise faults[0]

    def _refuse_nan(self) -> None:
        """Raises SEG-P005 for weights that are no numbers: the activations of some runtimes make zeros of them."""
        named = chain(self.model.named_parameters(), self.model.named_buffers())
        lost = next((name for name, tensor in named if bool(tensor.isnan().any())), None)
        if lost is not None:
            raise FullyconvError(
                "SEG-P005", f"the network's weights hold NaN, first in {lost}; load another checkpoint"
            )

    def _preferred(self, image: Tensor) -> list[Computing]:
        """What `auto` tries, in turn."""
        if self.precision != "int8" and image.device.type != "cpu":
            return ["torch"]
        known = remembered(self.folder, self.precision)
        others: list[Computing] = [*of_int8()] if self.precision == "int8" else ["packed", "torch"]
        return others if known is None else [known, *others]
