"""Whether a network still is what it was when a runtime made a copy of it, and which one it is."""

import hashlib
import operator
from typing import Any

import numpy as np
from torch import Tensor, dtype, int16, int32, int64, nn, uint8

WHOLE = 256  # numbers that a tensor may have to be looked at as a whole
SAMPLED = 32  # numbers that are looked at of a larger one
WORDS: dict[int, dtype] = {1: uint8, 2: int16, 4: int32, 8: int64}  # by their bytes: as these NaN equals itself


class Weights:
    """What a network is made of at a time: its layers, its tensors, where those lie and what they hold.

    Optimisers that are fused and changes by way of `.data` leave no other trace than other numbers. Those of tensors up
    to 256 are all looked at, and 32 or more that are spread evenly over each larger tensor: a change of few weights in
    a large layer by way of `.data` may be missed, but no change of all of them, and none that torch counts.

    Args:
        model: Its tensors are not copied, but are kept for as long as this is.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parts = _parts(model)
        self._tensors = [part for part in self._parts if isinstance(part, Tensor)]
        self._counted = [tensor for tensor in self._tensors if not tensor.is_inference()]
        self._samples = [_sample(tensor) for tensor in self._tensors if tensor.device.type == "cpu" and tensor.numel()]
        self._state = self._now()

    def are_those_of(self, model: nn.Module) -> bool:
        """Whether a network is still made of the same; for a resnet50 in 0.3 ms, or 1 ms out of the cache."""
        parts = _parts(model)
        same = len(parts) == len(self._parts) and all(map(operator.is_, parts, self._parts))
        return same and self._now() == self._state

    def _now(self) -> tuple[Any, ...]:
        places = [tensor.data_ptr() for tensor in self._tensors]
        return places, [tensor._version for tensor in self._counted], [sample.tobytes() for sample in self._samples]


def digest(model: nn.Module) -> str:
    """SHA-256 of a network's weights and buffers."""
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().numpy())
    return found.hexdigest()


def _parts(model: nn.Module) -> list[nn.Module | Tensor | None]:
    """The layers of a network, and its tensors; gone through by hand in a third of the time of `modules`."""
    layers: list[nn.Module] = [model]
    tensors: list[Tensor | None] = []
    for layer in layers:
        layers.extend(child for child in layer._modules.values() if child is not None)
        tensors.extend(layer._parameters.values())
        tensors.extend(layer._buffers.values())
    return [*layers, *tensors]


def _sample(tensor: Tensor) -> np.ndarray[Any, Any]:
    """Some numbers of a tensor, as a view, in the order in which they lie in memory."""
    sides = zip(tensor.shape, tensor.stride(), strict=True)
    extent = 1 + sum((side - 1) * stride for side, stride in sides)
    step = 1 if extent <= WHOLE else extent // SAMPLED | 1  # odd, so that it does not keep to one channel
    spread = tensor.detach().as_strided((-(-extent // step),), (step,))
    return spread.view(WORDS[tensor.itemsize]).numpy()
