"""Files as Caffe and pytorch-fcn write them; snapshots byte by byte, by the numbers in `caffe.proto`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fullyconv.models import FCN

Blobs = Sequence[NDArray[np.generic]]

# What the authors take from their images, of 0 to 255: blue, green, red, as in voc_layers.py, pascalcontext_layers.py,
# siftflow_layers.py and nyud_layers.py; HHA in the order of its files.
BGR_MEANS = {
    "voc": (104.00699, 116.66877, 122.67892),
    "pascal_context": (104.007, 116.669, 122.679),
    "siftflow": (114.578, 115.294, 108.353),
    "nyud": (116.190, 97.203, 92.318),
}
HHA_MEAN = (132.431, 94.076, 118.477)
LOG_DEPTH_MEAN = 7.844

THEIR_SCORES = {"stride32": "score_fr", "stride16": "score_pool4", "stride8": "score_pool3"}
THEIR_UPSCORES = {"stride32": "upscore2", "stride16": "upscore_pool4"}
LEAVES = ("weight", "bias")


def write_caffemodel(
    file: Path, layers: Mapping[str, Blobs], *, version: int = 2, legacy: bool = False, double: bool = False
) -> Path:
    """Writes the blobs of each layer by name.

    Args:
        file: Where to.
        layers: The blobs by layer.
        version: 1 writes `layers` messages, 2 `layer` messages.
        legacy: Whether blobs have num, channels, height and width in place of a shape.
        double: Whether values take 8 bytes.
    """
    net, name_of, blobs_of = {1: (2, 4, 6), 2: (100, 1, 7)}[version]
    content = _bytes(1, b"a net") + b"".join(
        _bytes(
            net, _bytes(name_of, name.encode()) + b"".join(_bytes(blobs_of, _blob(b, legacy, double)) for b in blobs)
        )
        for name, blobs in layers.items()
    )
    file.write_bytes(content)
    return file


def _blob(values: NDArray[np.generic], legacy: bool, double: bool) -> bytes:
    data = _bytes(8, values.astype("<f8").tobytes()) if double else _bytes(5, values.astype("<f4").tobytes())
    if legacy:
        sides = (1,) * (4 - values.ndim) + values.shape
        return b"".join(_varint(number << 3) + _varint(side) for number, side in enumerate(sides, start=1)) + data
    return _bytes(7, _bytes(1, b"".join(map(_varint, values.shape)))) + data


def _bytes(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def theirs(model: FCN) -> dict[str, Tensor]:
    """The weights of a network as Caffe and pytorch-fcn keep them: their names, BGR, dense kernels."""
    last = {32: "upscore", 16: "upscore16", 8: "upscore8"}[int(model.grids[0].stride)]
    names = {f"score_layers.{ours}": name for ours, name in THEIR_SCORES.items()}
    names |= {f"upscore_layers.{ours}": name for ours, name in (THEIR_UPSCORES | {"image": last}).items()}
    state = {}
    for name, tensor in model.state_dict().items():
        stem, _, leaf = name.rpartition(".")
        if leaf in LEAVES:
            layer = names.get(stem, stem.removeprefix("trunk."))
            tensor = tensor.flip(1) if layer in ("conv1_1", "conv1") and leaf == "weight" else tensor
            state[f"{layer}.{leaf}"] = dense(tensor) if layer.startswith("upscore") else tensor
    return state


def dense(kernels: Tensor) -> Tensor:
    """Kernels `(K, 1, k, k)` as `(K, K, k, k)`, zero from class to class."""
    wide = kernels.new_zeros(len(kernels), *kernels.shape)[:, :, 0]
    wide[range(len(kernels)), range(len(kernels))] = kernels[:, 0]
    return wide


def two_towered(towers: Sequence[FCN]) -> dict[str, Tensor]:
    """The weights of colours and HHA in one file: towers with a mark, one upsampling above them."""
    state = {}
    for mark, tower in zip(("color", "hha"), towers, strict=True):
        for name, tensor in theirs(tower).items():
            layer, _, leaf = name.rpartition(".")
            turned = tensor.flip(1) if mark == "hha" and name == "conv1_1.weight" else tensor  # HHA stands as ours does
            state[name if layer == "upscore" else f"{layer}{mark}.{leaf}"] = turned
    return state


def two_headed(state: Mapping[str, Tensor], semantic: int) -> dict[str, Tensor]:
    """Such weights with the scores of two heads apart, as those of SIFT Flow are."""
    split = {}
    for name, tensor in state.items():
        layer, _, leaf = name.rpartition(".")
        for head, block in {"sem": slice(semantic), "geo": slice(semantic, None)}.items():
            if layer.startswith("upscore"):
                split[f"{layer}_{head}.{leaf}"] = tensor[block, block]
            elif layer.startswith("score"):
                split[f"{layer}_{head}.{leaf}"] = tensor[block]
            else:
                split[name] = tensor
    return split


def saved(folder: Path, state: Mapping[str, object]) -> Path:
    """A file of `torch.save`."""
    torch.save(state, folder / "net.pth")
    return folder / "net.pth"


def snapshot(folder: Path, state: Mapping[str, Tensor]) -> Path:
    """The same weights as a snapshot of Caffe, in its oldest form."""
    layers: dict[str, list[NDArray[np.generic]]] = {}
    for name, tensor in state.items():
        layers.setdefault(name.rpartition(".")[0], []).append(tensor.numpy())
    return write_caffemodel(folder / "net.caffemodel", layers, version=1, legacy=True)
